"""The compatible call, against the client that it is compatible with."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient

from tests.support.app_server import AppServer
from tests.support.process import ServiceProcess
from tests.support.rest import DOG, MUSIC, SPEECH, expect_error, heard, wav
from tests.support.shared import REPOSITORY

SENTENCE = REPOSITORY / "examples" / "speech.wav"
CLIP = wav(heard((SPEECH, 0.5), (MUSIC, 0.3), (DOG, 0.2)))
SCORES = {"Speech": 0.5, "Music": 0.3, "Dog": 0.2, "Silence": 0.0}


def classify(server: AppServer | ServiceProcess, audio: Any, **parameters: Any) -> dict[str, float]:
    url = f"{server.url}/compat/huggingface"
    client = InferenceClient(model=url, token="unused")
    return {item.label: item.score for item in client.audio_classification(audio, **parameters)}


@pytest.mark.parametrize("way", ["bytes", "path", "name"])
def test_the_client_gets_the_tags_of_a_clip(embedded_server: ServiceProcess, way: str) -> None:
    audio = {"bytes": SENTENCE.read_bytes(), "path": SENTENCE, "name": str(SENTENCE)}[way]
    found = classify(embedded_server, audio)
    assert next(iter(found)) == "Speech"
    assert len(found) == 5
    expected = httpx.post(f"{embedded_server.url}/v1/classify", content=SENTENCE.read_bytes()).json()["tags"]
    assert found == {tag["label"]: tag["score"] for tag in expected}


@pytest.mark.parametrize("top_k", [1, 3, 1000])
def test_the_client_chooses_how_many(embedded_server: ServiceProcess, top_k: int) -> None:
    assert len(classify(embedded_server, SENTENCE, top_k=top_k)) == min(top_k, 521)


def test_without_a_function_the_scores_are_the_models_own(fake_server: AppServer) -> None:
    assert classify(fake_server, CLIP) == pytest.approx(SCORES, abs=1e-6)
    assert list(classify(fake_server, CLIP)) == list(SCORES)


@pytest.mark.parametrize("function", ["sigmoid", "softmax", "none"])
def test_the_function_is_applied_to_the_logits(fake_server: AppServer, function: str) -> None:
    likely = np.clip(np.array(list(SCORES.values())), 1e-6, 1 - 1e-6)
    logits = np.log(likely / (1 - likely))  # as the fake model has them
    expected = {
        "sigmoid": 1 / (1 + np.exp(-logits)),
        "softmax": np.exp(logits) / np.exp(logits).sum(),
        "none": logits,  # below 0, most of them
    }[function]
    found = classify(fake_server, CLIP, function_to_apply=function)
    assert list(found) == list(SCORES)
    assert list(found.values()) == pytest.approx(list(expected), abs=1e-5)


def test_a_clip_of_several_windows_has_the_mean_of_what_the_function_makes_of_each(fake_server: AppServer) -> None:
    found = classify(fake_server, wav(heard((SPEECH, 1.0), (DOG, 1.0))), function_to_apply="sigmoid")
    assert found == pytest.approx({"Speech": 0.5, "Dog": 0.5, "Music": 0, "Silence": 0}, abs=1e-5)


def test_json_may_begin_with_white_space_and_need_no_content_type(fake_server: AppServer) -> None:
    body = {"inputs": base64.b64encode(CLIP).decode(), "parameters": {"top_k": 1, "function_to_apply": None}}
    for content in (json.dumps(body), "\n  " + json.dumps(body, indent=4)):
        response = httpx.post(f"{fake_server.url}/compat/huggingface", content=content.encode())
        assert response.json() == [{"label": "Speech", "score": 0.5}]


def test_a_form_is_taken_too(fake_server: AppServer) -> None:
    response = httpx.post(f"{fake_server.url}/compat/huggingface", files={"file": CLIP})
    assert response.json()[0] == {"label": "Speech", "score": 0.5}


@pytest.mark.parametrize(
    ("body", "param", "part"),
    [
        ({"inputs": "no base64!"}, "inputs", "base64"),
        ({"inputs": "é"}, "inputs", "base64"),
        ({"inputs": 7}, "inputs", "string"),
        ({}, "inputs", "inputs is missing"),
        ({"inputs": "", "parameters": {"top_k": 0}}, "parameters.top_k", "greater than or equal to 1"),
        ({"inputs": "", "parameters": {"function_to_apply": "tanh"}}, "parameters.function_to_apply", "softmax"),
        ({"inputs": "", "parameter": {}}, "parameter", "did you mean parameters?"),
        ({"inputs": "", "top-k": 3}, "top-k", "there is no parameter 'top-k'"),
        ({"inputs": "", "parameters": {"topk": 3}}, "parameters.topk", "top_k"),
    ],
)
def test_json_that_is_wrong_is_refused_with_the_reason(fake_server: AppServer, body: Any, param: str, part: str) -> None:
    response = httpx.post(f"{fake_server.url}/compat/huggingface", json=body)
    assert part in expect_error(response, 400, "invalid_parameter", param)


def test_json_that_is_none_is_refused(fake_server: AppServer) -> None:
    response = httpx.post(f"{fake_server.url}/compat/huggingface", content=b'{"inputs": ')
    assert expect_error(response, 400, "invalid_parameter").startswith("the body is no JSON: EOF while parsing")


def test_sound_inside_json_that_is_none_is_415(fake_server: AppServer) -> None:
    body = {"inputs": base64.b64encode(b"no sound").decode()}
    expect_error(httpx.post(f"{fake_server.url}/compat/huggingface", json=body), 415, "unsupported_audio")


def test_the_client_raises_what_the_service_says(fake_server: AppServer, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound")
    with pytest.raises(Exception, match="415"):
        classify(fake_server, broken)
