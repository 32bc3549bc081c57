"""Real files, made by ffmpeg: every container and codec that the service promises, as a file and as a stream."""

from __future__ import annotations

import errno
import functools
import io
import itertools
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from service.audio.containers import ContainerDecoder
from service.audio.decoding import open_audio
from service.audio.intake import ContainerIntake, file_samples
from service.errors import DecodingFailed, NotStreamable, UndecodableAudio, UnsupportedAudio
from tests.support.sounds import Int16Array, encode, loudest_hz, noise, stream_samples, tone

RATE = 16_000
SECONDS = 3.0


@dataclass(frozen=True)
class Case:
    """A file to make, and what is allowed of it.

    `padding` is how many seconds a codec may add or leave out at its ends: MP3 frames hold 26 ms, and without a LAME tag the
    encoder's delay is sound too; AAC has 21 to 43 ms of priming and fills its last frame; AC-3 the same with 32 ms; the
    Vorbis and WMA encoders leave out up to two blocks of 46 ms.
    """

    name: str
    container: str
    args: tuple[str, ...] = ()
    rate: int = 44_100
    channels: int = 2
    padding: float = 0.0
    is_exact: bool = False  # lossless: the samples are those of the source
    is_streamable: bool = True


FASTSTART = ("-movflags", "+faststart")
FRAGMENTED = ("-movflags", "+frag_keyframe+empty_moov+default_base_moof", "-frag_duration", "200000")

CASES = [
    Case("s16.wav", "wav", ("-c:a", "pcm_s16le")),
    Case("s24.wav", "wav", ("-c:a", "pcm_s24le"), is_exact=True),
    Case("s32.wav", "wav", ("-c:a", "pcm_s32le"), is_exact=True),
    Case("f32.wav", "wav", ("-c:a", "pcm_f32le"), is_exact=True),
    Case("f64.wav", "wav", ("-c:a", "pcm_f64le"), is_exact=True),
    Case("u8.wav", "wav", ("-c:a", "pcm_u8"), rate=8_000, channels=1),
    Case("mulaw.wav", "wav", ("-c:a", "pcm_mulaw"), rate=8_000, channels=1),
    Case("alaw.wav", "wav", ("-c:a", "pcm_alaw"), rate=8_000, channels=1),
    Case("adpcm-ms.wav", "wav", ("-c:a", "adpcm_ms"), padding=0.05),
    Case("adpcm-ima.wav", "wav", ("-c:a", "adpcm_ima_wav"), padding=0.05),
    Case("gsm.wav", "wav", ("-c:a", "gsm_ms"), rate=8_000, channels=1, padding=0.04),
    Case("5.1.wav", "wav", ("-c:a", "pcm_s24le"), rate=48_000, channels=6, is_exact=True),
    Case("long.rf64", "rf64", ("-f", "wav", "-rf64", "always", "-c:a", "pcm_s24le"), is_exact=True),
    Case("sony.w64", "w64", ("-c:a", "pcm_s24le"), is_exact=True),
    Case("s16.flac", "flac", ("-sample_fmt", "s16")),
    Case("s24.flac", "flac", ("-sample_fmt", "s32"), rate=96_000, is_exact=True),
    Case("8k.flac", "flac", ("-sample_fmt", "s32"), rate=8_000, channels=1, is_exact=True),
    Case("5.1.flac", "flac", ("-sample_fmt", "s32"), rate=48_000, channels=6, is_exact=True),
    Case("s16.aiff", "aiff", ("-c:a", "pcm_s16be")),
    Case("s24.aiff", "aiff", ("-c:a", "pcm_s24be"), is_exact=True),
    Case("f32.aifc", "aiff", ("-f", "aiff", "-c:a", "pcm_f32be"), is_exact=True),
    Case("s16.au", "au", ("-c:a", "pcm_s16be")),
    Case("s24.caf", "caf", ("-c:a", "pcm_s24le"), is_exact=True, is_streamable=False),
    Case("alac.caf", "caf", ("-c:a", "alac"), padding=0.1, is_streamable=False),
    Case("vorbis.ogg", "ogg", ("-c:a", "libvorbis"), padding=0.1),
    Case("5.1-vorbis.ogg", "ogg", ("-c:a", "libvorbis"), rate=48_000, channels=6, padding=0.1),
    Case("opus.ogg", "ogg", ("-c:a", "libopus", "-f", "ogg"), rate=48_000),
    Case("voice.opus", "ogg", ("-c:a", "libopus", "-b:a", "12k", "-application", "voip"), rate=48_000, channels=1),
    Case("5.1.opus", "ogg", ("-c:a", "libopus", "-mapping_family", "1"), rate=48_000, channels=6),
    Case("7.1.opus", "ogg", ("-c:a", "libopus", "-mapping_family", "1"), rate=48_000, channels=8),
    Case("flac.ogg", "ogg", ("-c:a", "flac", "-sample_fmt", "s32"), is_exact=True),
    Case("cbr.mp3", "mp3", ("-b:a", "128k"), padding=0.06),
    Case("vbr.mp3", "mp3", ("-q:a", "4"), padding=0.06),
    Case("bare.mp3", "mp3", ("-write_xing", "0", "-id3v2_version", "0"), padding=0.08),
    Case("tagged.mp3", "mp3", ("-metadata", "title=A tone", "-id3v2_version", "3", "-write_id3v1", "1"), padding=0.06),
    Case("mono.mp3", "mp3", ("-b:a", "64k"), rate=22_050, channels=1, padding=0.12),
    Case("layer2.mp2", "mp3", ("-c:a", "mp2"), padding=0.06),
    Case("opus.webm", "webm", ("-c:a", "libopus"), rate=48_000),
    Case("live.webm", "webm", ("-c:a", "libopus", "-f", "webm", "-live", "1", "-cluster_time_limit", "250"), rate=48_000),
    Case("vorbis.mka", "webm", ("-c:a", "libvorbis"), padding=0.1),
    Case("first.m4a", "mp4", (*FASTSTART, "-c:a", "aac"), padding=0.06),
    Case("8k.m4a", "mp4", (*FASTSTART, "-c:a", "aac"), rate=8_000, channels=1, padding=0.3),
    Case("5.1.m4a", "mp4", (*FASTSTART, "-c:a", "aac"), rate=48_000, channels=6, padding=0.06),
    Case("7.1.m4a", "mp4", (*FASTSTART, "-c:a", "aac"), rate=48_000, channels=8, padding=0.06),
    Case("fragmented.mp4", "mp4", (*FRAGMENTED, "-c:a", "aac"), padding=0.06),
    Case("opus.mp4", "mp4", (*FRAGMENTED, "-c:a", "libopus"), rate=48_000, padding=0.04),
    Case("alac.m4a", "mp4", (*FASTSTART, "-c:a", "alac"), padding=0.0),
    Case("adts.aac", "aac", ("-c:a", "aac"), padding=0.08),
    Case("5.1.ac3", "ac3", (), rate=48_000, channels=6, padding=0.06),
    Case("windows.wma", "asf", ("-c:a", "wmav2"), padding=0.1),
    Case("segment.ts", "mpegts", ("-c:a", "aac"), padding=0.08),
    Case("pack.wv", "wavpack", ("-c:a", "wavpack", "-sample_fmt", "fltp"), is_exact=True),
]


