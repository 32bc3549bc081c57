from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from service.audio.decoding import open_audio
from service.audio.formats import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from service.errors import InvalidParameter, UndecodableAudio, UnsupportedAudio
from tests.support.sounds import FloatArray, noise, tone


def written(waveform: FloatArray, rate: int, subtype: str = "PCM_16", format: str = "WAV", **options: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, subtype=subtype, format=format, **options)
    return file.getvalue()


def wav(
    data: bytes, *, rate: int = 16_000, channels: int = 1, bits: int = 16, code: int = 1, stated: int | None = None
) -> bytes:
    """A WAV file written by hand; `stated` is the length that its header claims."""
    block = channels * bits // 8
    fmt = struct.pack("<HHIIHH", code, channels, rate, rate * block, block, bits)
    length = len(data) if stated is None else stated
    riff = length if length in (0, 0xFFFFFFFF) else length + 36
    head = b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt
    return head + b"data" + struct.pack("<I", length) + data


def decode(data: bytes, channel: int | None = None) -> FloatArray:
    with open_audio(io.BytesIO(data), channel=channel) as audio:
        return np.concatenate([np.zeros(0, np.float32), *audio.blocks()])


@pytest.mark.parametrize(
    ("format", "subtype", "steps"),
    [
        ("WAV", "PCM_U8", 2**7),
        ("WAV", "PCM_16", 2**15),
        ("WAV", "PCM_24", 2**23),
        ("WAV", "PCM_32", 2**31),
        ("WAV", "FLOAT", 2**24),
        ("WAV", "DOUBLE", 2**24),
        ("WAVEX", "PCM_16", 2**15),
        ("RF64", "PCM_16", 2**15),
        ("W64", "PCM_16", 2**15),
        ("AIFF", "PCM_S8", 2**7),
        ("AIFF", "PCM_16", 2**15),
        ("AIFF", "PCM_24", 2**23),
        ("AIFF", "FLOAT", 2**24),
        ("AU", "PCM_16", 2**15),
        ("CAF", "PCM_24", 2**23),
        ("FLAC", "PCM_16", 2**15),
        ("FLAC", "PCM_24", 2**23),
    ],
)
def test_lossless_sound_comes_back_to_the_last_bit(format: str, subtype: str, steps: int) -> None:
    sound = (np.rint(noise(1.2, 22_050) * min(steps, 2**24)) / min(steps, 2**24)).astype(np.float32)
    np.testing.assert_array_equal(decode(written(sound, 22_050, subtype, format)), sound)


def test_a_big_endian_wav_is_read() -> None:
    sound = np.rint(noise(0.5, 16_000) * 2**15).astype(np.float32) / 2**15
    np.testing.assert_array_equal(decode(written(sound, 16_000, endian="BIG")), sound)


def test_an_open_file_says_what_it_is() -> None:
    with open_audio(io.BytesIO(written(np.zeros((441, 2), np.float32), 44_100)), channel=None) as audio:
        assert (audio.container, audio.sample_rate, audio.channels, audio.num_frames) == ("wav", 44_100, 2, 441)
    with open_audio(io.BytesIO(written(np.zeros((441, 2), np.float32), 44_100, format="FLAC")), channel=None) as audio:
        assert (audio.container, audio.sample_rate, audio.channels, audio.num_frames) == ("flac", 44_100, 2, 441)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "AIFF", "AU"])
def test_blocks_are_one_second_long_and_the_last_one_is_the_rest(format: str) -> None:
    with open_audio(io.BytesIO(written(noise(3.4, 8_000), 8_000, format=format)), channel=None) as audio:
        assert [len(block) for block in audio.blocks()] == [8_000, 8_000, 8_000, 3_200]


def test_an_hour_long_file_comes_in_blocks_of_a_second(tmp_path: Path) -> None:
    path = tmp_path / "hour.wav"
    num_bytes = 3_600 * 8_000
    with path.open("wb") as sparse:
        sparse.write(wav(b"", rate=8_000, bits=8, stated=num_bytes))
        sparse.truncate(44 + num_bytes)
    with path.open("rb") as file, open_audio(file, channel=None) as audio:
        assert audio.num_frames == num_bytes
        assert {len(block) for block in audio.blocks()} == {8_000}


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_channels_become_their_mean_or_the_picked_one(format: str) -> None:
    left, right = tone(0.5, 440, 16_000), tone(0.5, 880, 16_000, amplitude=0.25)
    data = written(np.stack([left, right], axis=1), 16_000, format=format)
    np.testing.assert_allclose(decode(data), (left + right) / 2, atol=2**-15)
    np.testing.assert_allclose(decode(data, channel=0), left, atol=2**-15)
    np.testing.assert_allclose(decode(data, channel=1), right, atol=2**-15)


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_a_channel_that_is_not_there_is_named(format: str) -> None:
    with pytest.raises(InvalidParameter, match="channel is 2, the sound has 2: allowed is 0 to 1") as caught:
        decode(written(np.zeros((100, 2), np.float32), 16_000, format=format), channel=2)
    assert caught.value.param == "channel"


