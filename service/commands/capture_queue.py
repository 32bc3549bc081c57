"""What a device's callback leaves and a reader takes."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """Some sound.

    Attributes:
        data: The samples.
        num_lost: Frames before it that did not fit.
        has_overflowed: Whether the system lost some before it, nobody knows how many.
    """

    data: bytes
    num_lost: int
    has_overflowed: bool


class CaptureQueue:
    """A queue with a bound, which whoever fills it never waits for.

    Once it is full, everything is lost until half of it is taken: one long gap is heard better, and said in one line, where
    many short ones would tear the sound to pieces.

    Args:
        max_pieces: How many may wait, at least 1.
    """

    def __init__(self, max_pieces: int) -> None:
        self._max_pieces = max_pieces
        self._pieces: deque[Piece] = deque()
        self._changed = threading.Condition()
        self._num_lost = 0
        self._has_overflowed = False
        self._is_losing = False
        self._is_ended = False

    def put(self, data: bytes, num_frames: int, *, has_overflowed: bool = False) -> None:
        """Leave a piece, or count it as lost."""
        with self._changed:  # held for a few instructions only
            self._has_overflowed |= has_overflowed
            limit = self._max_pieces // 2 if self._is_losing else self._max_pieces - 1
            self._is_losing = len(self._pieces) > limit
            if self._is_losing:
                self._num_lost += num_frames
                return
            self._pieces.append(Piece(data, self._num_lost, self._has_overflowed))
            self._num_lost, self._has_overflowed = 0, False
            self._changed.notify()

    def end(self) -> None:
        """Say that no more comes."""
        with self._changed:
            self._is_ended = True
            self._changed.notify()

    def take(self, timeout_seconds: float) -> Piece | None:
        """Return the next piece, or None: it has ended, or nothing came for so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._is_ended, timeout_seconds)
            return self._pieces.popleft() if self._pieces else None
