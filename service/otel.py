"""Traces by OpenTelemetry. The one module that knows its libraries, which the extra `otel` installs.

Where the spans go, which are kept and what the service is called is said by OpenTelemetry's own variables
(``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME``, ...).
Source: the OpenTelemetry specification, "Environment Variable Specification".
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.release import read_version
from service.tracing import CURRENT, Headers, Kind, Lap, Trace, Value

MAX_WINDOWS: Final = 100
"""Windows of one request that are traced; a clip of two hours has 1400 and the first ones show what the rest is like."""
_CLOSE_SECONDS: Final = 5.0
_CARRIED = ("traceparent", "tracestate")


class OtelTracer:
    """A `Tracer` that makes OpenTelemetry's spans.

    Args:
        provider: Makes, samples and exports them; closed with this.
        clock: The engine's.
    """

    def __init__(self, provider: TracerProvider, clock: Callable[[], float]) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("sonotag", read_version())
        self._propagator = TraceContextTextMapPropagator()
        self._clock = clock

    @contextmanager
    def begin(self, kind: Kind, headers: Headers) -> Iterator[Trace]:
        """See `Tracer`."""
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        context = self._propagator.extract({name: carrier[name] for name in _CARRIED if name in carrier})
        with self._tracer.start_as_current_span(kind, context, SpanKind.SERVER, record_exception=False) as span:
            token = CURRENT.set(_OtelTrace(self, kind, span))
            try:
                yield CURRENT.get()
            finally:
                CURRENT.reset(token)

    def close(self) -> None:
        """See `Tracer`."""
        # The SDK waits half a minute for a collector that does not answer, and drains have a limit: the rest is lost then.
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(_CLOSE_SECONDS)

    def add_window(self, parent: Span, laps: Sequence[Lap], *, is_own_trace: bool) -> None:
        """Make the spans of a window, under a span or as a trace that is linked to it."""
        offset = self._offset()
        began, ended = _nanoseconds(laps[0].started, offset), _nanoseconds(laps[-1].ended, offset)
        link = Link(parent.get_span_context())
        if is_own_trace:
            # An empty context makes a root; None would be the current one.
            window = self._tracer.start_span("window", Context(), links=[link], start_time=began)
        else:
            window = self._tracer.start_span("window", set_span_in_context(parent), start_time=began)
        for lap in laps:
            self._add(window, lap, offset)
        window.end(ended)

    def add_stage(self, parent: Span, lap: Lap) -> None:
        """Make the span of a stage."""
        self._add(parent, lap, self._offset())

    def _add(self, parent: Span, lap: Lap, offset: int) -> None:
        span = self._tracer.start_span(lap.stage, set_span_in_context(parent), start_time=_nanoseconds(lap.started, offset))
        span.end(_nanoseconds(lap.ended, offset))

    def _offset(self) -> int:
        # The engine's clock begins anywhere; spans have the time of day.
        return time.time_ns() - round(self._clock() * 1e9)


class _OtelTrace:
    """A `Trace` that is a span."""

    def __init__(self, tracer: OtelTracer, kind: Kind, span: Span) -> None:
        self._tracer = tracer
        self._kind = kind
        self._span = span
        self._num_windows = 0

    @property
    def is_recording(self) -> bool:
        """See `Trace`. A stream's windows are traces of their own, which the sampler is asked for one by one."""
        return self._kind == "stream" or self._span.is_recording()

    def stage_done(self, lap: Lap) -> None:
        """See `Trace`."""
        if self._span.is_recording() and self._num_windows < MAX_WINDOWS:
            self._tracer.add_stage(self._span, lap)

    def window_done(self, laps: Sequence[Lap]) -> None:
        """See `Trace`."""
        self._num_windows += 1
        if self._kind == "stream":
            self._tracer.add_window(self._span, laps, is_own_trace=True)
        elif self._num_windows <= MAX_WINDOWS:
            self._tracer.add_window(self._span, laps, is_own_trace=False)

    def describe(self, name: str, values: Mapping[str, Value]) -> None:
        """See `Trace`."""
        self._span.update_name(name)
        self._span.set_attributes({**values, "sonotag.windows": self._num_windows})


def make_tracer(clock: Callable[[], float]) -> OtelTracer:
    """Return a tracer that exports by OTLP over HTTP, as OpenTelemetry's variables say.

    Args:
        clock: The engine's.
    """
    own = {SERVICE_VERSION: read_version()}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        own[SERVICE_NAME] = "sonotag"
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OtelTracer(provider, clock)


def _nanoseconds(seconds: float, offset: int) -> int:
    return offset + round(seconds * 1e9)