@pytest.mark.parametrize("stated", [0, 0xFFFFFFFF, 0x7FFFFFF0])
def test_a_wav_that_was_streamed_and_does_not_know_its_length_is_read_to_its_end(stated: int) -> None:
    samples = np.arange(1000, dtype="<i2")
    np.testing.assert_array_equal(decode(wav(samples.tobytes(), stated=stated)) * 2**15, samples)


@pytest.mark.parametrize("missing", [1, 2, 999, 1500])
def test_a_wav_that_breaks_off_gives_the_samples_that_are_whole(missing: int) -> None:
    samples = np.arange(1000, dtype="<i2")
    whole = (2000 - missing) // 2
    np.testing.assert_array_equal(decode(wav(samples.tobytes())[:-missing]) * 2**15, samples[:whole])


@pytest.mark.parametrize("format", ["WAV", "AIFF", "AU"])
def test_a_header_without_sound_is_a_file_of_no_samples(format: str) -> None:
    assert len(decode(written(np.zeros(0, np.float32), 16_000, format=format))) == 0


def test_a_flac_that_breaks_off_gives_what_came_before() -> None:
    sound = np.rint(noise(3.0, 16_000) * 2**15).astype(np.float32) / 2**15
    data = written(sound, 16_000, format="FLAC")
    decoded = decode(data[: len(data) // 2])
    assert 16_000 < len(decoded) < 32_000
    np.testing.assert_array_equal(decoded, sound[: len(decoded)])


def test_a_flac_behind_an_id3_tag_is_read() -> None:
    data = b"ID3\x04\0\0\0\0\x02\x01" + bytes(257) + written(tone(0.5, 440, 16_000), 16_000, format="FLAC")
    assert len(decode(data)) == 8_000


def test_bytes_decide_and_not_the_place_where_the_file_was_left() -> None:
    file = io.BytesIO(written(tone(0.5, 440, 16_000), 16_000))
    file.seek(1000)
    with open_audio(file, channel=None) as audio:
        assert sum(len(block) for block in audio.blocks()) == 8_000
    assert not file.closed, "the file stays the caller's"


@pytest.mark.parametrize("data", [b"", b"R", b"hello, world" * 1000, b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(100_000)])
def test_what_is_no_sound_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedAudio):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"RIFF\x24\0\0\0WAVE",
        wav(b"")[:30],
        b"fLaC" + bytes(100),
        b"OggS" + bytes(100),
        b"\x1a\x45\xdf\xa3" + bytes(100),
        b"\0\0\0\x1cftypM4A \0\0\0\0M4A mp42isom",
        b"\0\0\0\x1cftypM4A \0\0\0\0M4A mp42isom" + b"\0\0\0\x64mdat" + bytes(92),
        b"\xff\xfb\x90\x64" + bytes(20),
    ],
)
def test_a_container_that_is_broken_from_its_start_is_undecodable(data: bytes) -> None:
    with pytest.raises(UndecodableAudio, match="incomplete or damaged"):
        decode(data)


@pytest.mark.parametrize("rate", [MIN_SAMPLE_RATE - 1, MAX_SAMPLE_RATE + 1])
@pytest.mark.parametrize("format", ["WAV", "AU"])
def test_a_sample_rate_out_of_range_says_what_is_allowed(format: str, rate: int) -> None:
    with pytest.raises(UnsupportedAudio, match=f"{rate} Hz, allowed is 4000 to 192000 Hz"):
        decode(written(np.zeros(100, np.float32), rate, format=format))


def test_more_channels_than_are_read_say_so() -> None:
    with pytest.raises(UnsupportedAudio, match="40 channels, allowed is 1 to 32"):
        decode(written(np.zeros((100, 40), np.float32), 16_000))


@pytest.mark.parametrize(("subtype", "bad"), [("FLOAT", np.nan), ("FLOAT", np.inf), ("DOUBLE", 1e300)])
@pytest.mark.parametrize("format", ["WAV", "AU"])
def test_a_sample_that_is_no_number_is_named_by_its_place(format: str, subtype: str, bad: float) -> None:
    sound = np.zeros(40_000)
    sound[20_000:] = bad
    file = io.BytesIO()
    soundfile.write(file, sound, 16_000, subtype=subtype, format=format)
    with pytest.raises(UndecodableAudio, match=r"sample 20000 is (nan|inf)"):
        decode(file.getvalue())


def test_a_codec_that_is_not_read_is_named() -> None:
    with pytest.raises(UnsupportedAudio, match="the sound in the wav container is written with"):
        decode(wav(bytes(10_000), code=0x0022, bits=8))  # TrueSpeech


def test_an_aiff_that_libsndfile_cannot_read_goes_the_way_of_its_stream() -> None:
    data = written(tone(1.0, 440, 16_000), 16_000, format="AIFF", subtype="ULAW")
    assert len(decode(data)) == 16_000


def test_a_wav_of_no_channels_is_undecodable() -> None:
    with pytest.raises(UndecodableAudio, match="the bytes are wav"):
        open_audio(io.BytesIO(wav(bytes(8000), channels=0)), channel=None)
