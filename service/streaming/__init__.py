"""The live protocol: its messages and its state machine, without I/O."""
