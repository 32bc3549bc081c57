"""Any bytes give a result or a documented error, and so does any query; the next request works."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.answers import ClassifyQuery
from tests.support.app_server import AppServer, serving
from tests.support.rest import RATE, SPEECH, expect_error, heard, wav
from tests.support.runners import LABELS
from tests.support.sounds import encode, noise

REJECTIONS = {
    "unsupported_audio": 415,
    "undecodable_audio": 400,
    "clip_too_short": 422,
    "clip_too_long": 413,
    "decoding_failed": 422,
}
"""Every way in which bytes may be no clip."""
NAMES = ["a.wav", "a.flac", "a.aiff", "a.ogg", "a.opus", "a.mp3", "a.m4a", "a.webm", "a.aac", "a.au", "a.caf"]
MAGIC = [
    b"RIFF\xff\xff\xff\xffWAVEfmt ",
    b"RF64\xff\xff\xff\xffWAVEds64",
    b"fLaC\x00\x00\x00\x22",
    b"OggS\x00\x02",
    b"ID3\x04\x00\x00",
    b"\xff\xfb\x90\x00",
    b"\xff\xf1\x50\x80",
    b"\x1aE\xdf\xa3",
    b"\x00\x00\x00\x20ftypM4A ",
    b"FORM\x00\x00\x10\x00AIFFCOMM",
    b".snd\x00\x00\x00\x18",
    b"caff\x00\x01\x00\x00",
    b"#!AMR\n",
    b"0&\xb2u\x8ef\xcf\x11",
    b"{",
    b"",
]

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with serving(max_clip_seconds=60, max_body_bytes=4_000_000) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: AppServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A second of sound in every container."""
    folder, sound = tmp_path_factory.mktemp("clips"), noise(1.0, RATE)
    return [encode(folder, sound, RATE, name, "-strict", "-2").read_bytes() for name in NAMES]


@st.composite
def mutations(draw: st.DrawFn) -> tuple[int, list[tuple[str, float, bytes]]]:
    """Draw which clip, and what happens to it: where, as a share of its length, and with which bytes."""
    kinds = st.sampled_from(["cut", "drop", "insert", "overwrite", "repeat"])
    # Headers are where lies hurt: half of all places are near the start.
    places = st.one_of(st.floats(0, 1), st.floats(0, 0.02))
    steps = draw(st.lists(st.tuples(kinds, places, st.binary(min_size=1, max_size=16)), min_size=1, max_size=6))
    return draw(st.integers(0, len(NAMES) - 1)), steps


def mutate(clip: bytes, steps: list[tuple[str, float, bytes]]) -> bytes:
    for kind, place, payload in steps:
        at = int(place * len(clip))
        if kind == "cut":
            clip = clip[:at]
        elif kind == "drop":
            clip = clip[:at] + clip[at + len(payload) :]
        elif kind == "insert":
            clip = clip[:at] + payload + clip[at:]
        elif kind == "overwrite":
            clip = clip[:at] + payload + clip[at + len(payload) :]
        else:
            clip = clip + clip[at : at + 20_000]
    return clip


def expect_answer(answer: dict[str, Any]) -> None:
    assert math.isfinite(answer["duration"])
    assert 0 < answer["duration"] <= 60.1
    assert {tag["label"] for tag in answer["tags"]} == set(LABELS)
    assert all(0 <= tag["score"] <= 1 for tag in answer["tags"])


def expect_result_or_rejection(response: httpx.Response) -> None:
    if response.status_code == 200:
        expect_answer(response.json())
        return
    code = response.json()["error"]["code"]
    assert code in REJECTIONS, response.text
    expect_error(response, REJECTIONS[code], code)


@quick
@given(magic=st.sampled_from(MAGIC), rest=st.binary(max_size=4096))
def test_any_bytes_give_a_result_or_a_documented_error(client: httpx.Client, magic: bytes, rest: bytes) -> None:
    expect_result_or_rejection(client.post("/v1/classify", content=magic + rest))


@settings(quick, max_examples=250)
@given(mutation=mutations())
def test_a_real_clip_that_was_damaged_gives_a_result_or_a_documented_error(
    client: httpx.Client, clips: list[bytes], mutation: tuple[int, list[tuple[str, float, bytes]]]
) -> None:
    index, steps = mutation
    expect_result_or_rejection(client.post("/v1/classify", content=mutate(clips[index], steps)))


