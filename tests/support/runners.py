"""A model that needs no weights: its scores follow from the samples by a rule that a test can compute by hand."""

from __future__ import annotations

import fcntl
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.inference.runner import FloatArray, Int16Array, Int64Array, ModelOutput, ModelSpec, Precision, Provider
from service.labels import LabelSet

LABELS = ("Silence", "Speech", "Music", "Dog")
LEVEL_STEP = 1000
"""Label i is heard in the samples whose magnitude rounds to i times this."""
OUT_OF_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running MatMul node. Status Message: "
    "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, "
    "bool, onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 3221225472"
)
"""What onnxruntime says where CUDA has no memory left."""
WAIT_SECONDS = 30.0
"""How long a test waits for another thread before it fails; never reached when all is well."""


def make_spec(
    *,
    name: str = "fake",
    labels: Iterable[str] = LABELS,
    multi_label: bool = True,
    sample_rate: int = 16_000,
    window_samples: int = 16_000,
    windows_samples: tuple[int, ...] = (),
    hop_samples: int = 16_000,
    min_samples: int = 400,
    embedding_size: int = 4,
    provider: Provider = "cpu",
    precision: Precision = "fp32",
    batch_sizes: tuple[int, ...] = (1, 2, 4),
    source_sha256: str = "0" * 64,
    num_lanes: int = 1,
) -> ModelSpec:
    """Make a spec: by default one-second windows at 16 kHz and four labels."""
    return ModelSpec(
        name=name,
        labels=LabelSet(tuple(labels)),
        multi_label=multi_label,
        sample_rate=sample_rate,
        window_samples=window_samples,
        windows_samples=windows_samples,
        hop_samples=hop_samples,
        min_samples=min_samples,
        embedding_size=embedding_size,
        provider=provider,
        precision=precision,
        batch_sizes=batch_sizes,
        source_sha256=source_sha256,
        num_lanes=num_lanes,
    )


def level(label_id: int, num_samples: int) -> Int16Array:
    """Return samples in which `FakeRunner` hears one label and nothing else, with score 1 (label 0 is digital silence)."""
    return np.full(num_samples, label_id * LEVEL_STEP, np.int16)


