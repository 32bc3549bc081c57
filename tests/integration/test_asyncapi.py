"""The description of the websocket is a right one, and what real sessions say is as it describes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest

from service.errors import ServiceError
from service.streaming.messages import CLIENT_MESSAGES, ServerMessage, parse_client_message
from tests.support.app_server import AppServer, serving
from tests.support.keys import add_key, bearer
from tests.support.streams import DrivenSession
from tests.support.websocket import Stream

REFERENCE = {
    "type": "object",
    "required": ["$ref"],
    "properties": {"$ref": {"type": "string", "pattern": "^#/"}},
    "additionalProperties": False,
}
RULES = {
    "type": "object",
    "required": ["asyncapi", "info", "channels", "operations", "components"],
    "properties": {
        "asyncapi": {"const": "3.0.0"},
        "info": {
            "type": "object",
            "required": ["title", "version"],
            "properties": {"title": {"type": "string"}, "version": {"type": "string"}, "description": {"type": "string"}},
        },
        "defaultContentType": {"type": "string"},
        "servers": {
            "additionalProperties": {
                "type": "object",
                "required": ["host", "protocol"],
                "properties": {
                    "host": {"type": "string"},
                    "protocol": {"enum": ["ws", "wss"]},
                    "security": {"type": "array", "items": REFERENCE, "minItems": 1},
                },
            }
        },
        "channels": {
            "additionalProperties": {
                "type": "object",
                "required": ["address", "messages"],
                "properties": {"address": {"type": "string"}, "messages": {"additionalProperties": REFERENCE}},
            }
        },
        "operations": {
            "additionalProperties": {
                "type": "object",
                "required": ["action", "channel", "messages"],
                "properties": {
                    "action": {"enum": ["send", "receive"]},
                    "channel": REFERENCE,
                    "messages": {"type": "array", "items": REFERENCE, "minItems": 1},
                },
            }
        },
        "components": {
            "type": "object",
            "required": ["messages", "schemas"],
            "properties": {
                "messages": {"additionalProperties": {"type": "object", "required": ["name", "payload"]}},
                "schemas": {"additionalProperties": {"$ref": "http://json-schema.org/draft-07/schema#"}},
                "securitySchemes": {
                    "additionalProperties": {
                        "oneOf": [
                            {
                                "required": ["type", "scheme"],
                                "properties": {
                                    "type": {"const": "http"},
                                    "scheme": {"const": "bearer"},
                                    "bearerFormat": {"type": "string"},
                                    "description": {"type": "string"},
                                },
                                "additionalProperties": False,
                            },
                            {
                                "required": ["type", "name", "in"],
                                "properties": {
                                    "type": {"const": "httpApiKey"},
                                    "name": {"type": "string"},
                                    "in": {"enum": ["user", "password", "query", "header", "cookie"]},
                                    "description": {"type": "string"},
                                },
                                "additionalProperties": False,
                            },
                        ]
                    }
                },
            },
        },
    },
    "additionalProperties": False,
}
"""What AsyncAPI 3 asks of the parts that the document uses."""
QUERY = {"encoding": "s16le", "sample_rate": 16_000}
GOOD = (
    '{"type": "start"}',
    '{"type": "start", "encoding": "auto", "labels": ["Dog", 2], "events": false, "on_lag": "wait"}',
    '{"type": "start", "sample_rate": 8000, "channels": 2, "channel": 0, "window": 1, "model": null}',
    '{"type": "update", "events": {"onset_threshold": 0.7, "max_gap": null, "per_label": {"Dog": {"min_duration": 1}}}}',
    '{"type": "update", "events": {"per_label": {"Dog": null}}, "top_k": 1, "threshold": 0.5, "hop": 0.5, "exclude": []}',
    '{"type": "flush"}',
    '{"type": "keep_alive"}',
    '{"type": "stop"}',
)
BAD = (
    "{}",
    '{"type": "begin"}',
    '{"type": "stop", "when": 1}',
    '{"type": "start", "encoding": "mp5"}',
    '{"type": "start", "top_k": 0}',
    '{"type": "start", "channel": -1}',
    '{"type": "start", "on_lag": "panic"}',
    '{"type": "update", "threshold": 1.5}',
    '{"type": "update", "window": 1}',
    '{"type": "update", "labels": "Dog"}',
)


@contextmanager
def described() -> Iterator[tuple[AppServer, dict[str, Any]]]:
    with serving() as server:
        answer = httpx.get(server.url + "/asyncapi.json")
        assert answer.status_code == 200
        yield server, answer.json()


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    with described() as (_, document):
        return document


def sound(seconds: float, label_id: int) -> bytes:
    """Return sound in which the fake model hears one label."""
    return np.full(int(16_000 * seconds), 1000 * label_id, "<i2").tobytes()


def validator(document: dict[str, Any], kind: str) -> jsonschema.Draft7Validator:
    """Return what validates one type of message: AsyncAPI's own schemas are JSON Schema, draft 7."""
    return jsonschema.Draft7Validator(
        {**document["components"]["messages"][kind]["payload"], "components": document["components"]}
    )


