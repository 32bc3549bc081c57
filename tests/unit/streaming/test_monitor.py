from __future__ import annotations

import numpy as np

from service.streaming.monitor import SignalMonitor

RATE = 8000


def push(monitor, value, seconds=1):
    return [finding.code for finding in monitor.push(np.full(RATE * seconds, value, np.int16))]


def test_clipping_is_told_once_while_it_lasts_and_again_after_a_clean_second():
    monitor = SignalMonitor(RATE)
    assert push(monitor, -32768) == ["clipping"]
    assert push(monitor, 32767, 3) == []
    assert push(monitor, 100) == []
    assert push(monitor, 32767) == ["clipping"]


def test_digital_silence_is_told_after_five_seconds_and_once():
    monitor = SignalMonitor(RATE)
    assert push(monitor, 1, 4) == []
    assert push(monitor, 0) == ["silence"]
    assert push(monitor, 0, 20) == []
    assert push(monitor, 2) == []
    assert push(monitor, 0, 5) == ["silence"]


def test_what_is_told_does_not_depend_on_the_pieces():
    sound = np.concatenate([np.full(RATE, 32767), np.zeros(6 * RATE), np.full(RATE, 32767)]).astype(np.int16)
    whole = [f.code for f in SignalMonitor(RATE).push(sound)]
    monitor = SignalMonitor(RATE)
    pieces = [f.code for piece in np.array_split(sound, 371) for f in monitor.push(piece)]
    assert whole == pieces == ["clipping", "silence", "clipping"]


def check(declared, speed):
    monitor = SignalMonitor(RATE)
    return [f.code for second in range(40) for f in monitor.check_rate(declared, second + 1, second / speed)]


def test_a_stream_at_the_speed_of_another_common_rate_is_suspect():
    assert check(16_000, 3) == ["sample_rate_suspect"]
    assert check(48_000, 1 / 3) == ["sample_rate_suspect"]


def test_a_stream_at_real_time_or_at_an_odd_speed_is_not_suspect():
    assert check(16_000, 1) == []
    assert check(16_000, 2.4) == []
    assert check(16_000, 100) == []
