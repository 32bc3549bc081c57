"""Which container a stream or file is, told from its first bytes as they come; and whether an MP4 can be streamed."""

from __future__ import annotations

from typing import Literal

from service.audio.formats import HEAD_BYTES, id3_length, sniff, sniff_start
from service.errors import UnsupportedAudio

READABLE = "WAV, FLAC, AIFF, AU, CAF, OGG, MP3, WebM, MP4/M4A, AAC, AC-3, AMR, WMA and the like"


class Recogniser:
    """Collects first bytes until they say what they are. ID3 tags are stepped over: they carry no sound.

    A stream in any pieces and a file give the same answer: either what the very start says, however little has come, or
    what the first `HEAD_BYTES` (all, if there are fewer) say.

    Attributes:
        container: The answer; None until it is known.
        offset: How many bytes the tags before the container take.
        head: The bytes from there on that have come so far; whoever got the answer goes on from them.
    """

    def __init__(self) -> None:
        self.container: str | None = None
        self.offset = 0
        self.head = bytearray()
        self._skip_bytes = 0

    def push(self, data: bytes | bytearray | memoryview) -> str | None:
        """Take more bytes; return the container, or None while more are needed.

        Raises:
            UnsupportedAudio: Enough has come, and it is nothing that we know.
        """
        self.head += data
        return self._recognise(is_complete=False)

    def finish(self) -> str:
        """Say that nothing more comes; return the container.

        Raises:
            UnsupportedAudio: It is nothing that we know.
        """
        container = self._recognise(is_complete=True)
        assert container is not None
        return container

    def _recognise(self, *, is_complete: bool) -> str | None:
        if self.container is None and self._step_over_tags(is_complete=is_complete):
            self.container = sniff_start(bytes(self.head[:HEAD_BYTES]))
            if self.container is None and (is_complete or len(self.head) >= HEAD_BYTES):
                self.container = sniff(bytes(self.head[:HEAD_BYTES])) or self._refuse()
        return self.container

    def _step_over_tags(self, *, is_complete: bool) -> bool:
        """Whether what stands at the start now is no tag."""
        while True:
            stepped = min(self._skip_bytes, len(self.head))
            del self.head[:stepped]
            self._skip_bytes -= stepped
            self.offset += stepped
            if self._skip_bytes:
                return is_complete
            self._skip_bytes = id3_length(bytes(self.head[:10]))
            if not self._skip_bytes:
                may_become_tag = len(self.head) < 10 and b"ID3".startswith(bytes(self.head[:3]))
                return is_complete or not may_become_tag

    def _refuse(self) -> str:
        if not self.head:
            raise UnsupportedAudio("nothing stands after the ID3 tag" if self.offset else "it is empty")
        shown = bytes(self.head[:12])
        seen = repr(shown.decode()) if shown.isascii() and shown.decode().isprintable() else shown.hex(" ")
        raise UnsupportedAudio(
            f"the first bytes ({seen}) are no sound that can be read; readable are {READABLE}; "
            "samples without a header are streamed with their encoding and sample_rate"
        )


IndexPlace = Literal["first", "last"]


class IndexScanner:
    """Walks the top-level boxes of an MP4 and says whether its index (moov) comes before its sound (mdat).

    What is broken counts as "first": the decoder then says what is wrong.
    Source: ISO/IEC 14496-12, 4.2 (boxes) and 6.2.3 (their order).
    """

    def __init__(self) -> None:
        self.place: IndexPlace | None = None
        self._header = bytearray()
        self._skip_bytes = 0

    def push(self, data: bytes | bytearray | memoryview) -> IndexPlace | None:
        """Take more bytes; return the place of the index once the boxes tell it."""
        rest = memoryview(data)
        while self.place is None and rest:
            if self._skip_bytes:
                stepped = min(self._skip_bytes, len(rest))
                self._skip_bytes -= stepped
                rest = rest[stepped:]
                continue
            wanted = 16 if self._header[:4] == b"\x00\x00\x00\x01" else 8
            taken = min(wanted - len(self._header), len(rest))
            self._header += rest[:taken]
            rest = rest[taken:]
            if len(self._header) == wanted and (wanted == 16 or self._header[:4] != b"\x00\x00\x00\x01"):
                self._judge(bytes(self._header))
                self._header.clear()
        return self.place

    def _judge(self, header: bytes) -> None:
        size = int.from_bytes(header[8:16] if len(header) == 16 else header[:4], "big")
        kind = header[4:8]
        is_to_the_end = size == 0 and len(header) == 8
        if kind == b"mdat" and (is_to_the_end or size > len(header)):
            self.place = "last"
        elif kind in (b"moov", b"moof") or size < len(header):
            self.place = "first"
        else:
            self._skip_bytes = size - len(header)