def problems(document: dict[str, Any], message: dict[str, Any]) -> list[str]:
    """Return what is wrong with a message: what does not fit its schema, and fields that the schema does not know."""
    kind = message.get("type")
    if kind not in document["components"]["messages"]:
        return [f"no message {kind}"]
    payload = document["components"]["messages"][kind]["payload"]
    unknown = [f"{name} is not described" for name in message.keys() - payload["properties"].keys()]
    return unknown + [error.message for error in validator(document, kind).iter_errors(message)]


def test_the_document_keeps_to_the_specification(document: dict[str, Any]) -> None:
    assert [error.message for error in jsonschema.Draft7Validator(RULES).iter_errors(document)] == []
    for message in document["components"]["messages"].values():
        jsonschema.Draft7Validator.check_schema(message["payload"])
    for operation in document["operations"].values():
        channel = operation["channel"]["$ref"].removeprefix("#/channels/")
        allowed = {f"#/channels/{channel}/messages/{name}" for name in document["channels"][channel]["messages"]}
        assert {message["$ref"] for message in operation["messages"]} <= allowed


def test_the_rules_would_tell_of_a_wrong_document(document: dict[str, Any]) -> None:
    rules = jsonschema.Draft7Validator(RULES)
    assert not rules.is_valid({name: value for name, value in document.items() if name != "info"})
    assert not rules.is_valid(document | {"operations": {"listen": {"action": "subscribe"}}})
    assert not rules.is_valid(document | {"components": document["components"] | {"schemas": {"a": {"type": "text"}}}})
    wrong = {"token": {"type": "httpApiKey", "in": "body", "name": "token"}}
    assert not rules.is_valid(document | {"components": document["components"] | {"securitySchemes": wrong}})


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(part: object) -> Iterator[str]:
        if isinstance(part, dict):
            for name, value in part.items():
                yield from [value] if name == "$ref" else references(value)
        elif isinstance(part, list):
            for value in part:
                yield from references(value)

    found = set(references(document))
    assert len(found) > 20
    for reference in found:
        place = document
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]


def test_every_type_of_message_is_in_it_and_goes_its_way(document: dict[str, Any]) -> None:
    models = [*CLIENT_MESSAGES.values(), *ServerMessage.__subclasses__()]
    types = {model.model_fields["type"].annotation.__args__[0] for model in models}  # type: ignore[union-attr]
    assert set(document["components"]["messages"]) == types | {"audio"}
    ways = {operation["action"]: operation["messages"] for operation in document["operations"].values()}
    received = {message["$ref"].rpartition("/")[2] for message in ways["receive"]}
    sent = {message["$ref"].rpartition("/")[2] for message in ways["send"]}
    assert received == {*CLIENT_MESSAGES, "audio"}
    assert sent == types - received


