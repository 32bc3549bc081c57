"""`/asyncapi.json`: the websocket described for programs, as OpenAPI describes REST, made of the models of its messages.

Source: the AsyncAPI specification 3.0.0 and its WebSockets bindings 0.1.0.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, Final

import pydantic
from fastapi import APIRouter, Request

from service.api.websocket import BEARER_PROTOCOL
from service.audio.formats import MAX_RAW_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from service.errors import ServiceError
from service.postprocess.event_config import EventConfig
from service.release import read_version
from service.streaming import messages
from service.streaming.messages import CLIENT_MESSAGES, ClientMessage, ServerMessage, Start

router = APIRouter(tags=["streams"])

Schema = dict[str, Any]
ASYNCAPI_VERSION: Final = "3.0.0"
AUDIO: Final = "audio"
"""The name of what a binary frame is; every other name is a message's `type`."""
_REFERENCE: Final = "#/components/schemas/{model}"
_BINDINGS_VERSION: Final = "0.1.0"
_CHANNEL: Final = "stream"
_ABOUT: Final = (
    "Live sound in, tags and events out. Binary frames are sound and nothing else, text frames are JSON objects with a `type`. "
    "The configuration comes in the query string, in a first `start`, or in both; what is given twice must be the same. The "
    "upgrade is refused with 503 and Retry-After when the service is full, drains, is not ready, or cannot ask for the stream "
    "that is to go on; anything else that is wrong is told by an `error` before the close. Where the service has keys, one of "
    "the security schemes is needed."
)
_SECURITY_SCHEMES: Final[Schema] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a token of POST /v1/tokens: for programs.",
    },
    "subprotocol": {
        "type": "httpApiKey",
        "in": "header",
        "name": "Sec-WebSocket-Protocol",
        "description": f"The subprotocol `{BEARER_PROTOCOL}` with an API key or token behind it: for browsers, which can set "
        "no other header. It is answered with, unless `sonotag.v1` is offered too.",
    },
    "token": {
        "type": "httpApiKey",
        "in": "query",
        "name": "token",
        "description": "A token of POST /v1/tokens, and no API key: addresses are written into logs.",
    },
}
"""Any one of them will do."""


def server_messages() -> dict[str, type[ServerMessage]]:
    """Return the model of each message that the server sends, by its `type`."""
    models = [model for _, model in inspect.getmembers(messages, inspect.isclass) if issubclass(model, ServerMessage)]
    return {model.model_fields["type"].default: model for model in models if model is not ServerMessage}


@router.get("/asyncapi.json")
def describe_stream(request: Request) -> Schema:
    """The description of the websocket `/v1/stream`, as an AsyncAPI 3 document."""
    url = request.url
    security = [{"$ref": f"#/components/securitySchemes/{name}"} for name in _SECURITY_SCHEMES]
    server: Schema = {"host": url.netloc, "protocol": "wss" if url.scheme == "https" else "ws", "security": security}
    if root_path := request.scope.get("root_path"):
        server["pathname"] = root_path
    return {**make_document(), "servers": {"this": server}}


@functools.cache
def make_document() -> Schema:
    """Make the document, without the servers; nobody may change it."""
    schemas: Schema = {}
    described = {AUDIO: _describe_audio()}
    for kind, client_model in CLIENT_MESSAGES.items():
        described[kind] = _describe_message(kind, client_model, _client_schema(client_model, schemas))
    for kind, server_model in server_messages().items():
        described[kind] = _describe_message(kind, server_model, _server_schema(server_model, schemas))
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "Sonotag live streams",
            "version": read_version(),
            "description": "Real-time streaming audio tagging over a websocket.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            _CHANNEL: {
                "address": "/v1/stream",
                "title": "A live stream",
                "description": f"{_ABOUT}\n\n{_describe_closes()}",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in described},
                "bindings": {"ws": {"method": "GET", "query": _query_schema(), "bindingVersion": _BINDINGS_VERSION}},
            }
        },
        "operations": {
            "listen": _describe_operation("receive", "What a client sends", [AUDIO, *CLIENT_MESSAGES]),
            "answer": _describe_operation("send", "What the server sends", list(server_messages())),
        },
        "components": {"messages": described, "schemas": schemas, "securitySchemes": _SECURITY_SCHEMES},
    }


def _describe_operation(action: str, summary: str, names: list[str]) -> Schema:
    channel = f"#/channels/{_CHANNEL}"
    references = [{"$ref": f"{channel}/messages/{name}"} for name in names]
    return {"action": action, "summary": summary, "channel": {"$ref": channel}, "messages": references}


