"""The header of a WAV, where it is one that no two readers can understand differently."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_SAMPLE_BITS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
_GUID_END = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")
"""Of every format that is a tag too. Source: Microsoft, mmreg.h, DEFINE_WAVEFORMATEX_GUID."""
_MAX_CHUNKS = 64


@dataclass(frozen=True, slots=True)
class WavHeader:
    """What is said before the sound.

    Attributes:
        is_float: Whether samples are floats; else integers.
        bits: Of a sample.
        channels: Interleaved.
        sample_rate: Hz.
        data_start: Where the sound begins in the file.
        data_bytes: How long it is said to be; what the file really holds may be less.
    """

    is_float: bool
    bits: int
    channels: int
    sample_rate: int
    data_start: int
    data_bytes: int


def read_plain_header(file: IO[bytes], start: int) -> WavHeader | None:
    """Return the header where everything before the sound is well-formed: readers differ only in what they make of what is not.

    Args:
        file: A seekable file, which is left anywhere.
        start: Where the WAV begins in it.

    Returns:
        None where something is not, or it is no WAV.

    Source: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0, and its WAVEFORMATEXTENSIBLE.
    """
    file.seek(start)
    riff = file.read(12)
    if riff[:4] != b"RIFF" or riff[8:12] != b"WAVE":
        return None
    format = None
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return None
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            return None if format is None else WavHeader(*format, data_start=file.tell(), data_bytes=size)
        if name == b"fmt ":
            if format is not None or (format := _read_plain_format(file.read(min(size, 64)), size)) is None:
                return None
        elif not name.isalnum() and not name.strip().isalnum():
            return None
        else:
            file.seek(size, 1)
        file.seek(size & 1, 1)
    return None


def is_last_sound(file: IO[bytes], header: WavHeader) -> bool:
    """Return whether nothing that follows the sound is more of it, or another format: readers differ in what they make of that.

    Args:
        file: The file of the header, which is left anywhere.
        header: As `read_plain_header` returned it.
    """
    end = header.data_start + header.data_bytes
    for _ in range(_MAX_CHUNKS):
        file.seek(end + (end & 1))
        head = file.read(8)
        if len(head) < 8:
            return True
        name, size = struct.unpack("<4sI", head)
        if name in (b"data", b"fmt "):
            return False
        end = file.tell() + size
    return False


def _read_plain_format(chunk: bytes, size: int) -> tuple[bool, int, int, int] | None:
    if len(chunk) != size or size not in (16, 18, 40):
        return None
    tag, channels, sample_rate, byte_rate, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE:
        if size != 40 or chunk[26:] != _GUID_END or struct.unpack_from("<HH", chunk, 16) != (22, bits):
            return None
        tag = struct.unpack_from("<H", chunk, 24)[0]
    elif size == 40:
        return None
    is_sample_known = bits in _SAMPLE_BITS.get(tag, ())
    if not is_sample_known or frame_bytes != channels * bits // 8 or byte_rate != sample_rate * frame_bytes:
        return None
    return tag == _FLOAT, bits, channels, sample_rate
