"""Which windows of a clip are scored, and what the answer makes of them, by what the model was given."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import numpy as np
import pytest

from service.audio.windowing import SlidingWindower, Span
from service.inference.runner import Int16Array
from tests.support.app_server import AppServer, serving
from tests.support.rest import DOG, MUSIC, RATE, SILENCE, SPEECH, heard, scores, wav
from tests.support.runners import LABELS, FakeRunner, expected_scores

WINDOW = RATE
MIXED = heard((SPEECH, 0.7), (MUSIC, 0.9), (SILENCE, 0.4), (DOG, 1.05), (SPEECH, 0.33))


def counted(num_samples: int) -> Int16Array:
    """Return samples that tell where they come from: no two places of a test's clip look the same."""
    return np.random.default_rng(11).integers(-32_768, 32_767, num_samples, np.int16, endpoint=True)


def scored_windows(server: AppServer, samples: Int16Array, **query: Any) -> tuple[list[Int16Array], dict[str, Any]]:
    """Return what the model was given for a clip, and the answer."""
    num_calls = len(server.runner.calls)
    response = httpx.post(f"{server.url}/v1/classify", params=query, content=wav(samples))
    assert response.status_code == 200, response.text
    calls = server.runner.calls[num_calls:]
    return [call.window(row) for call in calls for row in range(len(call.lengths))], response.json()


def stream_spans(num_samples: int, hop: int, window: int = WINDOW, min_samples: int = 400) -> list[Span]:
    """Return the windows of a stream of so many samples."""
    windower = SlidingWindower(window, hop, min_samples)
    spans = windower.push(np.zeros(num_samples, np.int16))
    tail = windower.flush()
    return spans + ([tail] if tail else [])


def expect_windows(given: list[Int16Array], samples: Int16Array, spans: list[Span]) -> None:
    """Check that the model was given these windows and no others. In a batch they have no order."""
    expected = [samples[span.start : span.end] for span in spans]
    assert sorted(map(len, given)) == sorted(map(len, expected))
    assert sorted(window.tobytes() for window in given) == sorted(window.tobytes() for window in expected)


def test_a_five_second_clip_is_scored_once_by_a_model_of_five_seconds() -> None:
    samples = counted(5 * RATE)
    with serving(FakeRunner(window_samples=82_160)) as server:
        given, answer = scored_windows(server, samples)
        expect_windows(given, samples, [Span(0, len(samples))])
        assert answer["duration"] == 5


@pytest.mark.parametrize(
    ("num_samples", "spans"),
    [
        (400, [(0, 400)]),
        (15_999, [(0, 15_999)]),
        (16_000, [(0, 16_000)]),
        (16_001, [(0, 16_000), (1, 16_001)]),
        (40_000, [(0, 16_000), (16_000, 32_000), (24_000, 40_000)]),
        (48_000, [(0, 16_000), (16_000, 32_000), (32_000, 48_000)]),
    ],
)
def test_without_a_hop_full_windows_lie_side_by_side_and_the_last_is_aligned_to_the_end(
    fake_server: AppServer, num_samples: int, spans: list[tuple[int, int]]
) -> None:
    samples = counted(num_samples)
    expect_windows(scored_windows(fake_server, samples)[0], samples, [Span(*span) for span in spans])


def test_a_shorter_window_is_also_the_distance_of_the_windows(fake_server: AppServer) -> None:
    samples = counted(20_000)
    given = scored_windows(fake_server, samples, window=0.5)[0]
    expect_windows(given, samples, [Span(0, 8_000), Span(8_000, 16_000), Span(12_000, 20_000)])


