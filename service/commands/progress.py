"""The progress bar of long work: on standard error, and only where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar:
    """Shows how many of some pieces of work are done; a context manager.

    Args:
        num_pieces: How many there are.

    Attributes:
        is_shown: Whether somebody sees it.
    """

    def __init__(self, num_pieces: int) -> None:
        self._fractions: dict[int, float] = {}
        self.is_shown = sys.stderr.isatty()
        self._progress = Progress(
            TextColumn("{task.fields[piece]}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            # rich would send standard output to where the bar is: into the terminal, not into the pipe.
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not self.is_shown,
        )
        self._task = self._progress.add_task("", total=num_pieces, piece="loading the model")

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, index: int, name: str, fraction: float) -> None:
        """Show how far a piece is.

        Args:
            index: Which piece.
            name: What to show beside the bar.
            fraction: How much of it is done, 0 to 1.
        """
        self._fractions[index] = fraction
        self._progress.update(self._task, completed=sum(self._fractions.values()), piece=name)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bar off the terminal while something else is written."""
        if not self.is_shown:
            yield
            return
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()
