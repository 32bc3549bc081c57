"""Traces: what one request or stream went through, and when. `service.otel` is the one implementation that knows OpenTelemetry.

::

    request ─┬─ decode                         stream
             └─ window ─┬─ queue                 ▲ link
                        ├─ infer               window ─┬─ decode
                        └─ postprocess                 ├─ queue
                                                       ├─ infer
                                                       └─ postprocess

A stream may last a day, and a trace of a hundred thousand spans is of no use: each window of a stream is a trace of its own
that is linked to the stream's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from service.observer import Stage

Kind = Literal["request", "stream"]
Value = str | int | float
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Lap:
    """A stage that is over.

    Attributes:
        stage: Which.
        started: Seconds of the engine's clock.
        ended: Seconds of the engine's clock.
    """

    stage: Stage
    started: float
    ended: float


class Trace(Protocol):
    """The trace of one request or stream. Every method may be called from any thread and is cheap."""

    @property
    def is_recording(self) -> bool:
        """Whether anybody will see it; where not, callers may save themselves the trouble."""
        ...

    def stage_done(self, lap: Lap) -> None:
        """A stage of the work as a whole is over."""

    def window_done(self, laps: Sequence[Lap]) -> None:
        """A window has gone through these stages, at least one, in their order."""

    def describe(self, name: str, values: Mapping[str, Value]) -> None:
        """Say what the work was: a name out of a closed set, and what is known of it."""


class Tracer(Protocol):
    """Begins traces."""

    def begin(self, kind: Kind, headers: Headers) -> AbstractContextManager[Trace]:
        """Trace what is done while the context is open; there `current_trace` is this one.

        Args:
            kind: What it is.
            headers: The caller's, ASGI's form; where they hold a trace it is continued.
        """
        ...

    def close(self) -> None:
        """Send what is left. It may block for seconds."""


class NullTrace:
    """Records nothing."""

    is_recording: Final = False

    def stage_done(self, lap: Lap) -> None:
        """See `Trace`."""

    def window_done(self, laps: Sequence[Lap]) -> None:
        """See `Trace`."""

    def describe(self, name: str, values: Mapping[str, Value]) -> None:
        """See `Trace`."""


class NullTracer:
    """Traces nothing: one call for each request or stream."""

    def begin(self, kind: Kind, headers: Headers) -> AbstractContextManager[Trace]:
        """See `Tracer`."""
        return _NULL_CONTEXT

    def close(self) -> None:
        """See `Tracer`."""


NULL_TRACER: Final = NullTracer()
NULL_TRACE: Final = NullTrace()
_NULL_CONTEXT: Final[AbstractContextManager[Trace]] = nullcontext(NULL_TRACE)
CURRENT: Final[ContextVar[Trace]] = ContextVar("trace", default=NULL_TRACE)
"""For implementations of `Tracer`; others ask `current_trace`."""


def current_trace() -> Trace:
    """Return the trace of the request or stream that this task works for."""
    return CURRENT.get()
