"""Sound in: bytes to decoded samples, to the model's rate, to windows. Pure: no clock, no await, no socket."""
