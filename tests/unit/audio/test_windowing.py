from __future__ import annotations

import numpy as np
import pytest

from service.audio.windowing import SlidingWindower, Span


def samples(start, end):
    return np.arange(start, end, dtype=np.int16)


def test_windows_end_at_multiples_of_the_hop_and_start_at_zero_at_first():
    windower = SlidingWindower(10, 4)
    assert windower.push(samples(0, 16)) == [Span(0, 4), Span(0, 8), Span(2, 12), Span(6, 16)]
    assert windower.received_samples == 16
    assert windower.last_end == 16


def test_a_span_reads_its_own_samples_however_they_came():
    windower = SlidingWindower(10, 4)
    spans = [span for start in range(0, 40, 3) for span in windower.push(samples(start, min(40, start + 3)))]
    for span in spans:
        np.testing.assert_array_equal(windower.read(span), samples(span.start, span.end))


def test_what_was_read_cannot_be_written_and_stays_as_it_is_while_the_sound_goes_on():
    windower = SlidingWindower(8, 4)
    windower.push(samples(0, 5))
    windows = [(span, windower.read(span)) for span in (Span(0, 4), Span(1, 5))]
    for start in range(5, 105, 5):
        windows += [(span, windower.read(span)) for span in windower.push(samples(start, start + 5))]
        windower.release(windower.received_samples)
    for span, window in windows:
        assert not window.flags.writeable
        np.testing.assert_array_equal(window, samples(span.start, span.end))


def test_flush_gives_what_is_new_once():
    windower = SlidingWindower(10, 4)
    assert windower.flush() is None
    windower.push(samples(0, 5))
    assert windower.flush() == Span(0, 5)
    assert windower.flush() is None
    assert windower.push(samples(5, 8)) == [Span(0, 8)]


def test_spans_below_the_minimum_are_not_made():
    windower = SlidingWindower(10, 2, min_samples=4)
    assert windower.push(samples(0, 3)) == []
    assert windower.flush() is None
    assert windower.push(samples(3, 4)) == [Span(0, 4)]


def test_another_hop_holds_from_the_next_sample_on():
    windower = SlidingWindower(12, 10)
    windower.push(samples(0, 17))
    windower.set_hop(3)
    assert windower.push(samples(17, 22)) == [Span(6, 18), Span(9, 21)]


def test_nothing_comes_of_nothing():
    assert SlidingWindower(10, 4).push(samples(0, 0)) == []


@pytest.mark.parametrize(("window", "hop", "minimum"), [(0, 1, 1), (10, 0, 1), (10, 11, 1), (10, 5, 11), (10, 5, 0)])
def test_numbers_that_do_not_fit_together_are_refused(window, hop, minimum):
    with pytest.raises(ValueError, match="do not fit"):
        SlidingWindower(window, hop, minimum)


def test_a_hop_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        SlidingWindower(10, 5).set_hop(11)


def test_only_what_windows_still_need_is_kept():
    windower = SlidingWindower(10, 5)
    for start in range(0, 1000, 5):
        windower.push(samples(start, start + 5))
        windower.release(windower.received_samples)
    with pytest.raises(ValueError, match="not kept"):
        windower.read(Span(970, 980))
    with pytest.raises(ValueError, match="not kept"):
        windower.read(Span(995, 1005))
    np.testing.assert_array_equal(windower.read(Span(991, 1000)), samples(991, 1000))


def test_a_large_piece_is_cut_back_once_it_is_old():
    windower = SlidingWindower(10, 10)
    windower.push(samples(0, 100))
    windower.release(50)
    np.testing.assert_array_equal(windower.read(Span(50, 60)), samples(50, 60))
    with pytest.raises(ValueError, match="not kept"):
        windower.read(Span(40, 50))


def test_sound_that_comes_sample_by_sample_is_put_together():
    windower = SlidingWindower(100, 50)
    for position in range(1000):
        for span in windower.push(samples(position, position + 1)):
            np.testing.assert_array_equal(windower.read(span), samples(span.start, span.end))
            windower.release(span.start)
    assert len(windower._chunks) <= 51


def test_a_span_has_a_length():
    assert len(Span(3, 10)) == 7


def test_what_has_come_is_not_skipped():
    windower = SlidingWindower(10, 10)
    windower.push(np.zeros(15, np.int16))
    windower.skip(12)
    assert windower.received_samples == 15
