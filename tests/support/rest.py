"""Clips whose scores a test knows, the shape of every error, and waiting for what a request brings about."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import soundfile
from prometheus_client.parser import text_string_to_metric_families

from service.inference.runner import Int16Array
from tests.support.runners import WAIT_SECONDS, level

RATE = 16_000
SILENCE, SPEECH, MUSIC, DOG = range(4)


def wav(samples: Int16Array, rate: int = RATE) -> bytes:
    """Return a 16-bit WAV file of int16 `[n]` or `[n, channels]`."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def flac(samples: Int16Array) -> bytes:
    """Return a FLAC, which needs a decoder, of int16 `[n]`."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def heard(*parts: tuple[int, float]) -> Int16Array:
    """Return sound in which `FakeRunner` hears one label after the other: `(label id, seconds)`."""
    return np.concatenate([level(label_id, round(seconds * RATE)) for label_id, seconds in parts])


def scores(answer: dict) -> dict[str, float]:  # type: ignore[type-arg]
    """Return an answer's tags as a mapping."""
    return {tag["label"]: tag["score"] for tag in answer["tags"]}


def lines(response: httpx.Response) -> Iterator[dict]:  # type: ignore[type-arg]
    """Yield the objects of an NDJSON answer."""
    return (json.loads(line) for line in response.iter_lines())


def expect_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """Check that an answer is the one error shape and tells nothing of the machine; return its message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    return expect_error_body(body["error"], code, param)


def expect_error_body(error: dict, code: str, param: str | None = None) -> str:  # type: ignore[type-arg]
    """Check one error; return its message."""
    assert list(error) == ["code", "message", "param", "retryable", "retry_after_s"]
    assert (error["code"], error["param"]) == (code, param), error
    secrets = ("Traceback", 'File "', "site-packages", "/work", "/tmp", "/usr", "/home", ".py", " at 0x", "<_io.", "<class ")
    for secret in secrets:
        assert secret not in error["message"], error["message"]
    assert (error["retry_after_s"] is None) or error["retryable"]
    return str(error["message"])


def measure(url: str) -> dict[str, float]:
    """Return the samples of `/metrics`, named as Prometheus writes them."""
    page = httpx.get(f"{url}/metrics")
    assert page.status_code == 200
    values = {}
    for family in text_string_to_metric_families(page.text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}"] = sample.value
    return values


def until(holds: Callable[[], bool]) -> None:
    """Ask again and again until something holds that must hold soon."""
    end = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < end, "it never came"