def source(case: Case) -> np.ndarray:
    """A tone of 440 Hz in noise (codecs then have something to write), quieter from channel to channel, in steps of 2^-23."""
    sound = tone(SECONDS, 440, case.rate) + noise(SECONDS, case.rate, amplitude=0.05)
    sound = np.stack([sound / (1 + index) for index in range(case.channels)], axis=1)
    return (np.rint(sound * 2**23) / 2**23).astype(np.float32)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("containers")


@pytest.fixture(scope="session")
def encoder(folder: Path) -> Callable[[Case], bytes]:
    @functools.cache
    def encode_once(case: Case) -> bytes:
        return encode(folder, source(case), case.rate, case.name, *case.args).read_bytes()

    return encode_once


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def encoded(request: pytest.FixtureRequest, encoder: Callable[[Case], bytes]) -> tuple[Case, bytes]:
    return request.param, encoder(request.param)


@pytest.fixture(params=[case for case in CASES if case.is_streamable], ids=lambda case: case.name)
def streamable(request: pytest.FixtureRequest, encoder: Callable[[Case], bytes]) -> tuple[Case, bytes]:
    return request.param, encoder(request.param)


def samples_of_file(data: bytes, channel: int | None = None) -> Int16Array:
    with open_audio(io.BytesIO(data), channel=channel) as audio:
        return np.concatenate([np.zeros(0, np.int16), *file_samples(audio, RATE)])