@pytest.mark.parametrize(
    ("num_samples", "window", "hop"),
    [*itertools.product((1000, 16_000, 23_456, 80_001), (1.0, 0.6), (0.1, 0.25, 0.6)), (80_001, 1.0, 1.0), (48_000, 1.0, 1.0)],
)
def test_with_a_hop_the_windows_are_those_of_a_stream(
    fake_server: AppServer, num_samples: int, window: float, hop: float
) -> None:
    samples = counted(num_samples)
    given, answer = scored_windows(fake_server, samples, window=window, hop=hop, timeline="true")
    spans = stream_spans(num_samples, round(hop * RATE), round(window * RATE))
    expect_windows(given, samples, spans)
    assert [(item["start"], item["end"]) for item in answer["windows"]] == [(s.start / RATE, s.end / RATE) for s in spans]


@pytest.mark.parametrize("query", [{"timeline": "true"}, {"events": "true"}, {"timeline": "true", "events": "{}"}])
def test_timeline_and_events_have_a_hop_of_one_second(query: dict[str, str]) -> None:
    samples = counted(6 * RATE + 777)
    with serving(FakeRunner(window_samples=2 * RATE)) as server:
        given = scored_windows(server, samples, **query)[0]
        expect_windows(given, samples, stream_spans(len(samples), RATE, 2 * RATE))
        assert min(map(len, given)) == RATE  # the first one is partial


def test_timeline_and_events_of_a_short_window_have_its_length_as_hop(fake_server: AppServer) -> None:
    samples = counted(20_000)
    given = scored_windows(fake_server, samples, timeline="true", window=0.5)[0]
    expect_windows(given, samples, stream_spans(len(samples), 8_000, 8_000))


@pytest.mark.parametrize(("query", "hop"), [({}, None), ({"hop": 0.25}, 4_000), ({"hop": 0.7}, 11_200)])
def test_the_mean_weighs_each_window_by_the_sound_in_it(
    fake_server: AppServer, query: dict[str, float], hop: int | None
) -> None:
    spans = stream_spans(len(MIXED), hop or WINDOW)
    assert len({len(span) for span in spans}) == (1 if hop is None else len(range(hop, WINDOW, hop)) + 1)
    each = np.stack([expected_scores(MIXED[span.start : span.end]) for span in spans]).astype(np.float64)
    weights = np.array([len(span) for span in spans])
    for aggregate, expected in (("mean", weights @ each / weights.sum()), ("max", each.max(axis=0))):
        answer = scored_windows(fake_server, MIXED, aggregate=aggregate, **query)[1]
        assert scores(answer) == {label: pytest.approx(float(expected[i]), abs=1e-6) for i, label in enumerate(LABELS)}


def test_the_timeline_holds_each_windows_own_scores(fake_server: AppServer) -> None:
    answer = scored_windows(fake_server, MIXED, timeline="true", hop=0.3)[1]
    for item in answer["windows"]:
        expected = expected_scores(MIXED[round(item["start"] * RATE) : round(item["end"] * RATE)])
        assert scores(item) == {label: pytest.approx(float(expected[i]), abs=1e-6) for i, label in enumerate(LABELS)}


def test_sound_of_another_rate_is_scored_at_the_models(fake_server: AppServer) -> None:
    for rate in (8_000, 44_100, 48_000):
        response = httpx.post(f"{fake_server.url}/v1/classify", content=wav(np.full(rate * 2, 3000, np.int16), rate))
        answer = response.json()
        assert answer["duration"] == pytest.approx(2, abs=1e-3)
        assert answer["tags"][0]["label"] == "Dog"
        assert answer["tags"][0]["score"] > 0.97


def test_an_embedding_is_computed_only_where_it_is_asked_for(fake_server: AppServer) -> None:
    for asked in (True, False):
        scored_windows(fake_server, MIXED, embedding=asked)
        assert fake_server.runner.calls[-1].embedding is asked


def test_a_file_of_many_windows_is_given_in_batches_each_window_once() -> None:
    samples = counted(90 * RATE + 5)
    with serving(FakeRunner(batch_sizes=(1, 2, 4))) as server:
        given = scored_windows(server, samples)[0]
        expect_windows(given, samples, stream_spans(len(samples), WINDOW))
        assert max(len(call.lengths) for call in server.runner.calls) > 1