def expected_scores(waveform: Int16Array, num_labels: int = len(LABELS)) -> FloatArray:
    """Return what `FakeRunner` scores for one window: for each label the share of samples at its level."""
    nearest = np.rint(np.abs(waveform.astype(np.int32)) / LEVEL_STEP).astype(np.int64)
    counts = np.bincount(nearest, minlength=num_labels)[:num_labels]
    return (counts / len(waveform)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of `FakeRunner.run`, with copies of what it was given."""

    waveform: Int16Array
    lengths: Int64Array
    embedding: bool
    thread: int

    def window(self, row: int) -> Int16Array:
        """Return the valid samples of a row."""
        return self.waveform[row, : self.lengths[row]]


class FakeRunner:
    """A `Runner` that scores by `expected_scores`; the embedding of a window starts with its length and its first sample.

    Args:
        spec: What it claims to be; None for `make_spec` with `options`.
        failures: What the first runs raise, in order; None for a run that works. Later runs work.
        delay_seconds: How slow each run is, for tests of overload.
        keeps_calls: Whether `calls` holds a copy of everything it was given; not for hours of sound.
        options: Passed to `make_spec`.
    """

    def __init__(
        self,
        spec: ModelSpec | None = None,
        *,
        failures: Iterable[BaseException | None] = (),
        delay_seconds: float = 0.0,
        keeps_calls: bool = True,
        **options: object,
    ) -> None:
        self._spec = make_spec(**options) if spec is None else spec  # type: ignore[arg-type]
        self.failures = deque(failures)
        self.delay_seconds = delay_seconds
        self.keeps_calls = keeps_calls
        self.calls: list[Call] = []
        self.prepared_threads: list[int] = []
        self.closed = False
        self._changed = threading.Condition()
        self._permits: int | None = None
        self._num_started = 0

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def hold(self) -> None:
        """Let no further run finish until `release`."""
        with self._changed:
            self._permits = 0

    def release(self, num_runs: int | None = None) -> None:
        """Let held runs finish: so many, or all from now on."""
        with self._changed:
            self._permits = None if num_runs is None or self._permits is None else self._permits + num_runs
            self._changed.notify_all()

    def wait_for_runs(self, num_runs: int) -> None:
        """Block until so many runs have started in all. In async tests: ``await asyncio.to_thread(...)``."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._num_started >= num_runs, WAIT_SECONDS):
                raise AssertionError(f"{self._num_started} runs started, {num_runs} expected")

    def prepare_thread(self) -> None:
        self.prepared_threads.append(threading.get_ident())

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        assert threading.get_ident() in self.prepared_threads or not self.prepared_threads
        spec = self._spec
        assert not self.closed
        assert waveform.dtype == np.int16
        assert lengths.dtype == np.int64
        assert waveform.shape[0] == len(lengths)
        assert waveform.shape[1] in (spec.windows_samples or (spec.window_samples,))
        assert len(lengths) <= spec.batch_sizes[-1]
        assert lengths.min() >= spec.min_samples
        assert lengths.max() <= waveform.shape[1]
        call = Call(waveform.copy(), lengths.copy(), embedding, threading.get_ident())
        if self.keeps_calls:
            self.calls.append(call)
        with self._changed:
            self._num_started += 1
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._permits is None or self._permits > 0, WAIT_SECONDS):
                raise AssertionError("nobody released the held runner")
            if self._permits is not None:
                self._permits -= 1
        if self.delay_seconds:
            time.sleep(self.delay_seconds)
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            raise failure
        # The buffer is the runner's until it returns: nobody may have written to it meanwhile.
        assert np.array_equal(waveform, call.waveform)
        scores = np.stack([expected_scores(call.window(row), len(spec.labels)) for row in range(len(lengths))])
        clipped = np.clip(scores, 1e-6, 1 - 1e-6)
        logits = (np.log(clipped / (1 - clipped)) if spec.multi_label else np.log(clipped)).astype(np.float32)
        embeddings = np.zeros((len(lengths), spec.embedding_size), np.float32)
        embeddings[:, 0], embeddings[:, 1] = lengths, waveform[:, 0]
        return ModelOutput(logits, scores, embeddings if embedding else None)

    def close(self) -> None:
        self.closed = True


class IllRunner(FakeRunner):
    """A model that is made ill by what it hears: `HANG` in a window and it never comes back, `FAIL` and it raises.

    For services in processes of their own, whose runner no test can hold in its hand.
    """

    HANG = 7001
    FAIL = 7002
    NO_MEMORY = 7003
    """A batch of more than one window that holds this does not fit into memory."""

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        if (waveform == self.HANG).any():
            print("the model hangs now", file=sys.stderr, flush=True)
            threading.Event().wait()
        if (waveform == self.FAIL).any():
            raise RuntimeError("this sound makes it ill")
        if len(lengths) > 1 and (waveform == self.NO_MEMORY).any():
            raise RuntimeError(OUT_OF_MEMORY)
        return super().run(waveform, lengths, embedding=embedding)


class GatedRunner(IllRunner):
    """A model in another process that a test holds by a lock on a file.

    Args:
        gate: The file, which exists; None for a model that nobody holds.
        options: Those of `FakeRunner`.
    """

    def __init__(self, gate: str | None, **options: Any) -> None:
        super().__init__(**options)
        self._gate = gate

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        if self._gate is not None:
            with Path(self._gate).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH)
        return super().run(waveform, lengths, embedding=embedding)


@contextmanager
def held_gate(path: Path) -> Iterator[None]:
    """Let no run of the processes that were given this gate end for as long as the context is open."""
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class ForgetfulRunner(FakeRunner):
    """A model that leaves out a label in its first answer, which nothing of ours expects."""

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        output = super().run(waveform, lengths, embedding=embedding)
        if len(self.calls) > 1:
            return output
        return ModelOutput(output.logits[:, :3], output.scores[:, :3], output.embedding)
