"""What Prometheus sees. The one module that knows its library.

Every metric has a closed set of label values: whatever is not in it counts as `other`, so that no client can make new
time series. Units are base units; durations are histograms. With several workers (``PROMETHEUS_MULTIPROC_DIR`` set by
`service.supervisor` before this is imported) every worker writes to its own files and `Metrics.render` adds them up:
therefore every gauge has a mode, information is a gauge of value 1, and nothing is computed in a callback.

Readings of GPUs are the exception: they are the machine's, not a worker's, so the process that is scraped reads them then and
there, and nothing is added up.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Final, NamedTuple

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.metrics_core import GaugeMetricFamily

from service.gpus import GpuReader
from service.inference.runner import ModelSpec
from service.metrics_folder import MULTIPROCESS_VARIABLE, set_aside_files
from service.observer import DecoderFailure, DropReason, Source, Stage, WasteReason
from service.release import UNKNOWN, read_version
from service.worker_order import ReplacementCause

STAGES: Final = ("decode", "resample", "queue", "infer", "postprocess")
DROP_REASONS: Final = ("lag", "disconnect", "inference_failed", "closed")
SOURCES: Final = ("clip", "stream")
WASTE_REASONS: Final = ("left", "late")
REFUSALS: Final = ("full", "draining", "not_ready", "unavailable")
DECODER_FAILURES: Final = ("crash", "time", "memory")
REPLACEMENT_CAUSES: Final[tuple[ReplacementCause, ...]] = ("died", "hung", "stalled", "reload")
# One for each close code of the contract, and the ends that send none.
STREAM_OUTCOMES: Final = (
    "done",
    "draining",
    "disconnected",
    "bad_message",
    "bad_configuration",
    "unauthorised",
    "origin",
    "idle",
    "too_large",
    "unsupported",
    "quota",
    "overloaded",
    "failed",
)
# The statuses that the contract names; any other counts under its class (3xx).
STATUSES: Final = frozenset({200, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 499, 500, 503})
OTHER: Final = "other"
MAX_ROUTES: Final = 64

# 1 ms is a short clip's decoding, 30 s the default time-out, 600 s an hour-long file.
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Dense below the default limit of 2 s, with something past it for `on_lag=wait`.
_LAG_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class _ModelSeries(NamedTuple):
    """One model's, of those that are written to for each of its windows: `labels` takes a lock and makes a tuple of strings."""

    queue_depth: Gauge
    batch_size: Histogram
    windows: Counter


class _AnswerSeries(NamedTuple):
    """Requests of one route and status; the duration is that of the route, whatever the status."""

    requests: Counter
    duration: Histogram


