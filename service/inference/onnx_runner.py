"""A bundle on onnxruntime: opened, warmed up, checked against its golden scores, then run."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Self

import numpy as np
import onnxruntime

from service.errors import BundleError, ProviderError
from service.inference.bound_run import EMBEDDING, OUTPUTS
from service.inference.bundle import Bundle, Golden, Manifest
from service.inference.cuda_lanes import GUARD, CudaLanes
from service.inference.providers import (
    EXECUTION_PROVIDERS,
    choose_provider,
    create_session,
    slow_precisions,
)
from service.inference.reason import read_reason
from service.inference.runner import Int16Array, Int64Array, ModelOutput, ModelSpec, Precision, Provider
from service.inference.tensorrt import cache_folder, engine_options, order_shapes
from service.inference.tuning import Way, choose_by_rule
from service.machine import count_usable_cores

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What the graph must say of one input or output. A size of None may be anything, but must be there."""

    kind: str
    shape: tuple[int | None, ...]


class OnnxRunner:
    """A `Runner` on onnxruntime. Made by `OnnxRunner.open`.

    On the CPU a run is a plain call of the session, of which several may go on at once: bound buffers save nothing there
    (docs/performance.md). On a GPU each of the batcher's threads has a session with bound buffers and CUDA graphs
    (`service.inference.cuda_lanes`); any other thread, such as that of an export's check, makes plain calls.

    Attributes:
        spec: What the model is.
        bundle: Where it came from.
        load_seconds: How long reading the graph took.
        warm_up_seconds: How long the first runs and the golden check took.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        spec: ModelSpec,
        bundle: Bundle,
        load_seconds: float,
        lanes: CudaLanes | None = None,
    ) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._lanes = lanes
        self._is_closed = False
        self.spec = spec
        self.bundle = bundle
        self.load_seconds = load_seconds
        self.warm_up_seconds = 0.0

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        *,
        name: str | None = None,
        provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto",
        precision: Precision | Literal["auto"] = "auto",
        num_threads: int | None = None,
        tensorrt_cache: Path | None = None,
        way: Way | None = None,
        tuned_at: datetime | None = None,
        gpu_memory_bytes: int | None = None,
    ) -> Self:
        """Load a bundle's model, warm it up and check what it computes here. Takes seconds: call it in a thread.

        Args:
            bundle: The opened bundle.
            name: The name it is served under; None for the bundle's own.
            provider: Where to run; see `choose_provider`.
            precision: What to run in; ``auto`` takes the best that the bundle holds for the provider.
            num_threads: CPU threads for one run; None for all cores this process may use.
            tensorrt_cache: Where TensorRT's engines are kept; None for the user's cache.
            way: How to run, in place of ``precision`` and ``num_threads``; None for the rule's.
            tuned_at: When that was measured; None where it was not.
            gpu_memory_bytes: What its sessions may hold of the GPU's memory; None for whatever there is.

        Raises:
            ProviderError: The provider cannot be had.
            BundleError: The bundle lacks the precision, onnxruntime cannot load the graph, the graph is not what the
                manifest says, or its golden scores come out wrong.
        """
        chosen = choose_provider(provider)
        held = bundle.choose_precision(chosen, way.precision if way else precision, slow_precisions())
        hidden_size = bundle.manifest.architecture.hidden_size
        runs = way or choose_by_rule(chosen, held, num_threads or count_usable_cores(), hidden_size)
        started = time.perf_counter()

        # Each lane's session has an arena of its own, and until they are prepared there is one more, which proves the model.
        arena_bytes = None if gpu_memory_bytes is None else gpu_memory_bytes // (runs.lanes + 1)
        options = _engine_options(bundle, held, tensorrt_cache) if chosen == "tensorrt" else None

        def make_session(cuda_graphs: bool) -> onnxruntime.InferenceSession:
            path = str(bundle.model_path(held))
            return create_session(
                *(path, chosen),
                num_threads=runs.threads,
                cuda_graphs=cuda_graphs,
                engine_options=options,
                arena_bytes=arena_bytes,
            )

        try:
            with GUARD.running():
                session = make_session(False)
        except Exception as error:
            raise _translate(bundle, held, chosen, error) from error
        if (got := session.get_providers()[0]) != EXECUTION_PROVIDERS[chosen]:
            raise ProviderError(f"bundle {bundle.manifest.name!r} was to run on {chosen}, onnxruntime put it on {got}")
        _check_graph(session, bundle.manifest, held)
        spec = _make_spec(bundle, name, chosen, runs, tuned_at)
        lanes = CudaLanes(make_session, spec) if chosen == "cuda" else None
        runner = cls(session, spec, bundle, time.perf_counter() - started, lanes)
        runner._prove()
        logger.info(
            "model %s: bundle %s on %s: %s (%s), loaded in %.2f s, warm in %.2f s",
            *(spec.name, bundle.manifest.name, chosen, runs),
            "by rule" if tuned_at is None else f"measured by sonotag bench on {tuned_at:%Y-%m-%d}",
            *(runner.load_seconds, runner.warm_up_seconds),
        )
        return runner

    def prepare_thread(self) -> None:
        """Make the calling thread one that runs; see `Runner.prepare_thread`.

        Raises:
            BundleError: onnxruntime cannot make the thread's session, or what it computes is not what the golden scores say.
        """
        if self._lanes is None:
            return
        started = time.perf_counter()
        longest_first = [self.bundle.load_golden(length) for length in reversed(self.spec.lengths_samples)]

        def prove(rows: int) -> None:
            for golden in longest_first:
                self._compare(golden, np.arange(rows) % len(golden.lengths))

        try:
            self._lanes.enter(prove)
        except BundleError:
            raise
        except Exception as error:
            raise _translate(self.bundle, self.spec.precision, self.spec.provider, error) from error
        self.warm_up_seconds += time.perf_counter() - started
        # It has proven the model, and from now on the lanes run it: the weights are on the GPU once less.
        self._session = None

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        """Score a batch; see `Runner.run`."""
        if self._is_closed:
            raise RuntimeError(f"model {self.spec.name} is closed")
        if self._lanes is None:
            return self._run_plainly(waveform, lengths, embedding=embedding)
        if self._lanes.is_entered:
            return self._lanes.run(waveform, lengths, embedding=embedding)
        with GUARD.running():
            return self._run_plainly(waveform, lengths, embedding=embedding)

    def close(self) -> None:
        """Release the model and its memory."""
        self._is_closed = True
        self._session = self._lanes = None

    def _run_plainly(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        if self._session is None:
            raise RuntimeError(f"model {self.spec.name} was prepared in other threads than this one")
        names = [*OUTPUTS, EMBEDDING] if embedding else list(OUTPUTS)
        results = self._session.run(names, {"waveform": waveform, "lengths": lengths})
        return ModelOutput(results[0], results[1], results[2] if embedding else None)

    def _prove(self) -> None:
        """Run every length of window in every warm batch size once on the golden waveforms, so that no caller pays for a
        first time, and compare.

        Raises:
            BundleError: A score is off by more than the precision's tolerance.
        """
        started = time.perf_counter()
        goldens = {length: self.bundle.load_golden(length) for length in self.spec.lengths_samples}
        for length, size in order_shapes(self.spec.lengths_samples, self.spec.batch_sizes):
            golden = goldens[length]
            self._compare(golden, np.arange(size) % len(golden.lengths))
        size = self.spec.batch_sizes[-1]
        for golden in goldens.values():
            for first in range(0, len(golden.lengths), size):
                self._compare(golden, np.arange(first, min(first + size, len(golden.lengths))))
        self.warm_up_seconds = time.perf_counter() - started

    def _compare(self, golden: Golden, rows: Int64Array) -> None:
        """Check the scores of some golden waveforms."""
        spec = self.spec
        try:
            output = self.run(golden.waveform[rows], golden.lengths[rows], embedding=True)
        except Exception as error:
            raise _translate(self.bundle, spec.precision, spec.provider, error) from error
        expected = golden.scores[rows]
        if output.scores.shape != expected.shape:
            raise BundleError(f"bundle {self.bundle.manifest.name!r} gives scores of shape {output.scores.shape}")
        difference = np.nan_to_num(np.abs(output.scores - expected), nan=np.inf)
        row, label = np.unravel_index(int(difference.argmax()), difference.shape)
        length = golden.waveform.shape[1]
        where = f" in {length} samples" if length < spec.window_samples else ""
        tolerance = self.bundle.manifest.precisions[spec.precision].golden_tolerance
        if difference[row, label] > tolerance:
            raise BundleError(
                f"bundle {self.bundle.manifest.name!r} computes wrong scores in {spec.precision} on {spec.provider}: golden "
                f"clip {rows[row]}{where}, label {spec.labels[int(label)]!r}: expected {expected[row, label]:.6f}, "
                f"got {output.scores[row, label]:.6f}, the tolerance is {tolerance:g}"
            )


def _engine_options(bundle: Bundle, precision: Precision, folder: Path | None) -> dict[str, str]:
    wanted = cache_folder(folder, os.environ)
    try:
        return engine_options(wanted, bundle.manifest.source.sha256, precision)
    except OSError as error:
        raise ProviderError(
            f"TensorRT's engines cannot be kept in {wanted}: {error.strerror} (SONOTAG_TENSORRT_CACHE)"
        ) from error


def _make_spec(bundle: Bundle, name: str | None, provider: Provider, way: Way, tuned_at: datetime | None) -> ModelSpec:
    manifest = bundle.manifest
    return ModelSpec(
        name=name or manifest.name,
        labels=bundle.labels,
        multi_label=manifest.activation == "sigmoid",
        sample_rate=manifest.sample_rate,
        window_samples=manifest.window_samples,
        windows_samples=manifest.lengths_samples,
        hop_samples=manifest.hop_samples,
        min_samples=manifest.min_samples,
        embedding_size=manifest.architecture.hidden_size,
        provider=provider,
        precision=way.precision,
        batch_sizes=way.batch_sizes,
        source_sha256=manifest.source.sha256,
        num_lanes=way.lanes,
        tuned_at=tuned_at,
    )


def _check_graph(session: onnxruntime.InferenceSession, manifest: Manifest, precision: Precision) -> None:
    """Refuse a graph whose inputs and outputs are not those of the bundle format.

    Raises:
        BundleError: The first thing that does not fit.
    """
    labels, hidden = len(manifest.labels), manifest.architecture.hidden_size
    expected = {
        "input": {
            "waveform": _Tensor("tensor(int16)", (None, manifest.window_samples)),
            "lengths": _Tensor("tensor(int64)", (None,)),
        },
        "output": {
            "logits": _Tensor("tensor(float)", (None, labels)),
            "scores": _Tensor("tensor(float)", (None, labels)),
            EMBEDDING: _Tensor("tensor(float)", (None, hidden)),
        },
    }
    found = {"input": session.get_inputs(), "output": session.get_outputs()}
    file = manifest.precisions[precision].file
    for side, tensors in expected.items():
        there = {tensor.name: tensor for tensor in found[side]}
        if there.keys() != tensors.keys():
            raise BundleError(
                f"bundle {manifest.name!r}: the {side}s of {file} are {', '.join(sorted(there)) or 'none'}, "
                f"expected {', '.join(sorted(tensors))}"
            )
        for name, wanted in tensors.items():
            shape = tuple(there[name].shape)
            # A size is a number, or a name where it is dynamic; the batch must be dynamic, and the samples where there are
            # several lengths; the rest may be either.
            fits = len(shape) == len(wanted.shape) and not isinstance(shape[0], int)
            fits = fits and all(not isinstance(got, int) or got == want for got, want in zip(shape, wanted.shape, strict=True))
            fits = fits and not (name == "waveform" and len(manifest.lengths_samples) > 1 and isinstance(shape[1], int))
            if there[name].type != wanted.kind or not fits:
                raise BundleError(
                    f"bundle {manifest.name!r}: the {side} {name} of {file} is {there[name].type} {list(shape)}, "
                    f"expected {wanted.kind} {['batch', *wanted.shape[1:]]}"
                )


def _translate(bundle: Bundle, precision: Precision, provider: Provider, error: Exception) -> BundleError:
    reason = read_reason(error)
    file = bundle.manifest.precisions[precision].file
    hint = " (SONOTAG_PROVIDER is tensorrt; cuda does without it)" if provider == "tensorrt" else ""
    return BundleError(f"bundle {bundle.manifest.name!r}: onnxruntime cannot run {file} on {provider}: {reason}{hint}")
