"""The served models, by name."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from service.errors import BundleError, NotFound
from service.inference.batcher import Batcher
from service.inference.bundle import Bundle, open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.providers import choose_provider, slow_precisions
from service.inference.runner import Provider
from service.inference.trial import is_shipped, try_graph
from service.inference.tuning import Conditions, Tuning, Way, choose_by_rule, find_difference
from service.inference.users import Users
from service.logs import log_event
from service.machine import count_usable_cores, read_processor_name
from service.memory import long_lived, release_memory
from service.observer import Observer

logger = logging.getLogger(__name__)


class EngineSettings(Protocol):
    """The settings that decide how models run; `service.settings.Settings` has them all."""

    @property
    def provider(self) -> Literal["auto", "cpu", "cuda", "tensorrt"]:
        """Where models run."""
        ...

    @property
    def tensorrt_cache(self) -> Path | None:
        """Where TensorRT's engines are kept; None for the user's cache."""
        ...

    @property
    def precision(self) -> Literal["auto", "fp32", "fp16", "int8"]:
        """What they run in."""
        ...

    @property
    def model_memory_bytes(self) -> int | None:
        """What the trial of a graph from elsewhere may take; None for a share of its files' size."""
        ...

    @property
    def threads(self) -> int | None:
        """CPU threads for one run; None for a fair share of the cores."""
        ...

    @property
    def workers(self) -> int:
        """Processes that share this machine's cores."""
        ...

    @property
    def max_queue_windows(self) -> int:
        """Places in each model's queue."""
        ...

    @property
    def live_share(self) -> float:
        """Which part of what a model can do live streams may ask for."""
        ...


class Catalog:
    """The models that are served, each with its own runner and queue. The first is the default.

    Args:
        batchers: One or more, by name. The catalog owns them: `stop` stops them and closes their runners.

    Attributes:
        users: Requests and streams that use it, where it may be replaced while they do.

    Raises:
        BundleError: There is no model.
    """

    def __init__(self, batchers: Mapping[str, Batcher]) -> None:
        if not batchers:
            raise BundleError("there is no model to serve (SONOTAG_BUNDLES)")
        self._batchers = dict(batchers)
        self.users = Users()

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names, the default first."""
        return tuple(self._batchers)

    @property
    def default(self) -> str:
        """The name of the model that serves who names none."""
        return self.names[0]

    def __iter__(self) -> Iterator[Batcher]:
        return iter(self._batchers.values())

    def __len__(self) -> int:
        return len(self._batchers)

    def get(self, name: str | None) -> Batcher:
        """Return a model by name; None is the default.

        Raises:
            NotFound: No such model; the message names those that are served.
        """
        wanted = self.default if name is None else name
        if wanted not in self._batchers:
            raise NotFound(f"no model {wanted[:80]!r} is served; there are: {', '.join(self.names)}", param="model")
        return self._batchers[wanted]

    def describe(self, name: str | None) -> dict[str, Any]:
        """Return what a client may know of a model, ready for JSON. It holds no path of the machine.

        Raises:
            NotFound: No such model.
        """
        batcher = self.get(name)
        spec, runner = batcher.spec, batcher.runner
        described: dict[str, Any] = {
            "name": spec.name,
            "default": spec.name == self.default,
            "labels": len(spec.labels),
            "activation": "sigmoid" if spec.multi_label else "softmax",
            "sample_rate": spec.sample_rate,
            "window_seconds": spec.window_samples / spec.sample_rate,
            "windows_seconds": [length / spec.sample_rate for length in spec.lengths_samples],
            "hop_seconds": spec.hop_samples / spec.sample_rate,
            "min_seconds": spec.min_samples / spec.sample_rate,
            "embedding_size": spec.embedding_size,
            "precision": spec.precision,
            "provider": spec.provider,
            "batch_sizes": list(spec.batch_sizes),
            "source": {"sha256": spec.source_sha256},
        }
        return described | _describe_bundle(runner) if isinstance(runner, OnnxRunner) else described

    def start(self) -> None:
        """Start every model's thread, on the running event loop."""
        for batcher in self:
            batcher.start()

    def abandon(self) -> None:
        """Close the models, from any thread. For a catalog that was never started."""
        for batcher in self:
            batcher.abandon()

    async def stop(self) -> None:
        """Finish what waits in every queue, then close the models. Twice is once."""
        await asyncio.gather(*(batcher.stop() for batcher in self))


def place_of(name: str, folder: Path) -> str:
    """Return how an error names a model and its folder. The folder is nothing that a client may know."""
    return f"model {name} in {folder}"


@contextmanager
def naming(name: str, folder: Path) -> Iterator[None]:
    """Have the errors of a bundle say which model it is, as it is served, and where it lies: a bundle's own name says neither.

    Raises:
        BundleError: What the context raised.
    """
    try:
        yield
    except BundleError as error:
        raise BundleError(f"{place_of(name, folder)}: {error}") from error


