"""What stops an export, one tree. Each ends the command with one line and its own exit code.

::

    ExportError                 1
    ├── CheckpointError         3   the checkpoint cannot be read, or is not what can be exported
    ├── ParityError             4   a graph was made, and its numbers are not the checkpoint's
    └── TargetError             5   the bundle or checkpoint cannot be written where it was asked for

A wrong argument is 2, as argparse has it.
"""

from __future__ import annotations


class ExportError(Exception):
    """The root: everything this package raises on purpose. Its message is one line."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class CheckpointError(ExportError):
    """The checkpoint is missing, broken, unsafe to read, or of another architecture."""

    exit_code = 3


class ParityError(ExportError):
    """The exported graph does not give the checkpoint's numbers within the limits."""

    exit_code = 4


class TargetError(ExportError):
    """The output folder cannot be written, or holds something that is not ours to replace."""

    exit_code = 5
