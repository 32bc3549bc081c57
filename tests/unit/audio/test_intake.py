from __future__ import annotations

import gc
import io
import threading
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from service.audio.decoding import open_audio
from service.audio.formats import RawFormat
from service.audio.intake import ContainerIntake, Intake, RawIntake, file_samples
from service.errors import CutSample, InvalidParameter, NotStreamable, UndecodableAudio, UnsupportedAudio
from service.observer import Stage
from tests.support.sounds import FloatArray, noise, stream_samples, take_in, tone


class Ticks:
    """A clock that goes one second further at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def flac(sound: FloatArray, rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def raw_intake(encoding: str = "s16le", rate: int = 16_000, channels: int = 1, channel: int | None = None) -> RawIntake:
    return RawIntake(RawFormat(encoding, rate, channels), channel=channel, target_rate=16_000)  # type: ignore[arg-type]


def container_intake(channel: int | None = None) -> ContainerIntake:
    return ContainerIntake(channel=channel, target_rate=16_000)


def decoder_threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"decode-{name}"]


def samples_of_file(data: bytes) -> np.ndarray:
    with open_audio(io.BytesIO(data), channel=None) as audio:
        return np.concatenate([np.zeros(0, np.int16), *file_samples(audio, 16_000)])


def test_a_raw_stream_at_the_models_rate_passes_unchanged() -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype("<i2")
    np.testing.assert_array_equal(take_in(raw_intake(), samples.tobytes(), [1, 2, 3, 1001, 1001, 4000]), samples)


def test_a_raw_stream_knows_its_format_from_the_start() -> None:
    intake = raw_intake(rate=8_000, channels=2)
    assert (intake.sample_rate, intake.channels) == (8_000, 2)


def test_a_large_push_comes_out_in_pieces_of_a_second() -> None:
    pieces = list(raw_intake(rate=4_000).push(bytes(2 * 4_000 * 10)))
    assert len(pieces) == 10
    assert max(len(piece) for piece in pieces) <= 17_000


def test_what_is_whole_is_yielded_before_the_cut_sample_is_told() -> None:
    intake = raw_intake(rate=8_000)
    num_samples = sum(len(piece) for piece in intake.push(bytes(2 * 8_000 + 1)))
    rest = intake.finish()
    assert num_samples + len(next(rest)) == 16_000
    with pytest.raises(CutSample, match="1 bytes into a frame of 2"):
        next(rest)
    assert list(intake.finish()) == []


def test_a_raw_intake_that_is_closed_gives_nothing_more() -> None:
    intake = raw_intake(rate=4_000)
    pieces = intake.push(bytes(2 * 4_000 * 10))
    next(pieces)
    intake.close()
    intake.close()
    assert list(pieces) == []
    assert list(intake.push(bytes(100))) == []
    assert list(intake.finish()) == []


def test_a_raw_channel_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(InvalidParameter, match="channel is 1"):
        raw_intake(channel=1)


def test_the_stages_are_reported_once_for_each_push() -> None:
    heard: list[tuple[Stage, float]] = []

    def observe(stage: Stage, seconds: float) -> None:
        heard.append((stage, seconds))

    intake = RawIntake(RawFormat("s16le", 8_000, 1), channel=None, target_rate=16_000, observe=observe, clock=Ticks())
    list(intake.push(bytes(2 * 8_000 * 3)))
    assert heard == [("decode", 3.0), ("resample", 3.0)]
    heard.clear()
    list(intake.finish())
    assert heard == [("resample", 1.0)]


def test_a_container_and_a_file_report_the_same_stages() -> None:
    data = flac(tone(2.5, 440, 16_000))
    for run in (_stream_stages, _file_stages):
        heard = run(data)
        assert {stage for stage, _ in heard} == {"decode", "resample"}
        assert all(seconds >= 1.0 for _, seconds in heard)


def _stream_stages(data: bytes) -> list[tuple[Stage, float]]:
    heard: list[tuple[Stage, float]] = []
    intake = ContainerIntake(
        channel=None, target_rate=16_000, observe=lambda stage, seconds: heard.append((stage, seconds)), clock=Ticks()
    )
    take_in(intake, data, [1000])
    return heard


def _file_stages(data: bytes) -> list[tuple[Stage, float]]:
    heard: list[tuple[Stage, float]] = []
    with open_audio(io.BytesIO(data), channel=None) as audio:
        list(file_samples(audio, 16_000, lambda stage, seconds: heard.append((stage, seconds)), Ticks()))
    return heard


def test_durations_need_an_observer_and_a_clock() -> None:
    heard: list[tuple[Stage, float]] = []
    without_clock = RawIntake(
        RawFormat("s16le", 8_000, 1),
        channel=None,
        target_rate=16_000,
        observe=lambda stage, seconds: heard.append((stage, seconds)),
    )
    take_in(without_clock, bytes(100))
    take_in(RawIntake(RawFormat("s16le", 8_000, 1), channel=None, target_rate=16_000, clock=Ticks()), bytes(100))
    assert heard == []


def test_a_container_stream_tells_its_format_once_its_start_is_there() -> None:
    data = flac(np.stack([tone(3.0, 440, 22_050)] * 2, axis=1), 22_050)
    intake = container_intake()
    assert list(intake.push(data[:3])) == []
    assert (intake.container, intake.sample_rate, intake.channels) == (None, None, None)
    assert sum(len(piece) for piece in intake.push(data[3:])) > 16_000
    assert (intake.container, intake.sample_rate, intake.channels) == ("flac", 22_050, 2)
    intake.close()


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 5], list(range(0, 10_000, 77))])
def test_a_container_stream_gives_the_samples_of_its_file(cuts: list[int]) -> None:
    data = flac(noise(2.0, 22_050), 22_050)
    np.testing.assert_array_equal(stream_samples(data, cuts), samples_of_file(data))


def test_a_decoder_that_runs_ahead_waits_and_gives_its_sound_in_pieces() -> None:
    data = flac(np.zeros(16_000 * 600, np.float32))
    assert len(data) < 100_000, "ten minutes of silence, in few bytes"
    intake = container_intake()
    pieces = intake.push(data)
    sizes = [len(next(pieces)) for _ in range(100)]
    assert max(sizes) <= 32_000
    sizes += [len(piece) for piece in pieces] + [len(piece) for piece in intake.finish()]
    assert max(sizes) <= 32_000
    assert sum(sizes) == 16_000 * 600


def test_a_picked_channel_is_the_one_that_is_heard() -> None:
    left, right = tone(1.0, 440, 16_000), tone(1.0, 880, 16_000)
    data = flac(np.stack([left, right], axis=1))
    np.testing.assert_allclose(stream_samples(data, [100], channel=1), right * 2**15, atol=1.0)


@pytest.mark.parametrize("channel", [1, 100])
def test_a_channel_that_is_not_there_ends_the_stream(channel: int) -> None:
    with pytest.raises(InvalidParameter, match=f"channel is {channel}, the sound has 1") as caught:
        stream_samples(flac(tone(1.0, 440, 16_000)), channel=channel)
    assert caught.value.param == "channel"


def test_an_error_stays() -> None:
    intake = container_intake(channel=5)
    with pytest.raises(InvalidParameter):
        list(intake.push(flac(noise(3.0, 16_000))))
    with pytest.raises(InvalidParameter):
        list(intake.push(b"more"))
    with pytest.raises(InvalidParameter):
        list(intake.finish())
    intake.close()
    assert list(intake.finish()) == []


def test_a_stream_of_no_bytes_is_no_error() -> None:
    intake = container_intake()
    assert list(intake.push(b"")) == []
    assert list(intake.finish()) == []
    assert list(intake.finish()) == []
    assert list(intake.push(b"RIFF")) == []


@pytest.mark.parametrize("data", [b"R", b"hello, world", b"ID3\x04\0\0\0\0\x02\x01" + bytes(257)])
def test_a_short_stream_of_unknown_bytes_is_refused_at_its_end(data: bytes) -> None:
    intake = container_intake()
    assert list(intake.push(data)) == []
    with pytest.raises(UnsupportedAudio):
        list(intake.finish())


def test_a_long_stream_of_unknown_bytes_is_refused_on_the_way() -> None:
    with pytest.raises(UnsupportedAudio, match="hello, world"):
        list(container_intake().push(b"hello, world" * 1000))


def test_a_stream_that_ends_within_its_header_is_undecodable() -> None:
    with pytest.raises(UndecodableAudio, match="the bytes are flac"):
        stream_samples(flac(noise(1.0, 16_000))[:30])


def test_a_stream_shorter_than_its_recognition_is_decoded_at_its_end() -> None:
    data = b"\0" + b"\xff\xfb\x90\x64" + bytes(413) + b"\xff\xfb\x90\x64" + bytes(413)
    assert list((intake := container_intake()).push(data)) == []
    assert sum(len(piece) for piece in intake.finish()) > 0


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_mp4_with_its_index_last_is_refused_at_its_first_sound(step: int) -> None:
    head = b"\0\0\0\x1cftypM4A \0\0\x02\0M4A isomiso2" + b"\0\0\0\x08free" + b"\0\x10\0\0mdat"
    intake = container_intake()
    pieces = (piece for start in range(0, len(head), step) for piece in intake.push(head[start : start + step]))
    with pytest.raises(NotStreamable, match=r"-movflags \+faststart.*or send it as a file"):
        next(pieces)
    assert list(intake.push(b"more")) == []
    assert list(intake.finish()) == []


def test_a_caf_is_read_as_a_file_and_refused_as_a_stream() -> None:
    caf = io.BytesIO()
    soundfile.write(caf, tone(1.0, 440, 16_000), 16_000, format="CAF")
    assert len(samples_of_file(caf.getvalue())) == 16_000
    with pytest.raises(NotStreamable, match="send it as a file"):
        list(container_intake().push(caf.getvalue()[:100]))


def test_bytes_after_the_end_of_the_sound_are_dropped() -> None:
    wav = io.BytesIO()
    soundfile.write(wav, tone(1.0, 440, 16_000), 16_000, format="WAV")
    intake = container_intake()
    samples = [*intake.push(wav.getvalue()), *intake.push(b"LIST\x04\0\0\0INFO"), *intake.push(bytes(10_000)), *intake.finish()]
    assert sum(len(piece) for piece in samples) == 16_000


def test_close_lets_a_decoder_go_that_waits_for_bytes() -> None:
    intake = container_intake()
    list(intake.push(flac(noise(2.0, 16_000))[:1000]))
    (thread,) = decoder_threads("flac")
    intake.close()
    intake.close()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert list(intake.push(b"more")) == []
    assert list(intake.finish()) == []


def test_close_lets_a_decoder_go_that_waits_to_be_taken_from() -> None:
    intake = container_intake()
    pieces = intake.push(flac(noise(10.0, 16_000)))
    next(pieces)
    (thread,) = decoder_threads("flac")
    intake.close()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert list(pieces) == []


def test_an_intake_that_nobody_holds_lets_its_decoder_go() -> None:
    intake = container_intake()
    list(intake.push(flac(noise(2.0, 16_000))[:1000]))
    (thread,) = decoder_threads("flac")
    del intake
    gc.collect()
    thread.join(timeout=30)
    assert not thread.is_alive()


@pytest.mark.parametrize("make", [raw_intake, container_intake])
def test_both_are_intakes(make: Callable[[], Intake]) -> None:
    intake: Intake = make()
    intake.close()
    assert list(intake.finish()) == []


def test_a_file_without_samples_gives_none() -> None:
    wav = io.BytesIO()
    soundfile.write(wav, np.zeros(0), 16_000, format="WAV")
    assert len(samples_of_file(wav.getvalue())) == 0
    assert len(stream_samples(wav.getvalue())) == 0
