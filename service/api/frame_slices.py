"""Where to cut what a websocket's client has sent, so that a slice has few frames. Pure.

A read of the socket brings up to 256 KiB, which can be 40,000 frames: to parse and to handle them at once would keep all other
connections waiting for seconds.
"""

from __future__ import annotations

from typing import Final

Bytes = bytes | bytearray
_MASKED, _LENGTH = 0x80, 0x7F
_SIZES: Final = {126: 2, 127: 8}
"""Bytes that follow to say the length, where it is not in the second byte itself. Source: RFC 6455, section 5.2."""


class FrameSlicer:
    """Follows the frames in a stream of bytes.

    Args:
        max_frames: How many frames a slice may have, the last of them whole or not.
    """

    def __init__(self, max_frames: int) -> None:
        self._max_frames = max_frames
        self._left = 0

    def cut(self, data: Bytes) -> tuple[int, int]:
        """Cut the next slice off.

        Args:
            data: What comes after the last slice, from its first byte that was not in it.

        Returns:
            How many bytes the slice has, and how many frames begin in it. A frame whose head is not there yet is in none: those
            bytes are to be given again with what follows.
        """
        end, num_frames = self._left, 0
        while end < len(data) and num_frames < self._max_frames:
            size = _frame_bytes(data, end)
            if size is None:
                break
            end += size
            num_frames += 1
        taken = min(end, len(data))
        self._left = end - taken
        return taken, num_frames

    def has_more(self, data: Bytes) -> bool:
        """Return whether a cut would have anything in it."""
        return bool(data) and (self._left > 0 or _frame_bytes(data, 0) is not None)


def _frame_bytes(data: Bytes, start: int) -> int | None:
    """Return how many bytes a frame has, its head among them; None where not all is there that says it."""
    if len(data) < start + 2:
        return None
    second = data[start + 1]
    length = second & _LENGTH
    head = 2 + _SIZES.get(length, 0)
    if head > 2:
        if len(data) < start + head:
            return None
        length = int.from_bytes(data[start + 2 : start + head], "big")
    return head + (4 if second & _MASKED else 0) + length
