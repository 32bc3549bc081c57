"""What the service writes down: one line an event, as text to read or as JSON for programs.

A line bears the request's or the session's id, which a context variable carries, so that whoever logs need not know it.
Sound is never logged: bytes and arrays appear as their size. Library loggers are heard from WARNING on; uvicorn's own INFO
lines would print query strings, which may hold a token.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

ROOT_LOGGER: Final = "service"
MAX_VALUE_CHARS: Final = 500
QUIET_ROUTES: Final = ("/health/live", "/health/ready", "/metrics")
# What uvicorn logs as errors: each upgrade that was refused with an answer (which it sends all the same), and text frames that
# are no UTF-8 (which it closes with 1007).
_CLIENTS_DOING: Final = frozenset(
    {"ASGI callable returned without completing handshake.", "Invalid UTF-8 sequence received from client."}
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PLAIN = re.compile(r"[^\s\"=]+")

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_session_id: ContextVar[str | None] = ContextVar("session_id", default=None)
_access = logging.getLogger("service.access")
_audit = logging.getLogger("service.audit")


@contextmanager
def request_context(request_id: str) -> Iterator[None]:
    """Let every line logged in this context bear a request's id."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


@contextmanager
def session_context(session_id: str) -> Iterator[None]:
    """Let every line logged in this context bear a stream's session id."""
    token = _session_id.set(session_id)
    try:
        yield
    finally:
        _session_id.reset(token)


def log_event(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Log one event with its fields.

    Args:
        logger: The module's own, `logging.getLogger(__name__)`.
        level: `logging.INFO` and so on.
        event: What happened, in a few words that do not vary.
        fields: What varies. Bytes and arrays are logged as their size, long text is cut.
    """
    logger.log(level, event, extra={"fields": fields}, stacklevel=2)


def log_request(method: str, route: str, status: int, seconds: float) -> None:
    """Log an answered request: the route's template and never its query, which may hold a token.

    Probes and scrapes, which come every few seconds, are logged at DEBUG.
    """
    level = logging.DEBUG if route in QUIET_ROUTES and status < 500 else logging.INFO
    log_event(_access, level, "request answered", method=method, route=route, status=status, ms=round(seconds * 1000, 1))


def log_refusal(what: Literal["request", "stream"], key: str | None, outcome: str, seconds: float) -> None:
    """Log a request that was answered with an error, or a stream whose upgrade was.

    Args:
        what: Which of them.
        key: The name of the API key it came with, where one was recognised.
        outcome: The code of the error it was answered with.
        seconds: How long that took.
    """
    log_event(_audit, logging.INFO, f"{what} refused", key=key or "-", outcome=outcome, ms=round(seconds * 1000, 1))


def log_stream(key: str | None, outcome: str, *, open_seconds: float, sound_seconds: float) -> None:
    """Log a stream that is over.

    Args:
        key: The name of the API key it came with, where one was recognised.
        outcome: How it ended, of `service.metrics.STREAM_OUTCOMES`.
        open_seconds: How long it was open.
        sound_seconds: How much sound it brought.
    """
    seconds, open_s = round(sound_seconds, 3), round(open_seconds, 3)
    log_event(_audit, logging.INFO, "stream closed", key=key or "-", outcome=outcome, seconds=seconds, open_s=open_s)


def configure_logging(
    log_format: Literal["text", "json"], level: Literal["debug", "info", "warning", "error"], stream: TextIO | None = None
) -> None:
    """Send everything that is logged in this process to one stream, standard error by default.

    It replaces the handlers of the root logger and of uvicorn's, so that calling it again is safe.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT_LOGGER).setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_fault)
    logging.captureWarnings(True)


def _is_fault(record: logging.LogRecord) -> bool:
    """Whether one of uvicorn's errors is ours: what clients do wrong is told to them, and is one INFO line of our own."""
    return record.msg not in _CLIENTS_DOING


class TextFormatter(logging.Formatter):
    """`TIME LEVEL logger event key=value ...`, on one line whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = _fields_of(record)
        pairs = "".join(f" {key}={_quote(value)}" for key, value in fields.items())
        line = f"{_time_of(record)} {record.levelname:<7} {record.name} {record.getMessage().rstrip()}{pairs}"
        return _CONTROL.sub(lambda match: repr(match[0])[1:-1], line)


class JsonFormatter(logging.Formatter):
    """One JSON object: `time`, `level`, `logger`, `event`, ids, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        head = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage().rstrip(),
        }
        return json.dumps(head | _fields_of(record), ensure_ascii=False)


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    given = getattr(record, "fields", None)
    fields = {name: _plain_value(value) for name, value in given.items()} if isinstance(given, dict) else {}
    for name, variable in (("request_id", _request_id), ("session_id", _session_id)):
        if (value := variable.get()) is not None:
            fields.setdefault(name, value)
    if record.exc_info and record.exc_info[0] is not None:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


def _plain_value(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if hasattr(value, "__array__"):
        return f"<array of {getattr(value, 'shape', '?')}>"
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "..."


def _quote(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
