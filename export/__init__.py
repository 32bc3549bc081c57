"""From a checkpoint to a bundle: the torch side of Sonotag. The service never imports it."""
