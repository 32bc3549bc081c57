"""Schemathesis on the service's own description: whatever is drawn from it, and from nothing, is answered as it says."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fuzz.corpus import damaged, wav_file
from tests.support.app_server import AppServer, serving
from tests.support.runners import level

CLIP = wav_file(samples=level(1, 16_000).tobytes())
NUM_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
"""For each operation; `make fuzz` asks for more."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

clips = st.one_of(
    st.just(CLIP),
    st.integers(0, 10_000).map(lambda seed: next(damaged(CLIP, 1, seed))),
    st.binary(max_size=200),
)


def multipart(parts: list[tuple[str, bytes]]) -> bytes:
    """Return the body of a form with these parts; its boundary is `x`."""
    written = [
        b'--x\r\nContent-Disposition: form-data; name="%s"; filename="clip"\r\n\r\n%s\r\n' % (name.encode(), content)
        for name, content in parts
    ]
    return b"".join(written) + b"--x--\r\n"


forms = st.one_of(
    st.lists(st.tuples(st.sampled_from(["file", "file", "file", "other"]), clips), max_size=3).map(multipart),
    st.binary(max_size=100),
)


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with serving(max_clip_seconds=60, max_body_bytes=1_000_000) as running:
        yield running


@pytest.fixture(scope="module")
def schema(server: AppServer) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def operations(document: dict[str, dict[str, object]]) -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, methods in document.items() for method in methods]


def test_every_operation_answers_as_it_says(server: AppServer, schema: schemathesis.BaseSchema) -> None:
    seen: set[str] = set()
    statuses: set[int] = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not operation.query:
                continue
            seen.add(operation.path)
            statuses |= _try_operation(server, operation, operation.as_strategy(generation_mode=mode))
    assert {"/v1/classify", "/v1/classify/batch", "/compat/huggingface", "/v1/models", "/v1/labels"} <= seen
    assert {200, 400, 404, 415} <= statuses
    assert httpx.post(f"{server.url}/v1/classify", content=CLIP).json()["tags"][0]["label"] == "Speech"


def _try_operation(
    server: AppServer, operation: schemathesis.APIOperation, cases: st.SearchStrategy[schemathesis.Case]
) -> set[int]:
    statuses: set[int] = set()

    @given(case=cases, clip=clips, form=forms, is_form=st.booleans())
    @settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def try_case(case: schemathesis.Case, clip: bytes, form: bytes, is_form: bool) -> None:
        # Bodies are drawn here: a schema says no more of them than that they are bytes.
        has_body = operation.method.upper() == "POST"
        headers = {"Content-Type": "multipart/form-data; boundary=x" if is_form else "application/octet-stream"}
        case.body, case.media_type = schemathesis.core.NOT_SET, None
        content = (form if is_form else clip) if has_body else None
        answer = case.call_and_validate(
            base_url=server.url, data=content, headers=headers if has_body else {}, checks=CHECKS, timeout=60
        )
        statuses.add(answer.status_code)

    try_case()
    return statuses
