"""The commands of `sonotag`, one a module: `add_arguments(parser)` and `run(args) -> int`, the exit code."""
