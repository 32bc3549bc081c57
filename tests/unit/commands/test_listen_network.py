from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from service.commands.addresses import is_address, without_secrets
from service.commands.av_connection import AvConnection
from service.commands.listen_network import Connection, NetworkReader, Patience
from service.commands.listen_sources import SourceLost
from service.errors import InvalidParameter, UnsupportedAudio
from tests.support.programs import find_program
from tests.support.shared import REPOSITORY

SECOND = bytes(4 * 8000)


class Line:
    """A connection that gives what a test says: sound, or how it breaks."""

    sample_rate = 8000

    def __init__(self, *pieces: bytes | OSError, duration: float | None = None, has_length: bool = False) -> None:
        self._pieces = list(pieces)
        self.duration_seconds = duration
        self.has_length = has_length
        self.is_closed = False

    def read(self) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, OSError):
            raise piece
        return piece

    def close(self) -> None:
        self.is_closed = True


class Exchange:
    """Gives one line after the other; a clock that only sleeping moves."""

    def __init__(self, *lines: Line | OSError, give_up: float = 60) -> None:
        first, *self._lines = lines
        assert isinstance(first, Line)
        self.now = 0.0
        self.pauses: list[float] = []
        self.reports: list[str] = []
        self.reader = NetworkReader(
            "radio", first, self._connect, Patience(give_up, lambda: self.now, self._sleep), self.reports.append
        )

    def _connect(self, sample_rate: int | None) -> Connection:
        assert sample_rate == 8000
        line = self._lines.pop(0) if self._lines else OSError("refused")
        if isinstance(line, OSError):
            raise line
        return line

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def all(self) -> bytes:
        data = b""
        while piece := self.reader.read():
            data += piece
        return data


def test_a_broken_connection_is_made_again_after_pauses_that_double() -> None:
    first, empty = Line(SECOND, SECOND, OSError("reset")), Line()
    radio = Exchange(first, OSError("refused"), OSError("refused"), empty, Line(SECOND), give_up=10)
    assert [radio.reader.read() for _ in range(3)] == [SECOND] * 3
    assert radio.pauses == [0, 0.5, 1, 2]
    assert first.is_closed
    assert empty.is_closed
    assert radio.reports == ["radio: lost at 2.00 s: reset", "radio: back, 3.5 s were not heard"]
    assert radio.reader.seconds == 3


@pytest.mark.parametrize(
    "url", ["http://radio.invalid/stream", "rtsp://user:secret@radio.invalid/live", "https://radio.invalid/"]
)
def test_a_name_that_cannot_be_resolved_is_told_from_other_trouble(url: str) -> None:
    with pytest.raises(OSError, match=r"^the name radio\.invalid cannot be resolved \(.+\)$"):
        AvConnection(url, None, None)


def test_a_name_that_cannot_be_resolved_any_more_is_asked_for_again() -> None:
    pauses: list[float] = []
    reader = NetworkReader(
        "radio",
        Line(SECOND),
        lambda rate: AvConnection("http://radio.invalid/stream", None, rate),
        Patience(4, lambda: sum(pauses), pauses.append),
        lambda _: None,
    )
    assert reader.read() == SECOND
    with pytest.raises(SourceLost, match=r"did not come back in 4 s: the name radio\.invalid cannot be resolved"):
        reader.read()
    assert pauses == [0, 0.5, 1, 2]


def test_what_does_not_come_back_ends_with_the_reason() -> None:
    radio = Exchange(Line(SECOND))
    assert radio.reader.read() == SECOND
    with pytest.raises(SourceLost, match="60 s: refused"):
        radio.reader.read()
    assert radio.pauses == [0, 0.5, 1, 2, 4, 8, 16]
    assert radio.reports == ["radio: lost at 1.00 s: it ended"]


def test_who_wants_no_second_connection_gets_none() -> None:
    radio = Exchange(Line(OSError("reset")), Line(SECOND), give_up=0)
    with pytest.raises(SourceLost, match="reset"):
        radio.reader.read()


