"""Every parameter of `POST /v1/classify`: what it does, and what is said about values that it does not take."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.app_server import AppServer, serving
from tests.support.process import ServiceProcess
from tests.support.rest import DOG, MUSIC, SPEECH, expect_error, heard, scores, wav
from tests.support.runners import LABELS, FakeRunner, level

CLIP = wav(heard((SPEECH, 1.5), (MUSIC, 1.0), (DOG, 0.5)))


def ask(server: AppServer | ServiceProcess, clip: bytes = CLIP, **query: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/classify", params=query, content=clip)


def answer(server: AppServer | ServiceProcess, clip: bytes = CLIP, **query: Any) -> dict[str, Any]:
    response = ask(server, clip, **query)
    assert response.status_code == 200, response.text
    result = response.json()
    assert isinstance(result, dict)
    return result


def test_an_answer_holds_model_duration_and_tags_and_nothing_that_was_not_asked_for(fake_server: AppServer) -> None:
    result = answer(fake_server)
    assert list(result) == ["model", "duration", "tags"]
    assert (result["model"], result["duration"]) == ("fake", 3.0)
    assert [list(tag) for tag in result["tags"]] == [["label", "id", "score"]] * 4
    assert [tag["id"] for tag in result["tags"]] == [LABELS.index(tag["label"]) for tag in result["tags"]]
    values = [tag["score"] for tag in result["tags"]]
    assert values == sorted(values, reverse=True)


def test_five_tags_come_by_default(embedded_server: ServiceProcess) -> None:
    assert len(answer(embedded_server, wav(heard((DOG, 1.0))))["tags"]) == 5


def test_top_k_takes_the_best(fake_server: AppServer) -> None:
    assert list(scores(answer(fake_server, top_k=1))) == ["Speech"]
    assert list(scores(answer(fake_server, top_k=2))) == ["Speech", "Music"]


def test_a_top_k_above_the_number_of_labels_means_all(fake_server: AppServer) -> None:
    assert len(answer(fake_server, top_k=5)["tags"]) == len(LABELS)
    assert len(answer(fake_server, top_k=10**30)["tags"]) == len(LABELS)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "", "9" * 5000])
def test_a_top_k_that_is_no_positive_integer_is_refused(fake_server: AppServer, value: str) -> None:
    message = expect_error(ask(fake_server, top_k=value), 400, "invalid_parameter", "top_k")
    assert "integer" in message or "greater than or equal to 1" in message
    assert len(message) < 300


def test_a_threshold_keeps_what_is_at_or_above_it(fake_server: AppServer) -> None:
    assert scores(answer(fake_server, threshold=0.5)) == {"Speech": 0.5}
    assert list(scores(answer(fake_server, threshold=0.500001))) == []
    assert len(answer(fake_server, threshold=0)["tags"]) == 4


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "inf", "half"])
def test_a_threshold_that_is_no_probability_is_refused(fake_server: AppServer, value: str) -> None:
    expect_error(ask(fake_server, threshold=value), 400, "invalid_parameter", "threshold")


def test_labels_and_exclude_are_repeated_and_apply_before_top_k(fake_server: AppServer) -> None:
    assert list(scores(answer(fake_server, labels=["Dog", "Music"]))) == ["Music", "Dog"]
    assert list(scores(answer(fake_server, labels=["Dog", "Music"], top_k=1))) == ["Music"]
    assert list(scores(answer(fake_server, exclude=["Speech", "Music"], top_k=1))) == ["Dog"]
    assert list(scores(answer(fake_server, labels=["Dog", "Music"], exclude="Music"))) == ["Dog"]
    assert answer(fake_server, labels="Dog", exclude="Dog")["tags"] == []


@pytest.mark.parametrize("name", ["dog", "DOG", "3"])
def test_a_label_is_given_in_any_case_or_as_an_id(fake_server: AppServer, name: str) -> None:
    assert list(scores(answer(fake_server, labels=name))) == ["Dog"]


def test_a_name_with_commas_is_one_label(embedded_server: ServiceProcess) -> None:
    name = "Child speech, kid speaking"
    assert list(scores(answer(embedded_server, labels=name.upper()))) == [name]
    assert name not in scores(answer(embedded_server, exclude=name, top_k=10_000))
    message = expect_error(ask(embedded_server, labels="Speech,Music"), 400, "unknown_label", "labels")
    assert "'Speech,Music'" in message


@pytest.mark.parametrize(("param", "value", "nearest"), [("labels", "speach", "'Speech'"), ("exclude", "musik", "'Music'")])
def test_an_unknown_label_is_refused_with_the_nearest(fake_server: AppServer, param: str, value: str, nearest: str) -> None:
    message = expect_error(ask(fake_server, **{param: value}), 400, "unknown_label", param)
    assert repr(value) in message
    assert nearest in message


@pytest.mark.parametrize("value", ["4", "-1", "99999999999999999999", "1.0", "", "²"])
def test_an_id_that_the_model_does_not_have_is_refused(fake_server: AppServer, value: str) -> None:
    assert "0 to 3" in expect_error(ask(fake_server, labels=value), 400, "unknown_label", "labels")


@pytest.mark.parametrize("value", ["0.02", "1.01", "0", "-1", "1e308", "-1e308"])
def test_a_window_that_the_model_cannot_take_is_refused_with_the_range(fake_server: AppServer, value: str) -> None:
    message = expect_error(ask(fake_server, window=value), 400, "invalid_parameter", "window")
    assert "0.1 to 1 s" in message


@pytest.mark.parametrize("value", ["0.09", "1.5", "0", "-1", "1e308", "-1e308"])
def test_a_hop_out_of_range_is_refused_with_the_range(fake_server: AppServer, value: str) -> None:
    message = expect_error(ask(fake_server, hop=value), 400, "invalid_parameter", "hop")
    assert "from 0.1 s to the window, 1 s" in message


@pytest.mark.parametrize("param", ["window", "hop"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "long"])
def test_window_and_hop_are_finite_numbers(fake_server: AppServer, param: str, value: str) -> None:
    expect_error(ask(fake_server, **{param: value}), 400, "invalid_parameter", param)


def test_a_hop_is_compared_with_the_window_of_the_same_request(fake_server: AppServer) -> None:
    assert answer(fake_server, window=0.5, hop=0.5)["duration"] == 3
    message = expect_error(ask(fake_server, window=0.5, hop=0.6), 400, "invalid_parameter", "hop")
    assert "to the window, 0.5 s" in message


def test_mean_and_max_are_over_the_windows(fake_server: AppServer) -> None:
    # Three windows: Speech; half Speech and half Music; half Music and half Dog.
    assert scores(answer(fake_server, aggregate="mean")) == {
        "Speech": 0.5,
        "Music": pytest.approx(1 / 3),
        "Dog": pytest.approx(1 / 6),
        "Silence": 0,
    }
    assert scores(answer(fake_server, aggregate="max")) == {"Speech": 1, "Music": 0.5, "Dog": 0.5, "Silence": 0}
    message = expect_error(ask(fake_server, aggregate="median"), 400, "invalid_parameter", "aggregate")
    assert "'mean' or 'max'" in message


def test_a_timeline_holds_the_tags_of_each_window(fake_server: AppServer) -> None:
    result = answer(fake_server, timeline="true", top_k=1, hop=1)
    assert list(result) == ["model", "duration", "tags", "windows"]
    assert result["windows"] == [
        {"start": 0.0, "end": 1.0, "tags": [{"label": "Speech", "id": 1, "score": 1.0}]},
        {"start": 1.0, "end": 2.0, "tags": [{"label": "Speech", "id": 1, "score": 0.5}]},
        {"start": 2.0, "end": 3.0, "tags": [{"label": "Music", "id": 2, "score": 0.5}]},
    ]
    assert "windows" not in answer(fake_server, timeline="false")
    expect_error(ask(fake_server, timeline="perhaps"), 400, "invalid_parameter", "timeline")


@pytest.mark.parametrize(
    "value", ["true", "1", "{}", '{"onset_threshold": 0.5}', '{"per_label": {"dog": {"min_duration": 0}}}']
)
def test_events_are_found_where_they_are_asked_for(fake_server: AppServer, value: str) -> None:
    found = answer(fake_server, events=value, hop=0.5)["events"]
    assert [list(event) for event in found] == [["label", "onset", "offset", "peak"]] * len(found)
    speech = next(event for event in found if event["label"] == "Speech")
    assert speech["onset"] == 0
    assert speech["peak"] == 1


def test_events_are_off_by_default_and_by_false(fake_server: AppServer) -> None:
    assert "events" not in answer(fake_server)
    assert "events" not in answer(fake_server, events="false")
    assert answer(fake_server, wav(level(9, 16_000)), events="true")["events"] == []


def test_the_object_of_events_changes_what_counts(fake_server: AppServer) -> None:
    # Dog is never above a half.
    def labels(**events: Any) -> set[str]:
        return {event["label"] for event in answer(fake_server, events=json.dumps(events))["events"]}

    assert labels(onset_threshold=0.5, offset_threshold=0.5, min_duration=0) == {"Speech", "Music", "Dog"}
    assert labels(onset_threshold=0.6, offset_threshold=0.5) == {"Speech"}
    assert labels(onset_threshold=0.6, per_label={"dog": {"onset_threshold": 0.4}}) == {"Speech", "Dog"}


@pytest.mark.parametrize(
    ("value", "param", "part"),
    [
        ("perhaps", "events", "true, false or an object"),
        ("[]", "events", "true, false or an object"),
        ("{", "events", "true, false or an object"),
        ("[" * 3000, "events", "true, false or an object"),
        ('{"onset": 0.5}', "events.onset", "did you mean onset_threshold?"),
        ('{"onset_threshold": 2}', "events.onset_threshold", "less than or equal to 1"),
        ('{"onset_threshold": NaN}', "events.onset_threshold", ""),
        ('{"offset_threshold": 0.6}', "events", "events: offset_threshold 0.6 is above onset_threshold 0.5"),
        ('{"max_gap": "long"}', "events.max_gap", "number"),
    ],
)
def test_events_that_make_no_sense_are_refused(fake_server: AppServer, value: str, param: str, part: str) -> None:
    message = expect_error(ask(fake_server, events=value), 400, "invalid_parameter", param)
    assert part in message
    assert "..." not in message, "nothing is shown that has to be cut"


def test_an_unknown_label_of_events_is_refused_with_the_nearest(fake_server: AppServer) -> None:
    events = json.dumps({"per_label": {"Dogg": {"min_duration": 1}}})
    assert "'Dog'" in expect_error(ask(fake_server, events=events), 400, "unknown_label", "events.per_label")


def test_the_embedding_is_the_mean_over_the_windows_by_their_sound(fake_server: AppServer) -> None:
    clip = wav(np.concatenate([level(SPEECH, 16_000), level(DOG, 4_000)]))
    # One full window of 1000, and, aligned to the end, one that begins inside the same label.
    assert answer(fake_server, clip, embedding="true")["embedding"] == [16_000, 1000, 0, 0]
    # As a stream has them: half a window of 1000, two whole ones of it, and one that begins with it.
    partial = answer(fake_server, wav(level(SPEECH, 24_000)), embedding="true", hop=0.5)["embedding"]
    assert partial == [pytest.approx((8_000**2 + 2 * 16_000**2) / 40_000), 1000, 0, 0]
    assert "embedding" not in answer(fake_server, embedding="false")


def test_the_embedding_of_the_embedded_model_has_its_size(embedded_server: ServiceProcess) -> None:
    size = httpx.get(f"{embedded_server.url}/v1/models").json()["models"][0]["embedding_size"]
    values = answer(embedded_server, embedding=True)["embedding"]
    assert len(values) == size
    assert any(values)


def test_the_model_is_chosen_by_name(fake_server: AppServer) -> None:
    assert answer(fake_server, model="fake")["model"] == "fake"
    message = expect_error(ask(fake_server, model="fakes"), 404, "not_found", "model")
    assert "'fakes'" in message
    assert "fake" in message


def test_one_channel_is_picked_in_place_of_the_mean(fake_server: AppServer) -> None:
    loud = np.stack([level(SPEECH, 16_000), level(DOG, 16_000)], axis=1)
    opposite = np.stack([level(DOG, 16_000), -level(DOG, 16_000)], axis=1)
    for clip, channel, label in (
        (loud, 0, "Speech"),
        (loud, 1, "Dog"),
        (loud, None, "Music"),
        (opposite, None, "Silence"),
        (opposite, 1, "Dog"),
    ):
        query = {} if channel is None else {"channel": channel}
        assert list(scores(answer(fake_server, wav(clip), top_k=1, **query))) == [label]


def test_the_only_channel_is_the_first(fake_server: AppServer) -> None:
    message = expect_error(ask(fake_server, wav(level(DOG, 16_000)), channel=1), 400, "invalid_parameter", "channel")
    assert message == "channel is 1, the sound has 1: allowed is 0"


@pytest.mark.parametrize("value", ["2", "-1", "left", "1" + "0" * 30])
def test_a_channel_that_is_not_there_is_refused(fake_server: AppServer, value: str) -> None:
    stereo = wav(np.zeros((16_000, 2), np.int16))
    expect_error(ask(fake_server, stereo, channel=value), 400, "invalid_parameter", "channel")


@pytest.mark.parametrize(
    ("name", "nearest"), [("topk", "top_k"), ("label", "labels"), ("Threshold", "threshold"), ("event", "events")]
)
@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/batch"])
def test_an_unknown_parameter_is_refused_with_the_nearest(fake_server: AppServer, path: str, name: str, nearest: str) -> None:
    response = httpx.post(f"{fake_server.url}{path}", params={name: "1"}, content=CLIP)
    message = expect_error(response, 400, "invalid_parameter", name)
    assert f"did you mean {nearest}?" in message


def test_an_unknown_parameter_that_is_near_nothing_is_refused_too(fake_server: AppServer) -> None:
    message = expect_error(ask(fake_server, zzzzzz="1"), 400, "invalid_parameter", "zzzzzz")
    assert "did you mean" not in message


def test_scores_have_at_least_six_digits() -> None:
    with serving(FakeRunner(window_samples=48_000)) as server:
        assert scores(answer(server))["Music"] == pytest.approx(1 / 3, abs=5e-7)