class Metrics:
    """The service's counts and durations, an `Observer` of it. Every method may be called from any thread.

    Args:
        multiprocess_dir: The folder that all workers share. When it is not given it is what ``PROMETHEUS_MULTIPROC_DIR``
            says, as the library itself read it when it was first imported; without that this is a single process.
        gpus: Reads the machine's GPUs.

    Raises:
        StartError: That folder has no room.
    """

    def __init__(self, multiprocess_dir: str | None = None, *, gpus: GpuReader | None = None) -> None:
        shared = os.environ.get(MULTIPROCESS_VARIABLE)
        if shared:
            set_aside_files(shared)
        self._multiprocess_dir = multiprocess_dir or shared or None
        self._registry = registry = CollectorRegistry()
        self._num_scored: dict[str, int] = {}
        self._models: dict[str, _ModelSeries] = {}
        self._answers: dict[tuple[str, int], _AnswerSeries] = {}
        self._routes: set[str] = set()
        self._routes_lock = threading.Lock()
        # The moment each series was made is no measurement, and the multiprocess mode has none: leave it out of both.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._gpus = _GpuCollector(gpus or GpuReader())
        if self._multiprocess_dir is None:
            # These read /proc of the process that renders, which says nothing of its siblings.
            prometheus_client.ProcessCollector(registry=registry)
            registry.register(self._gpus)
        self._requests = Counter(
            "sonotag_requests", "REST requests answered, by route template and status.", ["route", "status"], registry=registry
        )
        self._request_duration = Histogram(
            "sonotag_request_duration_seconds",
            "Time from a REST request's head to the end of its answer.",
            ["route"],
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self._stage_duration = Histogram(
            "sonotag_stage_duration_seconds",
            "Time that one piece of work spent in a stage.",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "sonotag_batch_size_windows", "Windows scored in one batch.", ["model"], buckets=_BATCH_BUCKETS, registry=registry
        )
        self._windows = Counter("sonotag_windows_scored", "Windows scored.", ["model"], registry=registry)
        self._windows_dropped = Counter(
            "sonotag_windows_dropped",
            "Windows that left the queue unscored: whoever wanted them left, or they were late.",
            ["model", "reason"],
            registry=registry,
        )
        self._queue_depth = Gauge(
            "sonotag_queue_depth_windows",
            "Windows that wait for the model.",
            ["model"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._window_lag = Histogram(
            "sonotag_window_lag_seconds",
            "How late a live window's result was sent.",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        self._audio_received = Counter(
            "sonotag_audio_received_seconds", "Sound that came in, in seconds.", ["source"], registry=registry
        )
        self._audio_dropped = Counter(
            "sonotag_audio_dropped_seconds", "Sound that came in and was not scored.", ["reason"], registry=registry
        )
        self._streams_open = Gauge(
            "sonotag_streams_open", "Live streams open now.", registry=registry, multiprocess_mode="livesum"
        )
        self._streams = Counter("sonotag_streams", "Live streams ended, by how they ended.", ["outcome"], registry=registry)
        self._refusals = Counter(
            "sonotag_streams_refused", "Websocket upgrades refused, by reason.", ["reason"], registry=registry
        )
        self._decoder_failures = Counter(
            "sonotag_decoder_failures",
            "Decoder processes that were given up, with the file or stream they were decoding.",
            ["reason"],
            registry=registry,
        )
        self._model_info = Gauge(
            "sonotag_model_info",
            "1 for each model that is served, with where and in what it runs; 0 for one that a reload has replaced.",
            ["model", "provider", "precision", "source_sha256"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._model_fallback = Gauge(
            "sonotag_model_fallback",
            "1 for each model that runs on the CPU although the machine has an NVIDIA device and the CPU was not asked for.",
            ["model"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._queue_limit = Gauge(
            "sonotag_queue_limit_windows",
            "Windows that may wait for the model.",
            ["model"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._streams_limit = Gauge(
            "sonotag_streams_limit",
            "Live streams that may be open at once, over all workers.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._speed = Gauge(
            "sonotag_windows_per_second",
            "Windows scored in a second, over the last ten.",
            ["model"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._possible_speed = Gauge(
            "sonotag_windows_possible_per_second",
            "Windows that the model can score in a second at the speed of its last runs; 0 before the first one.",
            ["model"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._lag_limit = Gauge(
            "sonotag_window_lag_limit_seconds",
            "A live window that would be answered later than this is dropped.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._workers = Gauge("sonotag_workers", "Workers there should be.", registry=registry, multiprocess_mode="livemax")
        self._workers_ready = Gauge(
            "sonotag_workers_ready", "Workers that take new work now.", registry=registry, multiprocess_mode="livesum"
        )
        self._workers_replaced = Counter(
            "sonotag_workers_replaced",
            "Workers started in the place of others, by what became of those.",
            ["cause"],
            registry=registry,
        )
        self._build_info = Gauge(
            "sonotag_build_info",
            "1, with the versions that run.",
            ["version", "python", "onnxruntime"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._prepare_series()

    def _prepare_series(self) -> None:
        """Make every series of a closed set exist at zero: a rate() misses the first increment of one that appears late."""
        # Looked up for every piece of sound of every stream, and `labels` takes a lock and makes a tuple of strings each time.
        self._stages = {stage: self._stage_duration.labels(stage) for stage in STAGES}
        self._sources = {source: self._audio_received.labels(source) for source in SOURCES}
        for reason in DROP_REASONS:
            self._audio_dropped.labels(reason)
        for outcome in STREAM_OUTCOMES:
            self._streams.labels(outcome)
        for refusal in REFUSALS:
            self._refusals.labels(refusal)
        for failure in DECODER_FAILURES:
            self._decoder_failures.labels(failure)
        for cause in REPLACEMENT_CAUSES:
            self._workers_replaced.labels(cause)
        self._build_info.labels(read_version(), platform.python_version(), _onnxruntime_version()).set(1)

    def service_configured(self, *, num_workers: int, max_streams: int, max_lag_seconds: float) -> None:
        """This process is one of `num_workers` and together take `max_streams` streams; said once, before it is ready."""
        self._workers.set(num_workers)
        self._streams_limit.set(max_streams)
        self._lag_limit.set(max_lag_seconds)

    def readiness_changed(self, is_ready: bool) -> None:
        """This process takes new work from now on, or no longer."""
        self._workers_ready.set(is_ready)

    def worker_replaced(self, cause: ReplacementCause) -> None:
        """This process is there because of what became of another one; said once."""
        self._workers_replaced.labels(cause).inc()

    def model_loaded(self, spec: ModelSpec, *, max_queue_windows: int, fell_back: bool) -> None:
        """A model is served from now on.

        Args:
            spec: What it is.
            max_queue_windows: How many windows may wait for it in this process.
            fell_back: Whether it runs on the CPU for want of a GPU that the machine has.
        """
        self._model_info.labels(spec.name, spec.provider, spec.precision, spec.source_sha256).set(1)
        self._model_fallback.labels(spec.name).set(fell_back)
        self._queue_limit.labels(spec.name).set(max_queue_windows)
        self._series_of(spec.name).queue_depth.set(0)
        for reason in WASTE_REASONS:
            self._windows_dropped.labels(spec.name, reason)
        self._num_scored.setdefault(spec.name, 0)
        self.speed_measured(spec.name, 0.0, None)

    def models_retired(self, specs: Iterable[ModelSpec]) -> None:
        """These are served no longer; what their successors say comes after."""
        for spec in specs:
            self._model_info.labels(spec.name, spec.provider, spec.precision, spec.source_sha256).set(0)

    def stream_limit_changed(self, max_streams: int) -> None:
        """This process takes so many streams from now on."""
        self._streams_limit.set(max_streams)

    def speed_measured(self, model: str, windows_per_second: float, possible: float | None) -> None:
        """How fast a model was lately in this process, and how fast it could be (None: it has not run yet)."""
        self._speed.labels(model).set(windows_per_second)
        self._possible_speed.labels(model).set(possible or 0.0)

    def num_scored(self, model: str) -> int:
        """Return how many windows of a model this process has scored."""
        return self._num_scored.get(model, 0)

    def stage_seconds(self, stage: Stage, seconds: float) -> None:
        """See `Observer`."""
        (self._stages.get(stage) or self._stage_duration.labels(OTHER)).observe(seconds)

    def batch_scored(self, model: str, num_windows: int) -> None:
        """See `Observer`."""
        series = self._series_of(model)
        series.batch_size.observe(num_windows)
        series.windows.inc(num_windows)
        self._num_scored[model] = self._num_scored.get(model, 0) + num_windows

    def windows_dropped(self, model: str, reason: WasteReason, num_windows: int) -> None:
        """See `Observer`."""
        self._windows_dropped.labels(model, _known(reason, WASTE_REASONS)).inc(num_windows)

    def queue_depth(self, model: str, num_windows: int) -> None:
        """See `Observer`."""
        self._series_of(model).queue_depth.set(num_windows)

    def audio_received(self, source: Source, seconds: float) -> None:
        """See `Observer`."""
        (self._sources.get(source) or self._audio_received.labels(OTHER)).inc(seconds)

    def audio_dropped(self, reason: DropReason, seconds: float) -> None:
        """See `Observer`."""
        self._audio_dropped.labels(_known(reason, DROP_REASONS)).inc(seconds)

    def window_lag(self, seconds: float) -> None:
        """See `Observer`."""
        self._window_lag.observe(seconds)

    def request_finished(self, route: str, status: int, seconds: float) -> None:
        """See `Observer`."""
        series = self._answers.get((route, status))
        if series is None:
            known = self._bounded_route(route)
            series = _AnswerSeries(self._requests.labels(known, _status_label(status)), self._request_duration.labels(known))
            if known == route:  # of others there may be any number
                self._answers[route, status] = series
        series.requests.inc()
        series.duration.observe(seconds)

    def stream_opened(self) -> None:
        """See `Observer`."""
        self._streams_open.inc()

    def stream_closed(self, outcome: str) -> None:
        """See `Observer`. `outcome` is one of `STREAM_OUTCOMES`; anything else counts as `other`."""
        self._streams_open.dec()
        self._streams.labels(_known(outcome, STREAM_OUTCOMES)).inc()

    def stream_refused(self, reason: str) -> None:
        """See `Observer`."""
        self._refusals.labels(_known(reason, REFUSALS)).inc()

    def decoder_failed(self, failure: DecoderFailure) -> None:
        """See `Observer`."""
        self._decoder_failures.labels(_known(failure, DECODER_FAILURES)).inc()

    def render(self) -> tuple[bytes, str]:
        """Return the page for a scrape, over all workers, and its content type. It reads files when there are several."""
        return prometheus_client.generate_latest(self._shared_registry()), prometheus_client.CONTENT_TYPE_PLAIN_0_0_4

    def read_gauges(self) -> dict[str, dict[str, float]]:
        """Return what the gauges say now over all workers: by name, then by model ("" where there is none). As `render`."""
        gauges: dict[str, dict[str, float]] = {}
        for family in self._shared_registry().collect():
            if family.type == "gauge":
                gauges[family.name] = {sample.labels.get("model", ""): sample.value for sample in family.samples}
        return gauges

    def _shared_registry(self) -> CollectorRegistry:
        if self._multiprocess_dir is None:
            return self._registry
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=self._multiprocess_dir)  # type: ignore[no-untyped-call]
        registry.register(self._gpus)
        return registry

    def _series_of(self, model: str) -> _ModelSeries:
        series = self._models.get(model)
        if series is None:
            series = self._models[model] = _ModelSeries(
                self._queue_depth.labels(model), self._batch_size.labels(model), self._windows.labels(model)
            )
        return series

    def _bounded_route(self, route: str) -> str:
        # Templates are few; the bound holds even where a caller passes a path by mistake.
        with self._routes_lock:
            if route not in self._routes:
                if len(self._routes) >= MAX_ROUTES:
                    return OTHER
                self._routes.add(route)
        return route


class _GpuCollector:
    """Gauges of the machine's GPUs, read when they are asked for; no series where there is no GPU."""

    def __init__(self, reader: GpuReader) -> None:
        self._reader = reader

    def describe(self) -> list[GaugeMetricFamily]:
        """Tell the registry no names, so that it does not read the GPUs to learn them."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the GPUs."""
        used = GaugeMetricFamily("sonotag_gpu_memory_used_bytes", "Memory of a GPU in use, by whomever.", labels=["gpu"])
        total = GaugeMetricFamily("sonotag_gpu_memory_total_bytes", "Memory that a GPU has.", labels=["gpu"])
        busy = GaugeMetricFamily(
            "sonotag_gpu_utilisation_ratio", "Share of the time in which a GPU computes, 0 to 1.", labels=["gpu"]
        )
        for reading in self._reader.read():
            for family, number in ((used, reading.used_bytes), (total, reading.total_bytes), (busy, reading.utilisation)):
                if number is not None:
                    family.add_metric([str(reading.index)], number)
        yield from (family for family in (used, total, busy) if family.samples)


def _known(value: str, values: tuple[str, ...]) -> str:
    return value if value in values else OTHER


def _status_label(status: int) -> str:
    if status in STATUSES:
        return str(status)
    return f"{status // 100}xx" if 100 <= status < 600 else OTHER


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def _onnxruntime_version() -> str:
    versions = (_version_of(name) for name in ("onnxruntime-gpu", "onnxruntime"))
    return next((version for version in versions if version != UNKNOWN), UNKNOWN)
