from __future__ import annotations

import numpy as np
import pytest

from service.commands.capture_queue import CaptureQueue
from service.commands.devices import Device, NoMicrophone, choose_device
from service.commands.listen_sources import SourceLost
from service.commands.microphone import MicrophoneReader
from service.errors import InvalidParameter

WEBCAM = Device(0, "HD Webcam C920", "ALSA", 2, 32_000, False)
HEADSET = Device(3, "Headset", "ALSA", 1, 16_000, True)
AGAIN = Device(7, "Headset", "JACK", 1, 16_000, False)
ARRAY = Device(9, "3", "ALSA", 4, 48_000, False)
DEVICES = [WEBCAM, HEADSET, AGAIN, ARRAY]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(None, HEADSET), ("0", WEBCAM), ("7", AGAIN), ("3", HEADSET), ("headset", HEADSET), ("c920", WEBCAM)],
)
def test_a_device_is_found_by_its_number_its_name_or_a_part_of_it(wanted: str | None, expected: Device) -> None:
    assert choose_device(DEVICES, wanted) == expected


def test_where_the_system_has_no_choice_the_first_device_is_taken() -> None:
    assert choose_device([WEBCAM, AGAIN], None) == WEBCAM


def test_what_is_not_there_or_not_one_is_refused_with_what_there_is() -> None:
    with pytest.raises(InvalidParameter, match=r"no device like 'x': .*0 'HD Webcam C920', 3 'Headset', 7 'Headset', 9 '3'"):
        choose_device(DEVICES, "x")
    with pytest.raises(InvalidParameter, match=r"more than one device is like 'e': .*0 'HD Webcam C920', 3 'Headset'"):
        choose_device(DEVICES, "e")
    with pytest.raises(NoMicrophone):
        choose_device([], "x")


@pytest.mark.parametrize(("channel", "expected"), [(None, [0.25, 0.5]), (1, [0.5, 1.0])])
def test_of_several_channels_one_is_taken_or_the_mean(channel: int | None, expected: list[float]) -> None:
    queue = CaptureQueue(2)
    queue.put(np.float32([0, 0.5, 0, 1]).tobytes(), 2)
    reader = MicrophoneReader(WEBCAM, 2, channel, queue, pytest.fail)
    assert np.frombuffer(reader.read(), np.float32).tolist() == expected


def test_what_was_lost_is_said_with_when_and_how_long() -> None:
    queue, reports = CaptureQueue(1), list[str]()
    reader = MicrophoneReader(HEADSET, 1, None, queue, reports.append)
    second = bytes(4 * HEADSET.sample_rate)
    queue.put(second, HEADSET.sample_rate)
    queue.put(second, HEADSET.sample_rate)
    assert reader.read() == second
    queue.put(second, HEADSET.sample_rate, has_overflowed=True)
    assert reader.read() == second
    assert [report.partition(": the sound")[0].partition(": this")[0] for report in reports] == [
        "Headset: 1.0 s were not heard at 1.00 s",
        "Headset: some sound was not heard at 1.00 s",
    ]


def test_a_device_that_ends_is_lost_and_one_that_was_told_to_is_not() -> None:
    queue = CaptureQueue(1)
    reader = MicrophoneReader(HEADSET, 1, None, queue, pytest.fail)
    queue.end()
    with pytest.raises(SourceLost, match=r"lost at 0\.00 s"):
        reader.read()
    reader.stop()
    assert reader.read() == b""
