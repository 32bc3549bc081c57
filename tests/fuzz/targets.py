"""What is fuzzed without a process: each target takes bytes, and lets through whatever is no documented refusal."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from service.audio.recognition import IndexScanner, Recogniser
from service.audio.wav_header import read_plain_header
from service.decoders.wire import Failed, FileJob, Opened, StreamJob
from service.errors import BadMessage, BundleError, CutSample, InvalidParameter, ProtocolViolation, UnsupportedAudio
from service.inference.bundle import Manifest
from service.inference.untrusted import check_graph_file, load_arrays
from service.postprocess.event_config import EventConfig
from service.streaming.messages import parse_client_message, parse_query
from tests.support.streams import RAW, DrivenSession

CLOSES = {1000, 1001, 1007, 4400, 4408, 4413, 4415, 4429, 4503}
"""What may end a session; 1011, our own fault, may not."""


def fuzz_message(data: bytes) -> None:
    """A text frame."""
    with contextlib.suppress(BadMessage, ProtocolViolation, InvalidParameter):
        parse_client_message(data.decode("utf-8", "replace"))


def fuzz_query(data: bytes) -> None:
    """The query string of an upgrade."""
    parts = data.decode("utf-8", "replace").split("&")
    with contextlib.suppress(InvalidParameter, ProtocolViolation):
        parse_query([(name, value) for name, _, value in (part.partition("=") for part in parts)])


def fuzz_session(data: bytes) -> None:
    """Frames, answers of the model and time, in any order: the first byte of each piece says which."""
    driven = DrivenSession(RAW if data[:1] < b"\x80" else {})
    for piece in _pieces(data[1:]):
        kind, rest = piece[0] % 6, piece[1:]
        if kind < 2:
            driven.text(rest.decode("utf-8", "replace"))
        elif kind == 2:
            driven.audio(np.frombuffer(rest * 400, np.int8).astype(np.int16))
        elif kind == 3 and driven.waiting:
            driven.answer()
        elif kind == 4:
            driven.poll(driven.now + len(rest))
        elif kind == 5 and driven.session.is_configured and driven.session.is_reading:
            driven.do(driven.session.receive_audio_end(driven.now, CutSample("cut")))
        driven.finish_if_asked()
    driven.text('{"type": "stop"}')
    driven.answer()
    assert driven.close is not None
    assert driven.close.code in CLOSES, driven.close
    for text in driven.wire:
        json.loads(text)


def _pieces(data: bytes) -> Iterator[bytes]:
    """Cut where the bytes say so: a length, and as many bytes."""
    at = 0
    while at < len(data):
        length = data[at] % 128 + 1
        yield data[at : at + 1] + data[at + 1 : at + 1 + length]
        at += 1 + length


def fuzz_recognition(data: bytes) -> None:
    """The first bytes of a file, at once and one by one: what they are must not depend on it."""
    found = []
    for size in (max(1, len(data)), 7):
        recogniser = Recogniser()
        try:
            for start in range(0, len(data), size):
                recogniser.push(data[start : start + size])
            found.append(recogniser.finish())
        except UnsupportedAudio:
            found.append("")
    assert found[0] == found[1], found
    scanner = IndexScanner()
    scanner.push(data)
    read_plain_header(io.BytesIO(data), 0)


def fuzz_graph(data: bytes) -> None:
    """An ONNX file."""
    with tempfile.NamedTemporaryFile(dir=_memory_folder()) as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(BundleError):
            check_graph_file(Path(file.name))


def fuzz_arrays(data: bytes) -> None:
    """An archive of arrays: the errors are those that `Bundle.load_golden` translates."""
    with contextlib.suppress(OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        load_arrays(io.BytesIO(data), {"waveform": 10_000, "lengths": 100})


def fuzz_documents(data: bytes) -> None:
    """What is JSON: a manifest, the events of a setting, what a decoder says."""
    for model in (Manifest, EventConfig, Opened, Failed, FileJob, StreamJob):
        with contextlib.suppress(ValueError):  # pydantic's own
            model.model_validate_json(data)


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


TARGETS: dict[str, Callable[[bytes], None]] = {
    "message": fuzz_message,
    "query": fuzz_query,
    "session": fuzz_session,
    "recognition": fuzz_recognition,
    "graph": fuzz_graph,
    "arrays": fuzz_arrays,
    "documents": fuzz_documents,
}

SEEDS: dict[str, tuple[bytes, ...]] = {
    "message": (
        b'{"type": "start", "encoding": "s16le", "sample_rate": 16000, "labels": ["Dog", 3], "events": {"max_gap": 0.5}}',
        b'{"type": "update", "top_k": 3, "events": {"per_label": {"Dog": {"onset_threshold": 0.2}}}}',
        b'{"type": "flush"}',
    ),
    "query": (b"encoding=s16le&sample_rate=16000&labels=Dog&labels=3&events=%7B%7D&hop=0.5", b'events={"max_gap": null}'),
    "session": (b"\x00\x02abcdef\x03\x04\x00" + b'\x20{"type": "update", "top_k": 3}', b"\xff\x01{}\x04xx"),
    "recognition": (
        b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0\x10\0data\0\0\0\0",
        b"ID3\x04\0\0\0\0\0\1\0fLaC",
    ),
    "graph": (b"\x08\x08:\x10\x0a\x0e*\x0cj\x0a\x0a\x08location",),
    "arrays": (b"PK\x05\x06" + bytes(18),),
    "documents": (b'{"format_version": 1, "name": "a"}', b'{"container": "wav", "sample_rate": 1, "channels": 1}'),
}