def _describe_message(kind: str, model: type[pydantic.BaseModel], payload: Schema) -> Schema:
    summary = inspect.cleandoc(model.__doc__ or "").splitlines()[0]
    return {"name": kind, "title": kind, "summary": summary, "contentType": "application/json", "payload": payload}


def _describe_audio() -> Schema:
    return {
        "name": AUDIO,
        "title": AUDIO,
        "summary": "A binary frame: the next bytes of the sound, cut anywhere.",
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "format": "binary"},
    }


def _describe_closes() -> str:
    """Say which code of an `error` comes before which close."""
    codes: dict[int, list[str]] = {}
    for kind in _all_errors(ServiceError):
        codes.setdefault(kind.close_code, []).append(kind.code)
    return "\n".join(f"- {close}: {', '.join(sorted(set(names)))}" for close, names in sorted(codes.items()))


def _all_errors(kind: type[ServiceError]) -> list[type[ServiceError]]:
    # Errors of other modules are no server's.
    children = [child for child in kind.__subclasses__() if child.__module__ == kind.__module__]
    return [kind, *(found for child in children for found in _all_errors(child))]


def _client_schema(model: type[ClientMessage], schemas: Schema) -> Schema:
    """Return what a client may send as text: `type` is required there, though a query string goes without."""
    schema = _take_definitions(model.model_json_schema(ref_template=_REFERENCE), schemas)
    schema["required"] = sorted({"type", *schema.get("required", ())})
    if "events" in schema["properties"]:
        schema["properties"]["events"] = _events_schema()
    if "sample_rate" in schema["properties"]:
        _bound(schema, "sample_rate", MIN_SAMPLE_RATE, MAX_SAMPLE_RATE)
        _bound(schema, "channels", 1, MAX_RAW_CHANNELS)
    return schema


def _server_schema(model: type[ServerMessage], schemas: Schema) -> Schema:
    """Return what the server sends: every field is there, but for those that are left out instead of being null."""
    schema = model.model_json_schema(by_alias=True, mode="serialization", ref_template=_REFERENCE)
    schema = _take_definitions(schema, schemas)
    for name in model.left_out_when_none:
        field = schema["properties"][name]
        [field["type"]] = [part["type"] for part in field.pop("anyOf") if part["type"] != "null"]
        field.pop("default", None)
    schema["required"] = [name for name in schema["properties"] if name not in model.left_out_when_none]
    return schema


def _take_definitions(schema: Schema, schemas: Schema) -> Schema:
    """Move a schema's definitions to where all messages share them."""
    for name, definition in schema.pop("$defs", {}).items():
        assert schemas.setdefault(name, definition) == definition, f"two models are called {name}"
    return schema


def _bound(schema: Schema, name: str, minimum: int, maximum: int) -> None:
    number = next(part for part in schema["properties"][name]["anyOf"] if part["type"] != "null")
    number |= {"minimum": minimum, "maximum": maximum}


def _events_schema() -> Schema:
    """Return what `events` takes: a change to what is in force, in which null takes a value back to its default."""
    schema = EventConfig.model_json_schema()
    label = schema["$defs"]["LabelEventConfig"]
    per_label = {"type": "object", "additionalProperties": {"anyOf": [label, {"type": "null"}]}}
    fields = {name: field for name, field in schema["properties"].items() if name != "per_label"} | {"per_label": per_label}
    properties = {name: {"anyOf": [_without_default(field), {"type": "null"}]} for name, field in fields.items()}
    patch = {"type": "object", "additionalProperties": False, "properties": properties}
    return {
        "title": "Events",
        "description": "false for no events, true for those in force, or an object that changes them (a JSON merge patch).",
        "anyOf": [patch, {"type": "boolean"}, {"type": "null"}],
    }


def _without_default(field: Schema) -> Schema:
    return {key: value for key, value in field.items() if key != "default"}


def _query_schema() -> Schema:
    """Return the query string's fields: those of `start`, in words, since everything in it is text."""
    properties: Schema = {name: {"type": "string"} for name in Start.model_fields if name not in {"type", "labels", "exclude"}}
    repeated = {"type": "array", "items": {"type": "string"}, "description": "Repeatable, one exact label or id each."}
    token = {"type": "string", "description": "Of POST /v1/tokens, where the service has API keys."}
    return {"type": "object", "properties": properties | {"labels": repeated, "exclude": repeated, "token": token}}