async def test_a_stream_is_opened_by_each_of_the_security_schemes_and_by_none_without_a_credential(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "client")
    with serving(api_keys_file=str(path)) as server:
        document = (await asyncio.to_thread(httpx.get, server.url + "/asyncapi.json", headers=bearer(key))).json()
        asked = {"json": {"scopes": ["stream"]}, "headers": bearer(key)}
        token = (await asyncio.to_thread(httpx.post, server.url + "/v1/tokens", **asked)).json()["token"]
        ways: dict[tuple[str, str | None], tuple[dict[str, Any], dict[str, Any]]] = {
            ("http", None): ({}, {"additional_headers": bearer(key)}),
            ("httpApiKey", "header"): ({}, {"subprotocols": [f"sonotag.bearer.{key}"]}),
            ("httpApiKey", "query"): ({"token": token}, {}),
        }
        schemes = document["components"]["securitySchemes"]
        assert [part["$ref"].rpartition("/")[2] for part in document["servers"]["this"]["security"]] == list(schemes)
        for scheme in schemes.values():
            query, options = ways.pop((scheme["type"], scheme.get("in")))
            async with Stream(server.url, QUERY | query, **options) as listener:
                await listener.until("ready")
        assert not ways, "these are all"
        async with Stream(server.url, QUERY) as listener:
            assert (await listener.closed()).code == 4401


async def test_every_message_of_real_sessions_is_as_described() -> None:
    with described() as (server, document):
        recorded: list[dict[str, Any]] = []
        async with Stream(server.url, QUERY | {"labels": ["Speech", "Dog"]}) as listener:
            await listener.send(sound(2, 1) + sound(6, 0))
            await listener.until("warning")
            await listener.send({"type": "update", "hop": 0.5, "events": {"max_gap": 0.1}})
            await listener.until("configuration")
            await listener.send(sound(1, 3))
            await listener.send({"type": "stop"})
            recorded += (await listener.closed()).messages
        async with Stream(server.url, QUERY | {"labels": ["Spech"]}) as listener:
            recorded += (await listener.closed()).messages
        async with Stream(server.url, QUERY) as listener:
            await listener.until("ready")
            server.begin_drain()
            recorded += (await listener.closed()).messages
    assert {message["type"] for message in recorded} == {
        message["$ref"].rpartition("/")[2] for message in document["operations"]["answer"]["messages"]
    }
    assert [(problem, message) for message in recorded for problem in problems(document, message)] == []


def test_windows_that_are_dropped_and_events_that_are_withdrawn_are_as_described(document: dict[str, Any]) -> None:
    late = DrivenSession()
    late.second(count=3)
    late.poll(late.now + 5)
    [warning] = [json.loads(text) for text in late.wire if '"warning"' in text]
    assert warning["dropped_to"] > warning["dropped_from"]
    withdrawn = {"type": "event", "seq": 4, "event_id": 1, "label": "Dog", "phase": "offset", "retracted": True}
    withdrawn |= {"onset": 1.0, "offset": 1.0, "peak": 0.6}
    assert problems(document, warning) + problems(document, withdrawn) == []


@pytest.mark.parametrize("change", [{"seq": None}, {"start": "0"}, {"tags": [{"label": "Dog", "id": 3}]}, {"end": None}])
def test_a_message_that_is_otherwise_does_not_fit(document: dict[str, Any], change: dict[str, Any]) -> None:
    message = {"type": "tags", "seq": 1, "start": 0.0, "end": 1.0, "coverage": 1.0, "lag_ms": 3.0, "tags": []}
    assert problems(document, message) == []
    assert problems(document, message | change) != []
    assert problems(document, message | {"more": 1}) == ["more is not described"]


@pytest.mark.parametrize("text", GOOD)
def test_what_a_client_may_say_is_described_so(document: dict[str, Any], text: str) -> None:
    parse_client_message(text)
    assert problems(document, json.loads(text)) == []


@pytest.mark.parametrize("text", BAD)
def test_what_a_client_may_not_say_is_not_described(document: dict[str, Any], text: str) -> None:
    with pytest.raises(ServiceError):
        parse_client_message(text)
    assert problems(document, json.loads(text)) != []


def test_the_server_is_where_it_was_asked() -> None:
    with serving(root_path="/sonotag", forwarded_allow_ips="*", allowed_hosts="sound.example") as server:
        host = server.url.removeprefix("http://")
        here = httpx.get(server.url + "/asyncapi.json").json()["servers"]["this"]
        del here["security"]
        assert here == {"host": host, "protocol": "ws", "pathname": "/sonotag"}
        headers = {"Host": "sound.example", "X-Forwarded-Proto": "https"}
        proxied = httpx.get(server.url + "/sonotag/asyncapi.json", headers=headers).json()["servers"]["this"]
        del proxied["security"]
        assert proxied == {"host": "sound.example", "protocol": "wss", "pathname": "/sonotag"}