def open_catalog(
    bundles: Mapping[str, Path],
    settings: EngineSettings,
    observer: Observer,
    *,
    clock: Callable[[], float] = time.monotonic,
    tuning: Tuning | None = None,
    cores: int | None = None,
    gpu_memory_bytes: int | None = None,
) -> Catalog:
    """Open bundles, load and prove their models. Takes seconds: call it in a thread, then `Catalog.start` on the loop.

    Args:
        bundles: The folder of each served name; the first is the default.
        settings: How models run.
        observer: Is told what the batchers do.
        clock: Seconds, rising; deadlines are on it.
        tuning: What was measured here; it holds for the model of which it was measured.
        cores: That all workers share; None for those this process may use.
        gpu_memory_bytes: What this worker may hold of its GPU's memory, for all models; None for whatever there is.

    Raises:
        BundleError: A bundle is incomplete, altered, wrong, lacks the precision, or takes too much memory or time; or there is
            none.
        ProviderError: The provider cannot be had.
    """
    provider = choose_provider(settings.provider)
    runners: list[OnnxRunner] = []
    try:
        for name, folder in bundles.items():
            with naming(name, folder):
                bundle = open_bundle(folder)
                here = describe_conditions(bundle, provider, settings, cores or count_usable_cores())
                way, tuned_at = choose_way(bundle, name, here, tuning)
                if not is_shipped(folder):
                    try_graph(bundle, way.precision, settings.model_memory_bytes)
                with long_lived():
                    runner = OnnxRunner.open(
                        bundle,
                        name=name,
                        provider=provider,
                        tensorrt_cache=settings.tensorrt_cache,
                        way=way,
                        tuned_at=tuned_at,
                        gpu_memory_bytes=None if gpu_memory_bytes is None else gpu_memory_bytes // len(bundles),
                    )
                runners.append(runner)
    except BaseException:
        for runner in runners:
            runner.close()
        raise
    batchers = {
        runner.spec.name: Batcher(
            runner,
            max_queue_windows=settings.max_queue_windows,
            observer=observer,
            clock=clock,
            live_share=settings.live_share,
        )
        for runner in runners
    }
    _prepare(batchers.values())
    release_memory()  # what the graphs were made of, tens of megabytes
    return Catalog(batchers)


def describe_conditions(bundle: Bundle, provider: Provider, settings: EngineSettings, cores: int) -> Conditions:
    """Return what a measurement of a model would depend on.

    Args:
        bundle: The model.
        provider: Where it runs.
        settings: Those of the service.
        cores: That all workers share.
    """
    return Conditions(
        bundle=bundle.sha256,
        provider=provider,
        precision=settings.precision,
        threads=settings.threads,
        workers=settings.workers,
        cores=cores,
        processor=read_processor_name(),
    )


def choose_way(bundle: Bundle, name: str, here: Conditions, tuning: Tuning | None) -> tuple[Way, datetime | None]:
    """Return how a model is to run, and when that was measured; None where it is the rule's way.

    Raises:
        BundleError: The bundle lacks the precision.
    """
    obstacle = None if tuning is None else find_difference(tuning.conditions, here)
    if tuning is not None and obstacle is None:
        return tuning.way, tuning.measured_at
    if obstacle is not None:
        log_event(logger, logging.INFO, "the measured tuning is not used", model=name, reason=obstacle)
    precision = bundle.choose_precision(here.provider, here.precision, slow_precisions())
    return choose_by_rule(here.provider, precision, here.num_threads, bundle.manifest.architecture.hidden_size), None


def _prepare(batchers: Collection[Batcher]) -> None:
    """Let every model's threads get ready; where one cannot, close all of them."""
    try:
        for batcher in batchers:
            batcher.prepare()
            batcher.measure_speed()
    except BaseException:
        for batcher in batchers:
            batcher.abandon()
        raise


def _describe_bundle(runner: OnnxRunner) -> dict[str, Any]:
    """Return what the bundle adds to the numbers of the spec."""
    manifest = runner.bundle.manifest
    entry = manifest.precisions[runner.spec.precision]
    return {
        "bundle": {"name": manifest.name, "format_version": manifest.format_version, "opset": manifest.opset},
        "architecture": manifest.architecture.model_dump(),
        "parameters": manifest.architecture.num_parameters,
        "operators": entry.operators,
        "precisions": sorted(manifest.precisions),
        "source": manifest.source.model_dump(),
        "licence": manifest.source.licence,
        "parity": entry.parity.model_dump(mode="json"),
        "tools": dict(manifest.tools),
        "load_seconds": round(runner.load_seconds, 3),
        "warm_up_seconds": round(runner.warm_up_seconds, 3),
    }
