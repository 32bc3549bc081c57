"""What is served, whether it is ready, and the pages for people."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from service.inference.providers import has_byte_products
from service.settings import EMBEDDED_BUNDLE
from tests.support.app_server import AppServer, serving
from tests.support.bundles import write_bundle
from tests.support.process import ServiceProcess, running
from tests.support.rest import SPEECH, expect_error, heard, wav
from tests.support.runners import LABELS, ForgetfulRunner


def get(server: AppServer | ServiceProcess, path: str, **query: str) -> Any:
    response = httpx.get(server.url + path, params=query)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def test_every_operation_stands_under_one_heading_of_the_docs(fake_server: AppServer) -> None:
    paths = get(fake_server, "/openapi.json")["paths"]
    tags = {path: operation.get("tags", []) for path, item in paths.items() for operation in item.values()}
    assert {tag for found in tags.values() for tag in found} == {"clips", "models", "streams", "access", "operation"}
    assert [path for path, found in tags.items() if len(found) != 1] == []
    assert tags["/v1/classify/batch"] == ["clips"]


def test_models_says_what_is_served_and_which_is_the_default(embedded_server: ServiceProcess) -> None:
    manifest = json.loads((EMBEDDED_BUNDLE.folder / "bundle.json").read_text())
    served = get(embedded_server, "/v1/models")
    assert list(served) == ["default", "models"]
    (model,) = served["models"]
    assert served["default"] == model["name"] == EMBEDDED_BUNDLE.name
    assert model["architecture"] == manifest["architecture"]
    assert model["parameters"] == manifest["architecture"]["num_parameters"]
    assert model["window_seconds"] == manifest["window_samples"] / 16_000
    assert model["windows_seconds"] == [length / 16_000 for length in manifest["windows_samples"]] == [1.135, 2.095, 5.135]
    assert (model["precision"], model["provider"]) == ("int8" if has_byte_products() else "fp32", "cpu")
    assert model["precisions"] == ["fp16", "fp32", "int8"]
    assert model["source"] == manifest["source"]
    assert model["licence"] == manifest["source"]["licence"]
    assert model["parity"] == manifest["precisions"][model["precision"]]["parity"]
    assert model["labels"] == len(manifest["labels"])
    assert model["activation"] == "sigmoid"
    assert str(EMBEDDED_BUNDLE.folder.parent) not in json.dumps(served)


def test_one_model_is_described_as_in_the_list(embedded_server: ServiceProcess) -> None:
    listed = get(embedded_server, "/v1/models")["models"][0]
    assert get(embedded_server, f"/v1/models/{listed['name']}") == listed


def test_labels_come_with_their_ids(embedded_server: ServiceProcess, fake_server: AppServer) -> None:
    expected = {"model": "fake", "labels": [{"id": index, "label": label} for index, label in enumerate(LABELS)]}
    assert get(fake_server, "/v1/labels") == expected
    assert get(fake_server, "/v1/labels", model="fake") == expected
    served = get(embedded_server, "/v1/labels")
    assert served["labels"] == json.loads((EMBEDDED_BUNDLE.folder / "bundle.json").read_text())["labels"]


def test_the_id_of_a_tag_is_its_label(embedded_server: ServiceProcess) -> None:
    labels = get(embedded_server, "/v1/labels")["labels"]
    clip = wav(heard((SPEECH, 1.0)))
    tags = httpx.post(f"{embedded_server.url}/v1/classify", params={"top_k": 1000}, content=clip).json()["tags"]
    assert len(tags) == len(labels) == 521
    assert all(labels[tag["id"]] == {"id": tag["id"], "label": tag["label"]} for tag in tags)


def test_a_running_service_is_live_and_ready(fake_server: AppServer) -> None:
    assert get(fake_server, "/health/live") == {"status": "live"}
    assert get(fake_server, "/health/ready") == {"status": "ready"}


def test_the_root_is_a_page(fake_server: AppServer) -> None:
    page = httpx.get(fake_server.url + "/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "Sonotag" in page.text


def test_the_description_says_what_a_clip_may_be_sent_with_and_answered_by(fake_server: AppServer) -> None:
    described = get(fake_server, "/openapi.json")
    assert described["info"]["title"] == "Sonotag"
    classify = described["paths"]["/v1/classify"]["post"]
    assert {parameter["name"] for parameter in classify["parameters"]} == {
        *("top_k", "threshold", "labels", "exclude", "window", "hop", "aggregate"),
        *("timeline", "embedding", "events", "model", "channel"),
    }
    assert set(classify["requestBody"]["content"]) == {"multipart/form-data", "application/octet-stream"}
    assert set(classify["responses"]) == {"200", *map(str, (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503))}
    for path in ("/v1/classify/batch", "/compat/huggingface", "/v1/models", "/v1/models/{name}", "/v1/labels", "/health/ready"):
        assert path in described["paths"]


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/batch", "/compat/huggingface"])
def test_no_parameter_error_is_described_as_422_of_the_framework(fake_server: AppServer, path: str) -> None:
    described = get(fake_server, "/openapi.json")
    schema = described["paths"][path]["post"]["responses"]["422"]["content"]["application/json"]["schema"]
    assert schema["$ref"].endswith("/ErrorAnswer")


def test_several_models_are_served_by_name(tmp_path: Any) -> None:
    folder = write_bundle(tmp_path / "bundle")
    with running("service", "serve", environ={"SONOTAG_BUNDLES": f"one={folder},two={folder}"}, cwd=tmp_path) as server:
        server.wait_ready()
        assert get(server, "/v1/models")["default"] == "one"
        assert [model["name"] for model in get(server, "/v1/models")["models"]] == ["one", "two"]
        clip = wav(heard((SPEECH, 1.0)))
        answers = [
            httpx.post(f"{server.url}/v1/classify", params=query, content=clip).json()
            for query in ({}, {"model": "one"}, {"model": "two"})
        ]
        assert [answer.pop("model") for answer in answers] == ["one", "one", "two"]
        assert answers[0] == answers[1] == answers[2]


def test_pages_of_an_allowed_origin_may_ask_and_no_others(fake_server: AppServer) -> None:
    clip, asked = (
        wav(heard((SPEECH, 1.0))),
        {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-request-id"},
    )
    with serving(cors_origins=("https://page.example",)) as server:
        url = f"{server.url}/v1/classify"
        allowed = httpx.options(url, headers={"Origin": "https://page.example"} | asked)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://page.example"
        answer = httpx.post(url, content=clip, headers={"Origin": "https://page.example"})
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        assert "Server-Timing" in answer.headers["access-control-expose-headers"]
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        refused = httpx.post(url, content=b"no sound", headers={"Origin": "https://page.example"})
        assert refused.headers["access-control-allow-origin"] == "https://page.example"  # or the page could not read why
        assert (
            "access-control-allow-origin"
            not in httpx.post(url, content=clip, headers={"Origin": "https://other.example"}).headers
        )
    plain = httpx.post(f"{fake_server.url}/v1/classify", content=clip, headers={"Origin": "https://page.example"})
    assert "access-control-allow-origin" not in plain.headers


def test_a_page_may_read_that_something_broke_on_our_side() -> None:
    with serving(ForgetfulRunner(), cors_origins=("https://page.example",)) as server:
        asked = {"params": {"labels": "Dog"}, "headers": {"Origin": "https://page.example", "X-Request-Id": "broken-1"}}
        answer = httpx.post(f"{server.url}/v1/classify", content=wav(heard((SPEECH, 1.0))), **asked)
    error = expect_error(answer, 500, "internal")
    assert "X-Request-Id" in error
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert answer.headers["x-request-id"] == "broken-1"