def test_a_file_has_its_format_its_length_and_its_tone(encoded: tuple[Case, bytes]) -> None:
    case, data = encoded
    with open_audio(io.BytesIO(data), channel=None) as audio:
        assert (audio.container, audio.sample_rate, audio.channels) == (case.container, case.rate, case.channels)
        if audio.num_frames is not None:
            assert audio.num_frames / case.rate == pytest.approx(SECONDS, abs=case.padding + 0.03)
        blocks = list(audio.blocks())
    assert all(len(block) == case.rate for block in blocks[:-1])
    assert 0 < len(blocks[-1]) <= case.rate
    sound = np.concatenate(blocks)
    assert len(sound) / case.rate == pytest.approx(SECONDS, abs=case.padding + 1 / case.rate)
    assert loudest_hz(sound, case.rate) == pytest.approx(440, abs=0.5)
    middle = sound[case.rate : 2 * case.rate]
    assert middle.std() == pytest.approx(source(case).mean(axis=1).std(), rel=0.25)
    if case.is_exact:
        np.testing.assert_allclose(sound, source(case).astype(np.float64).mean(axis=1), rtol=0, atol=2**-25)


def test_a_stream_in_any_pieces_gives_the_samples_of_the_file(streamable: tuple[Case, bytes]) -> None:
    case, data = streamable
    expected = samples_of_file(data)
    assert len(expected) / RATE == pytest.approx(SECONDS, abs=case.padding + 1 / RATE)
    random = np.random.default_rng(len(data))
    for cuts in (
        [],
        list(range(1, min(len(data), 2_000))),  # byte by byte through the header
        list(range(1_000, len(data), 1_000)),
        random.integers(0, len(data), 20).tolist(),
    ):
        np.testing.assert_array_equal(stream_samples(data, cuts), expected)


def test_the_last_channel_can_be_picked(encoded: tuple[Case, bytes]) -> None:
    case, data = encoded
    picked = samples_of_file(data, case.channels - 1)
    if case.is_streamable:
        np.testing.assert_array_equal(stream_samples(data, [5_000], channel=case.channels - 1), picked)
    if case.is_exact:
        with open_audio(io.BytesIO(data), channel=case.channels - 1) as audio:
            np.testing.assert_array_equal(np.concatenate(list(audio.blocks())), source(case)[:, -1])


def test_a_file_that_breaks_off_is_the_start_of_the_whole_and_as_long_as_its_stream(streamable: tuple[Case, bytes]) -> None:
    _, data = streamable
    cut = data[: len(data) * 3 // 4]
    part = samples_of_file(cut)
    assert 1.0 <= len(part) / RATE < 0.9 * SECONDS  # OGG and MP4 hold a second together, and lose it together
    np.testing.assert_array_equal(stream_samples(cut, [3, 999]), part)
    steady = len(part) - RATE // 4  # codecs and resampler close what is open, so that the last frames differ
    np.testing.assert_array_equal(part[:steady], samples_of_file(data)[:steady])


@pytest.fixture(scope="session")
def index_last(folder: Path) -> bytes:
    return encode(folder, tone(SECONDS, 440, 44_100), 44_100, "last.m4a", "-c:a", "aac").read_bytes()


def test_an_mp4_with_its_index_last_is_read_as_a_file(index_last: bytes, folder: Path) -> None:
    first = encode(folder, tone(SECONDS, 440, 44_100), 44_100, "same.m4a", "-c:a", "aac", *FASTSTART).read_bytes()
    np.testing.assert_array_equal(samples_of_file(index_last), samples_of_file(first))


def test_an_mp4_with_its_index_last_is_refused_as_a_stream_at_its_first_sound(index_last: bytes) -> None:
    intake = ContainerIntake(channel=None, target_rate=RATE)
    assert list(intake.push(index_last[: index_last.index(b"mdat")])) == []
    with pytest.raises(NotStreamable, match="faststart"):
        list(intake.push(b"mdat"))


def test_an_mp4_that_lost_its_index_is_undecodable(index_last: bytes) -> None:
    with pytest.raises(UndecodableAudio, match="mp4"):
        samples_of_file(index_last[: index_last.index(b"moov")])


class ExhaustedSource:
    """A file whose process has no memory left after so many reads, as FFmpeg says it."""

    def __init__(self, data: bytes, num_reads: int) -> None:
        self._file = io.BytesIO(data)
        self._num_reads = num_reads

    def read(self, size: int, /) -> bytes:
        if not self._num_reads:
            raise av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")
        self._num_reads -= 1
        return self._file.read(min(size, 4096))


def test_sound_for_which_there_is_no_memory_is_not_said_to_be_broken(folder: Path) -> None:
    data = encode(folder, tone(SECONDS, 440, 44_100), 44_100, "tone.aac").read_bytes()
    with pytest.raises(DecodingFailed, match="aac needs more memory"):
        ContainerDecoder(ExhaustedSource(data, 0), "aac", channel=None)
    decoder = ContainerDecoder(ExhaustedSource(data, 4), "aac", channel=None)
    with pytest.raises(DecodingFailed, match="memory"):
        list(decoder.blocks())
    decoder.close()


def test_cover_art_is_no_sound_and_does_not_disturb(folder: Path) -> None:
    art = folder / "cover.png"
    subprocess.run(
        [
            "ffmpeg",
            "-nostdin",
            "-loglevel",
            "error",
            "-y",
            "-f",
            "lavfi",
            "-i",
            "testsrc=s=600x600:d=1",
            "-frames:v",
            "1",
            str(art),
        ],
        check=True,
    )
    plain = encode(folder, tone(SECONDS, 440, 44_100), 44_100, "plain.mp3")
    for name, args in (("cover.mp3", ("-id3v2_version", "3")), ("cover.m4a", (*FASTSTART,)), ("cover.flac", ())):
        with_art = folder / name
        command = [
            "-i",
            str(plain),
            "-i",
            str(art),
            "-map",
            "0:a",
            "-map",
            "1:v",
            "-c:v",
            "copy",
            "-disposition:v",
            "attached_pic",
        ]
        codec = ("-c:a", "copy") if name.endswith("mp3") else ()
        subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *command, *codec, *args, str(with_art)], check=True)
        data = with_art.read_bytes()
        assert art.read_bytes()[:1000] in data
        samples = samples_of_file(data)
        assert len(samples) / RATE == pytest.approx(SECONDS, abs=0.1)
        np.testing.assert_array_equal(stream_samples(data, [1, 20_000]), samples)
    np.testing.assert_array_equal(samples_of_file((folder / "cover.mp3").read_bytes()), samples_of_file(plain.read_bytes()))


