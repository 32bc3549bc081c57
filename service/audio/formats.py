"""What bytes of sound can be: the raw encodings, and the containers that their first bytes give away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from service.errors import InvalidParameter

Encoding = Literal["s16le", "s32le", "f32le", "mulaw", "alaw"]
ENCODINGS: tuple[str, ...] = get_args(Encoding)
SAMPLE_BYTES: dict[str, int] = {"s16le": 2, "s32le": 4, "f32le": 4, "mulaw": 1, "alaw": 1}

MAX_RAW_CHANNELS = 8
MAX_CHANNELS = 32
"""Of a file or container: third-order ambisonics has 16, the widest cinema beds 24."""
MIN_SAMPLE_RATE = 4_000
MAX_SAMPLE_RATE = 192_000

HEAD_BYTES = 4096
"""How many bytes are looked at before they are called unknown: three frames of the largest MP3 (1,441 bytes)."""

_ID3_HEADER_BYTES = 10

# A container by what stands at the start. Sources: each format's specification (the "magic" of file(1) agrees).
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"\x1a\x45\xdf\xa3", "webm"),
    (b".snd", "au"),
    (b"caff", "caf"),
    (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00", "w64"),
    (b"#!AMR\n", "amr"),
    (b"#!AMR-WB\n", "amr"),
    (b"wvpk", "wavpack"),
    (b"TTA1", "tta"),
    (b"MAC ", "ape"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"FLV\x01", "flv"),
    (b"\x0b\x77", "ac3"),
)
_FORMS: dict[tuple[bytes, bytes], str] = {
    (b"RIFF", b"WAVE"): "wav",
    (b"RIFX", b"WAVE"): "wav",
    (b"RF64", b"WAVE"): "rf64",
    (b"RIFF", b"AVI "): "avi",
    (b"FORM", b"AIFF"): "aiff",
    (b"FORM", b"AIFC"): "aiff",
}
_FORM_BYTES = 12
"""What tells a RIFF or IFF form, an MP4 box and a frame from each other."""
_MP4_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"wide", b"free", b"skip", b"sidx", b"pnot"})
_TS_PACKET_BYTES = 188

# Bit rates in kbit/s by header index, of layer III and II, MPEG-1 and then MPEG-2 (ISO/IEC 11172-3 and 13818-3).
_MPEG_BIT_RATES: dict[tuple[int, int], tuple[int, ...]] = {
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_SAMPLE_RATES = (44_100, 48_000, 32_000)


@dataclass(frozen=True, slots=True)
class RawFormat:
    """The format of sound without a container.

    Attributes:
        encoding: How a sample is written.
        sample_rate: Hz, from 4000 to 192000.
        channels: From 1 to 8, interleaved.

    Raises:
        InvalidParameter: One of them is out of range; ``param`` says which.
    """

    encoding: Encoding
    sample_rate: int
    channels: int

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise InvalidParameter(
                f"encoding is {str(self.encoding)[:40]!r}, allowed are {', '.join(ENCODINGS)}", param="encoding"
            )
        if not MIN_SAMPLE_RATE <= self.sample_rate <= MAX_SAMPLE_RATE:
            raise InvalidParameter(
                f"sample_rate is {self.sample_rate} Hz, allowed is {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz",
                param="sample_rate",
            )
        if not 1 <= self.channels <= MAX_RAW_CHANNELS:
            raise InvalidParameter(f"channels is {self.channels}, allowed is 1 to {MAX_RAW_CHANNELS}", param="channels")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return SAMPLE_BYTES[self.encoding] * self.channels


def sniff(head: bytes) -> str | None:
    """Tell the container from the first bytes of a file or stream, or None where they are no container we know.

    Args:
        head: The first bytes, without a leading ID3 tag (`id3_length`). More than `HEAD_BYTES` of them are not looked at.
    """
    return sniff_start(head) or _sniff_frames(head[:HEAD_BYTES])


def sniff_start(head: bytes) -> str | None:
    """Tell the container from what stands at the very start. More bytes never change an answer that is not None."""
    for magic, container in _MAGIC:
        if head.startswith(magic):
            return container
    if len(head) < _FORM_BYTES:  # less would do for a frame or a box, and more could say that it is neither
        return None
    if (form := _FORMS.get((head[:4], head[8:12]))) is not None:
        return form
    if head[4:8] in _MP4_BOXES:
        return "mp4"
    if _mpeg_frame_bytes(head, 0):
        return "mp3"
    if _adts_frame_bytes(head, 0):
        return "aac"
    if len(head) > 2 * _TS_PACKET_BYTES and head[0] == head[_TS_PACKET_BYTES] == head[2 * _TS_PACKET_BYTES] == 0x47:
        return "mpegts"
    return None


def id3_length(head: bytes) -> int:
    """Bytes of the ID3v2 tag that stands at the start, 0 where none does. It wants the first 10 bytes.

    A tag carries no sound, may hold megabytes of cover art, and stands before MP3, AAC and sometimes FLAC alike: whoever
    wants to know what follows has to step over it.
    Source: id3.org, ID3v2.4.0 section 3.1.
    """
    if len(head) < _ID3_HEADER_BYTES or head[:3] != b"ID3" or head[3] == 0xFF or head[4] == 0xFF or max(head[6:10]) > 0x7F:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    has_footer = head[5] & 0x10
    return _ID3_HEADER_BYTES + size + (_ID3_HEADER_BYTES if has_footer else 0)


def _sniff_frames(head: bytes) -> str | None:
    """Find two MPEG audio or ADTS frames in a row after something else: zeros, or the rest of a frame of a cut recording."""
    start = head.find(b"\xff")
    while start >= 0:
        for container, frame_bytes in (("mp3", _mpeg_frame_bytes), ("aac", _adts_frame_bytes)):
            length = frame_bytes(head, start)
            if length and frame_bytes(head, start + length):
                return container
        start = head.find(b"\xff", start + 1)
    return None


def _mpeg_frame_bytes(head: bytes, at: int) -> int:
    """Length of the MPEG audio layer II or III frame whose header stands there, or 0."""
    if len(head) < at + 4 or head[at] != 0xFF or head[at + 1] & 0xE0 != 0xE0:
        return 0
    version = {3: 1, 2: 2, 0: 4}.get(head[at + 1] >> 3 & 3)  # MPEG-1, 2 and 2.5: what the sample rate is divided by
    layer = 4 - (head[at + 1] >> 1 & 3)
    bit_rate_index, rate_index = head[at + 2] >> 4, head[at + 2] >> 2 & 3
    # Layer I (never met in files) starts with FF FE or FF FF, which is how UTF-16 text starts.
    if version is None or layer not in (2, 3) or not 1 <= bit_rate_index <= 14 or rate_index == 3:
        return 0
    bit_rate = _MPEG_BIT_RATES[min(version, 2), layer][bit_rate_index - 1] * 1000
    sample_rate = _MPEG_SAMPLE_RATES[rate_index] // version
    slots = 72 if layer == 3 and version > 1 else 144
    return slots * bit_rate // sample_rate + (head[at + 2] >> 1 & 1)


def _adts_frame_bytes(head: bytes, at: int) -> int:
    """Length of the AAC frame whose ADTS header stands there, or 0. Source: ISO/IEC 14496-3, 1.A.2.2."""
    if len(head) < at + 7 or head[at] != 0xFF or head[at + 1] & 0xF6 != 0xF0 or head[at + 2] >> 2 & 15 > 12:
        return 0
    length = (head[at + 3] & 3) << 11 | head[at + 4] << 3 | head[at + 5] >> 5
    return length if length > 7 else 0
