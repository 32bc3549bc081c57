from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from service.audio.decoding import open_audio
from service.audio.intake import file_samples
from service.audio.wav_header import read_plain_header
from service.errors import ServiceError
from tests.support.sounds import Int16Array, noise, stream_samples

PCM = struct.pack("<HHIIHH", 1, 2, 16_000, 64_000, 4, 16)
FLOAT = struct.pack("<HHIIHH", 3, 1, 16_000, 64_000, 4, 32)
GUID_END = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")
EXTENSIBLE = struct.pack("<HHIIHHHHIH", 0xFFFE, 2, 16_000, 64_000, 4, 16, 22, 16, 3, 1) + GUID_END
DATA = b"data\x04\0\0\0abcd"


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def wav(*chunks: bytes, form: bytes = b"WAVE", riff: bytes = b"RIFF") -> bytes:
    return riff + bytes(4) + form + b"".join(chunks)


@pytest.mark.parametrize(
    "data",
    [
        wav(chunk(b"fmt ", PCM), DATA),
        wav(chunk(b"fmt ", FLOAT), DATA),
        wav(chunk(b"fmt ", PCM + b"\0\0"), DATA),
        wav(chunk(b"fmt ", EXTENSIBLE), DATA),
        wav(chunk(b"LIST", b"odd"), chunk(b"fmt ", PCM), chunk(b"fact", bytes(4)), DATA),
    ],
)
def test_what_every_reader_understands_is_plain(data: bytes) -> None:
    header = read_plain_header(io.BytesIO(data), 0)
    assert header is not None
    assert read_plain_header(io.BytesIO(b"tag" + data), 3) == replace(header, data_start=header.data_start + 3)
    assert (header.sample_rate, header.data_start, header.data_bytes) == (16_000, len(data) - 4, 4)
    assert (header.is_float, header.bits, header.channels) in [(False, 16, 2), (True, 32, 1)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        wav(chunk(b"fmt ", PCM), DATA, riff=b"RIFX"),
        wav(chunk(b"fmt ", PCM), DATA, form=b"AVI "),
        wav(chunk(b"fmt ", PCM)),
        wav(DATA),
        wav(chunk(b"fmt ", PCM), chunk(b"fmt ", PCM), DATA),
        wav(chunk(b"fmt ", PCM[:-2]), DATA),
        wav(chunk(b"fmt ", PCM + bytes(200)), DATA),
        wav(chunk(b"fmt ", EXTENSIBLE[:26] + bytes(14)), DATA),
        wav(chunk(b"fmt ", EXTENSIBLE[:16] + bytes(2) + EXTENSIBLE[18:]), DATA),
        wav(chunk(b"fmt ", b"\xfe\xff" + PCM[2:]), DATA),
        wav(chunk(b"fmt ", PCM + bytes(24)), DATA),
        wav(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 2, 16_000, 64_000, 4, 12)), DATA),
        wav(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 2, 16_000, 64_000, 8, 16)), DATA),
        wav(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 2, 16_000, 1, 4, 16)), DATA),
        wav(chunk(b"fmt ", struct.pack("<HHIIHH", 17, 2, 16_000, 64_000, 4, 16)), DATA),
        wav(chunk(b"\xff\xfe\0\0", b""), chunk(b"fmt ", PCM), DATA),
        wav(*[chunk(b"LIST", b"")] * 100, chunk(b"fmt ", PCM), DATA),
    ],
)
def test_what_readers_may_understand_differently_is_not_plain(data: bytes) -> None:
    assert read_plain_header(io.BytesIO(data), 0) is None


def decoded(data: bytes, *, is_stream: bool) -> Int16Array | str:
    try:
        if is_stream:
            return stream_samples(data)
        with open_audio(io.BytesIO(data), channel=None) as audio:
            return np.concatenate([np.zeros(0, np.int16), *file_samples(audio, 16_000)])
    except ServiceError as error:
        return error.code


@pytest.mark.parametrize(("container", "header_bytes"), [("WAV", 44), ("WAVEX", 80), ("AIFF", 54)])
def test_a_flipped_bit_in_a_header_means_the_same_in_a_file_and_in_its_stream(
    container: str, header_bytes: int, tmp_path: Path
) -> None:
    file = io.BytesIO()
    soundfile.write(file, noise(0.2, 16_000), 16_000, format=container, subtype="PCM_16")
    for bit in range(8 * header_bytes):
        data = bytearray(file.getvalue())
        data[bit // 8] ^= 1 << bit % 8
        as_file, as_stream = decoded(bytes(data), is_stream=False), decoded(bytes(data), is_stream=True)
        assert type(as_file) is type(as_stream), bit
        np.testing.assert_array_equal(as_file, as_stream, err_msg=f"bit {bit}")
