"""Whether a WAV's header is one that no two readers can understand differently."""

from __future__ import annotations

import struct
from typing import BinaryIO

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_SAMPLE_BITS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
_GUID_END = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")
"""Of every format that is a tag too. Source: Microsoft, mmreg.h, DEFINE_WAVEFORMATEX_GUID."""
_MAX_CHUNKS = 64


def is_plain_wav(file: BinaryIO, start: int) -> bool:
    """Return whether everything before the sound is well-formed: readers differ only in what they make of what is not.

    Args:
        file: A seekable file, which is left anywhere.
        start: Where the WAV begins in it.

    Source: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0, and its WAVEFORMATEXTENSIBLE.
    """
    file.seek(start)
    riff = file.read(12)
    if riff[:4] != b"RIFF" or riff[8:12] != b"WAVE":
        return False
    has_format = False
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return False
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            return has_format
        if name == b"fmt ":
            if has_format or not _is_plain_format(file.read(min(size, 64)), size):
                return False
            has_format = True
        elif not name.isalnum() and not name.strip().isalnum():
            return False
        else:
            file.seek(size, 1)
        file.seek(size & 1, 1)
    return False


def _is_plain_format(chunk: bytes, size: int) -> bool:
    if len(chunk) != size or size not in (16, 18, 40):
        return False
    tag, channels, sample_rate, byte_rate, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE:
        if size != 40 or chunk[26:] != _GUID_END or struct.unpack_from("<HH", chunk, 16) != (22, bits):
            return False
        tag = struct.unpack_from("<H", chunk, 24)[0]
    elif size == 40:
        return False
    is_sample_known = bits in _SAMPLE_BITS.get(tag, ())
    return is_sample_known and frame_bytes == channels * bits // 8 and byte_rate == sample_rate * frame_bytes