def pieces_of(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize(
    ("name", "args", "max_behind"),
    [
        ("recorder.webm", ("-c:a", "libopus", "-b:a", "32k", "-f", "webm", "-live", "1", "-cluster_time_limit", "250"), 0.5),
        ("recorder.mp4", (*FRAGMENTED, "-c:a", "aac"), 0.6),
        ("radio.mp3", ("-b:a", "64k"), 0.5),
        ("radio.aac", ("-c:a", "aac"), 0.5),
        ("line.wav", ("-c:a", "pcm_s16le"), 0.6),
    ],
)
def test_a_live_stream_is_decoded_as_it_comes(folder: Path, name: str, args: tuple[str, ...], max_behind: float) -> None:
    """A browser's MediaRecorder sends a piece every 100 ms or so: the sound may not wait for much more than a cluster."""
    sound = np.random.default_rng(0).uniform(-0.2, 0.2, 48_000 * 10).astype(np.float32)
    data = encode(folder, sound, 48_000, name, *args).read_bytes()
    intake = ContainerIntake(channel=None, target_rate=RATE)
    num_samples, behind = 0, []
    size = len(data) // 100
    for index, piece in enumerate(pieces_of(data, size)):
        num_samples += sum(len(samples) for samples in intake.push(piece))
        behind.append(10.0 * min(1.0, (index + 1) * size / len(data)) - num_samples / RATE)
    intake.close()
    assert max(behind[10:]) < max_behind


def test_a_wav_from_a_pipe_does_not_know_its_length_and_is_read_to_its_end(folder: Path) -> None:
    path = encode(folder, tone(SECONDS, 440, 44_100), 44_100, "known.wav", "-c:a", "pcm_s16le")
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-i", str(path), "-c:a", "copy", "-f", "wav", "-"]
    piped = subprocess.run(command, check=True, capture_output=True).stdout
    assert b"data\xff\xff\xff\xff" in piped
    expected = samples_of_file(path.read_bytes())
    np.testing.assert_array_equal(samples_of_file(piped), expected)
    np.testing.assert_array_equal(stream_samples(piped, [10, 50, 5_000]), expected)
    zero = piped.replace(b"data\xff\xff\xff\xff", b"data\0\0\0\0")
    np.testing.assert_array_equal(samples_of_file(zero), expected)
    np.testing.assert_array_equal(stream_samples(zero, [10, 50, 5_000]), expected)


def test_a_recording_that_starts_inside_a_frame_is_read_from_the_next_one(folder: Path) -> None:
    for name in ("joined.mp3", "joined.aac"):
        data = encode(folder, tone(SECONDS, 440, 44_100), 44_100, name).read_bytes()[2_000:]
        samples = samples_of_file(data)
        assert loudest_hz(samples, RATE) == pytest.approx(440, abs=0.5)
        np.testing.assert_array_equal(stream_samples(data, [1, 2, 3, 700]), samples)


def test_a_sample_rate_that_changes_on_the_way_is_brought_to_the_first_one(folder: Path) -> None:
    parts = [
        encode(folder, tone(SECONDS, hz, rate), rate, f"{rate}.mp3", "-write_xing", "0", "-id3v2_version", "0").read_bytes()
        for hz, rate in ((440, 44_100), (660, 22_050), (880, 44_100))
    ]
    joined = b"".join(parts)
    samples = samples_of_file(joined)
    assert len(samples) / RATE == pytest.approx(3 * SECONDS, abs=0.3)
    for index, hz in enumerate((440, 660, 880)):
        middle = samples[int((index + 0.25) * SECONDS * RATE) : int((index + 0.75) * SECONDS * RATE)]
        assert loudest_hz(middle, RATE) == pytest.approx(hz, abs=1)
    np.testing.assert_array_equal(stream_samples(joined, [100, len(parts[0]), len(parts[0]) + 7]), samples)


def test_channels_may_change_on_the_way(folder: Path) -> None:
    options = ("-write_xing", "0", "-id3v2_version", "0")
    stereo = encode(folder, np.stack([tone(SECONDS, 440, 44_100)] * 2, axis=1), 44_100, "two.mp3", *options).read_bytes()
    mono = encode(folder, tone(SECONDS, 440, 44_100), 44_100, "one.mp3", *options).read_bytes()
    samples = samples_of_file(stereo + mono)
    assert len(samples) / RATE == pytest.approx(2 * SECONDS, abs=0.2)
    np.testing.assert_array_equal(stream_samples(stereo + mono, [100]), samples)


def test_a_video_without_sound_is_unsupported_and_one_with_sound_is_heard(folder: Path) -> None:
    silent, heard = folder / "silent.webm", folder / "heard.webm"
    picture = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-f", "lavfi", "-i", "testsrc=s=64x64:r=10:d=3"]
    subprocess.run([*picture, "-c:v", "libvpx", str(silent)], check=True)
    sound = ["-f", "lavfi", "-i", "sine=440:d=3:r=48000", "-c:v", "libvpx", "-c:a", "libopus"]
    subprocess.run([*picture, *sound, str(heard)], check=True)
    for take in (samples_of_file, stream_samples):
        with pytest.raises(UnsupportedAudio, match="holds no sound"):
            take(silent.read_bytes())
        assert loudest_hz(take(heard.read_bytes()), RATE) == pytest.approx(440, abs=0.5)


def test_a_playlist_is_no_sound_and_opens_no_file(folder: Path) -> None:
    target = encode(folder, tone(1.0, 440, 16_000), 16_000, "target.mp3")
    playlists = (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {target}\n",
        f"v=0\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\na={target}\n",
    )
    for playlist, take in itertools.product(playlists, (samples_of_file, stream_samples)):
        with pytest.raises(UnsupportedAudio):
            take(playlist.encode())


def test_an_hour_of_a_few_bytes_comes_in_blocks_of_a_second(folder: Path) -> None:
    path = encode(folder, np.zeros(8_000, np.float32), 8_000, "hour.flac", "-af", "apad=whole_dur=3600")
    assert path.stat().st_size < 1_000_000
    with path.open("rb") as file, open_audio(file, channel=None) as audio:
        lengths = [len(block) for block in audio.blocks()]
    assert set(lengths) == {8_000}
    assert len(lengths) == 3_600
    intake = ContainerIntake(channel=None, target_rate=RATE)
    sizes = [len(samples) for samples in itertools.chain(intake.push(path.read_bytes()), intake.finish())]
    assert sum(sizes) == 3_600 * RATE
    assert max(sizes) <= 2 * RATE


def test_decoding_damage_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for name in ("noisy.mp3", "noisy.aac", "noisy.flac", "noisy.opus", "noisy.wav"):
        data = bytearray(encode(folder, noise(4.0, 48_000), 48_000, name).read_bytes())
        for place in random.integers(len(data) // 2, len(data), 3):
            data[place] ^= 0x55
        assert len(samples_of_file(bytes(data))) > 0
    assert capfd.readouterr() == ("", "")
