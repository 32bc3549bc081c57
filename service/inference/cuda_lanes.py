"""The sessions of a model on a GPU: one for each thread that runs it, with CUDA graphs for small batches.

Why a session a thread, and not one session run by several: with CUDA graphs onnxruntime puts all runs of a session on one
stream, so that runs of one session cannot overlap; and a graph lives in the thread that captured it. The price is the weights
once more (base in float16: 0.17 GB).

Capturing is fragile: while it goes on, no other thread of the process may allocate, copy or wait on the GPU, whatever model or
session it belongs to. `CaptureGuard` sees to that. A graph that cannot be captured, or computes something else than the golden
scores, is done without.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Final

import onnxruntime

from service.inference.bound_run import BoundSession, Device
from service.inference.reason import read_reason
from service.inference.runner import Int16Array, Int64Array, ModelOutput, ModelSpec

logger = logging.getLogger(__name__)

NUM_LANES: Final = 2
"""Runs under way at once on a GPU: the copies and launches of one go on while the other computes. Measured on one H100, base,
float16: two runs in flight gained 4 to 6 % over one (1,388 windows/s in batches of 16 against 1,335)."""

MAX_GRAPH_ROWS: Final = 8
"""The largest batch that is launched as a CUDA graph. A graph saves the launches of the kernels, a fixed time a run. Measured
on one H100, base, float16: 37 % at batch 1 (917 windows/s against 669), 3 % at batch 8 (1,304 against 1,262)."""


class CaptureGuard:
    """Lets runs overlap each other, and a capture nothing: whoever captures waits for those who run and keeps others out."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_running = 0
        self._is_capturing = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Use the GPU beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_capturing)
            self._num_running += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_running -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Use the GPU alone. Who comes later waits, so that a capture comes about under any load."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_capturing)
            self._is_capturing = True
            self._changed.wait_for(lambda: not self._num_running)
        try:
            yield
        finally:
            with self._changed:
                self._is_capturing = False
                self._changed.notify_all()


GUARD: Final = CaptureGuard()
"""The process's: what disturbs a capture is another thread of the process, whichever model it runs."""


class CudaLanes:
    """A model's sessions on a GPU.

    Args:
        make_session: Opens the model, with CUDA graphs or without.
        spec: The model.
        device: Where it runs; another than ``cuda`` for tests on machines without one.
        guard: Keeps captures undisturbed.
    """

    def __init__(
        self,
        make_session: Callable[[bool], onnxruntime.InferenceSession],
        spec: ModelSpec,
        *,
        device: Device = "cuda",
        guard: CaptureGuard = GUARD,
    ) -> None:
        self._make_session = make_session
        self._spec = spec
        self._device: Device = device
        self._guard = guard
        self._mine = threading.local()

    @property
    def is_entered(self) -> bool:
        """Whether the calling thread has a lane."""
        return getattr(self._mine, "session", None) is not None

    def enter(self, prove: Callable[[int], None]) -> None:
        """Give the calling thread a session of its own, with every batch size run once and proven.

        Args:
            prove: Runs a batch of so many windows with `run`, in this thread, and checks what comes out.

        Raises:
            Exception: It cannot be done, without CUDA graphs either.
        """
        try:
            self._open(prove, MAX_GRAPH_ROWS)
            return
        except Exception as error:  # noqa: BLE001  (onnxruntime's own classes have no common parent below Exception)
            reason = read_reason(error)
        # Out here nothing holds the failed session any more: its memory goes before the next one comes.
        self._mine.session = None
        logger.warning("model %s runs without CUDA graphs, small batches are slower: %s", self._spec.name, reason)
        self._open(prove, 0)

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        """Score a batch in the calling thread's session; see `Runner.run`.

        Raises:
            RuntimeError: The thread has not entered.
        """
        session: BoundSession | None = getattr(self._mine, "session", None)
        if session is None:
            raise RuntimeError("this thread has not entered")
        if getattr(self._mine, "is_capturing", False):
            return session.run(waveform, lengths, embedding=embedding)
        with self._guard.running():
            return session.run(waveform, lengths, embedding=embedding)

    def _open(self, prove: Callable[[int], None], max_graph_rows: int) -> None:
        with self._guard.running():
            session = self._make_session(max_graph_rows > 0)
            self._mine.session = BoundSession(session, self._spec, self._device, max_graph_rows=max_graph_rows)
        for rows in reversed(self._spec.batch_sizes):  # the largest first: the others then find their memory there
            if rows > max_graph_rows:
                prove(rows)
                continue
            with self._guard.capturing():
                self._mine.is_capturing = True
                try:
                    prove(rows)  # captures, which takes onnxruntime three runs within one
                finally:
                    self._mine.is_capturing = False
            prove(rows)  # replays