def test_a_file_ends_where_it_ends() -> None:
    radio = Exchange(Line(SECOND, SECOND, duration=2.5))
    assert radio.all() == 2 * SECOND
    assert radio.reports == []


@pytest.mark.parametrize("end", [b"", OSError("reset")])
def test_a_file_that_breaks_off_is_not_begun_again(end: bytes | OSError) -> None:
    radio = Exchange(Line(SECOND, end, duration=60), Line(SECOND))
    assert radio.reader.read() == SECOND
    with pytest.raises(SourceLost, match=r"broke off at 1\.00 s of 60\.00 s"):
        radio.reader.read()


def test_a_file_whose_length_is_stated_ends_with_its_last_byte_whatever_its_head_estimates() -> None:
    for duration in (None, 60.0):
        radio = Exchange(Line(SECOND, duration=duration, has_length=True), Line(SECOND))
        assert radio.all() == SECOND
        assert radio.reports == []
    radio = Exchange(Line(SECOND, OSError("reset"), has_length=True), Line(SECOND))
    assert radio.reader.read() == SECOND
    with pytest.raises(SourceLost, match=r"broke off at 1\.00 s: reset"):
        radio.reader.read()


def test_a_live_playlist_that_is_complete_is_over_and_not_played_again() -> None:
    complete = Line(SECOND, SECOND, duration=2)
    radio = Exchange(Line(SECOND, SECOND), complete)
    assert radio.all() == 2 * SECOND
    assert complete.is_closed
    assert radio.reports[-1] == "radio: it is over"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("http://host/x", True),
        ("HTTPS://host/x", True),
        ("rtsp://host/x", True),
        ("file:///x", False),
        ("http", False),
        ("x.wav", False),
        ("-", False),
    ],
)
def test_addresses_are_told_from_files(source: str, expected: bool) -> None:
    assert is_address(source) is expected


def test_what_is_shown_of_an_address_has_no_secrets() -> None:
    assert without_secrets("rtsp://user:secret@camera:554/1?token=secret") == "rtsp://camera:554/1"


SPEECH = str(REPOSITORY / "examples" / "speech.wav")


@pytest.mark.parametrize(("rate", "samples"), [(None, 16_000), (8000, 8000)])
def test_sound_comes_at_the_rate_of_the_first_connection(rate: int | None, samples: int) -> None:
    connection = AvConnection(SPEECH, None, rate)
    num_bytes = len(all_of(connection))
    assert connection.sample_rate == samples
    assert connection.duration_seconds == pytest.approx(num_bytes / 4 / samples, abs=0.05)


def test_a_damaged_packet_costs_its_own_sound_and_no_more(tmp_path: Path) -> None:
    whole, damaged = tmp_path / "whole.aac", tmp_path / "damaged.aac"
    ffmpeg = [find_program("ffmpeg"), "-nostdin", "-loglevel", "error"]
    subprocess.run([*ffmpeg, "-i", SPEECH, str(whole)], check=True, timeout=60)
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 600] = bytes((7 * index + 255) % 256 for index in range(600))
    damaged.write_bytes(data)
    with av.open(str(damaged)) as container, pytest.raises(av.InvalidDataError):
        deque(container.decode(audio=0), maxlen=0)
    expected, heard = (all_of(AvConnection(str(path), None, None)) for path in (whole, damaged))
    missing = (len(expected) - len(heard)) / 4 / 16_000
    assert 0 < missing < 0.5
    second = 4 * 16_000
    assert heard[:second] == expected[:second]
    assert heard[-second:] == expected[-second:]


def all_of(connection: AvConnection) -> bytes:
    data = b"".join(iter(connection.read, b""))
    connection.close()
    return data


def refuse(connect: Callable[[], object], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        connect()


def test_what_cannot_be_listened_to_says_why() -> None:
    refuse(lambda: AvConnection(SPEECH, 3, None), InvalidParameter, "no channel 3")
    refuse(lambda: AvConnection(str(REPOSITORY / "README.md"), None, None), UnsupportedAudio, "no sound")
    refuse(lambda: AvConnection("http://127.0.0.1:1/x", None, None), OSError, "refused")
