from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from service.logs import configure_logging, log_event, log_request, request_context, session_context

logger = logging.getLogger("service.test")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    names = ("", "service", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
    before = [(logging.getLogger(name), logging.getLogger(name).handlers[:], logging.getLogger(name).level) for name in names]
    yield
    logging.captureWarnings(False)
    for named, handlers, level in before:
        named.handlers[:] = handlers
        named.setLevel(level)


def configured(log_format: str = "json", level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(log_format, level, stream)  # type: ignore[arg-type]
    return stream


def only_line(stream: io.StringIO) -> str:
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_json_line_holds_the_event_its_fields_and_the_ids() -> None:
    stream = configured()
    with request_context("r-1"), session_context("s-1"):
        log_event(logger, logging.INFO, "stream refused", reason="full", open=3)
    line = json.loads(only_line(stream))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "service.test",
        "event": "stream refused",
        "reason": "full",
        "open": 3,
        "request_id": "r-1",
        "session_id": "s-1",
    }


def test_a_text_line_reads_from_left_to_right() -> None:
    stream = configured("text")
    with request_context("r-1"):
        log_event(logger, logging.WARNING, "no GPU", provider="cpu", why="two words", empty="")
    line = only_line(stream)
    assert line.endswith('WARNING service.test no GPU provider=cpu why="two words" empty="" request_id=r-1')


def test_ids_end_with_their_context() -> None:
    stream = configured()
    with request_context("r-1"):
        pass
    log_event(logger, logging.INFO, "later")
    assert "request_id" not in json.loads(only_line(stream))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_event_is_one_line_whatever_is_in_it(log_format: str) -> None:
    stream = configured(log_format)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logger.exception("failed\nin two lines \x1b[31m", extra={"fields": {"name": "a\r\nb\u2028c"}})
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert len(text.splitlines()) == 1 if log_format == "text" else json.loads(text)
    assert "\x1b" not in text
    assert "Traceback" in text


def test_sound_is_never_logged() -> None:
    stream = configured()
    log_event(logger, logging.INFO, "frame", data=b"\x01\x02", view=memoryview(b"abc"), window=np.zeros((2, 3), np.int16))
    line = json.loads(only_line(stream))
    assert (line["data"], line["view"], line["window"]) == ("<2 bytes>", "<3 bytes>", "<array of (2, 3)>")


def test_values_that_json_does_not_have_and_long_ones_are_text() -> None:
    stream = configured()
    log_event(
        logger, logging.INFO, "odd", nan=float("nan"), half=0.5, flag=True, none=None, long="x" * 2000, error=ValueError("v")
    )
    line = json.loads(only_line(stream), parse_constant=pytest.fail)
    assert (line["nan"], line["half"], line["flag"], line["none"], line["error"]) == ("nan", 0.5, True, None, "v")
    assert len(line["long"]) < 600


def test_requests_are_one_line_and_probes_are_quiet() -> None:
    stream = configured()
    log_request("GET", "/health/live", 200, 0.001)
    log_request("POST", "/v1/classify", 200, 0.0312)
    line = json.loads(only_line(stream))
    assert (line["method"], line["route"], line["status"], line["ms"]) == ("POST", "/v1/classify", 200, 31.2)


def test_a_failing_probe_is_heard() -> None:
    stream = configured()
    log_request("GET", "/health/ready", 503, 0.001)
    assert "/health/ready" in only_line(stream)


def test_uvicorn_is_heard_through_our_lines_and_only_from_warning_on() -> None:
    logging.getLogger("uvicorn.error").addHandler(logging.StreamHandler(io.StringIO()))
    stream = configured()
    logging.getLogger("uvicorn.error").info('127.0.0.1 - "WebSocket /v1/stream?token=secret" [accepted]')
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\n")
    assert json.loads(only_line(stream))["event"] == "Exception in ASGI application"


def test_what_clients_do_wrong_is_no_error_of_ours() -> None:
    stream = io.StringIO()
    configure_logging("text", "info", stream)
    logger = logging.getLogger("uvicorn.error")
    logger.error("ASGI callable returned without completing handshake.")
    logger.error("Invalid UTF-8 sequence received from client.", exc_info=ValueError("bytes"))
    logger.error("Exception in ASGI application")
    assert [line.split("uvicorn.error ")[1] for line in stream.getvalue().splitlines()] == ["Exception in ASGI application"]


def test_warnings_are_lines_too() -> None:
    stream = configured("text")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", UserWarning, stacklevel=1)
    assert "py.warnings" in only_line(stream)


def test_the_level_is_the_services_own() -> None:
    stream = configured(level="error")
    logger.warning("not heard")
    assert stream.getvalue() == ""
    stream = configured(level="debug")
    logger.debug("heard")
    logging.getLogger("somelibrary").debug("not heard")
    assert "heard" in only_line(stream)