@quick
@given(mutated=st.lists(mutations(), min_size=1, max_size=4))
def test_a_batch_and_lines_say_of_a_clip_what_it_gets_alone(
    client: httpx.Client, clips: list[bytes], mutated: list[tuple[int, list[tuple[str, float, bytes]]]]
) -> None:
    bodies = [mutate(clips[index], steps) for index, steps in mutated]
    alone = [client.post("/v1/classify", content=body) for body in bodies]
    files = [("file", ("a", body)) for body in bodies]
    results = client.post("/v1/classify/batch", files=files).json()["results"]
    assert results == [response.json() for response in alone]
    for response, body in zip(alone, bodies, strict=True):
        lined = client.post("/v1/classify", content=body, headers={"Accept": "application/x-ndjson"})
        # What goes wrong after the first window is a line, what goes wrong before it the whole answer.
        last = json.loads(lined.content.splitlines()[-1])
        assert last.pop("type", "error") in ("summary", "error")
        assert last == response.json()


@quick
@given(
    body=st.binary(max_size=2000),
    kind=st.sampled_from(["; boundary=x", "; boundary=", "", "; boundary=x; charset=utf-7"]),
    framed=st.booleans(),
)
def test_any_form_gives_a_result_or_a_documented_error(client: httpx.Client, body: bytes, kind: str, framed: bool) -> None:
    if framed:
        body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + body + b"\r\n--x--\r\n"
    headers = {"Content-Type": f"multipart/form-data{kind}"}
    response = client.post("/v1/classify", content=body, headers=headers)
    if response.status_code == 400 and response.json()["error"]["code"] == "invalid_parameter":
        expect_error(response, 400, "invalid_parameter", response.json()["error"]["param"])
    else:
        expect_result_or_rejection(response)


values = st.one_of(
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["true", "false", "null", "{}", "[]", *LABELS, "mean", "max", "fake", "1", "0.5"]),
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.dictionaries(
            st.sampled_from(["onset_threshold", "offset_threshold", "min_duration", "max_gap", "per_label", "Dog", "3", "x"]),
            inner,
            max_size=3,
        ),
        max_leaves=6,
    ).map(json.dumps),
)


@settings(quick, max_examples=300)
@given(query=st.lists(st.tuples(st.sampled_from([*ClassifyQuery.model_fields, "x"]), values), max_size=4))
def test_any_query_gives_a_result_or_names_the_parameter(client: httpx.Client, query: list[tuple[str, str]]) -> None:
    text = urlencode(query, errors="surrogatepass")
    clip = wav(heard((SPEECH, 1.5)))
    response = client.post(f"/v1/classify?{text}", content=clip)
    if response.status_code == 200:
        assert response.json()["duration"] == 1.5
        return
    error = response.json()["error"]
    assert (response.status_code, error["code"]) in {(400, "invalid_parameter"), (400, "unknown_label"), (404, "not_found")}
    assert error["param"].split(".")[0] in dict(query)
    assert len(error["message"]) < 600


@quick
@given(
    body=st.one_of(
        st.binary(max_size=200).map(lambda data: b"{" + data),
        st.fixed_dictionaries(
            {},
            optional={
                "inputs": st.binary(max_size=99).map(lambda data: base64.b64encode(data).decode())
                | st.text(max_size=9)
                | st.none(),
                "parameters": st.dictionaries(
                    st.sampled_from(["top_k", "function_to_apply", "x"]), st.none() | st.integers() | st.text(max_size=5)
                )
                | st.none(),
                "x": st.none(),
            },
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_json_for_the_compatible_call_gives_a_result_or_a_documented_error(client: httpx.Client, body: bytes) -> None:
    response = client.post("/compat/huggingface", content=body)
    assert response.status_code in (200, 400, 415, 422), response.text
    if response.status_code != 200:
        error = response.json()["error"]
        expect_error(response, response.status_code, error["code"], error["param"])


def test_after_all_that_the_service_is_as_before(client: httpx.Client, server: AppServer) -> None:
    answer = client.post("/v1/classify", content=wav(np.concatenate([heard((SPEECH, 1.0))]))).json()
    assert answer["tags"][0] == {"label": "Speech", "id": 1, "score": 1.0}
    assert not server.lifecycle.num_active
