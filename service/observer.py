"""What the service tells whoever watches it. `service.metrics` is the one implementation that knows Prometheus."""

from __future__ import annotations

from typing import Literal, Protocol

Stage = Literal["decode", "resample", "queue", "infer", "postprocess"]
DropReason = Literal["lag", "disconnect", "inference_failed", "closed"]
Source = Literal["clip", "stream"]
WasteReason = Literal["left", "late"]
DecoderFailure = Literal["crash", "time", "memory"]


class Observer(Protocol):
    """Receives counts and durations. Every call is cheap and may come from any thread. Durations are seconds."""

    def stage_seconds(self, stage: Stage, seconds: float) -> None:
        """One piece of work went through a stage."""

    def batch_scored(self, model: str, num_windows: int) -> None:
        """The runner scored a batch of this many windows."""

    def windows_dropped(self, model: str, reason: WasteReason, num_windows: int) -> None:
        """Windows left the queue unscored, at no cost: whoever wanted them `left`, or they were too `late`."""

    def queue_depth(self, model: str, num_windows: int) -> None:
        """This many windows wait for the runner now."""

    def audio_received(self, source: Source, seconds: float) -> None:
        """This much sound came in."""

    def audio_dropped(self, reason: DropReason, seconds: float) -> None:
        """This much sound was received and not scored."""

    def window_lag(self, seconds: float) -> None:
        """A stream's window was answered this late."""

    def request_finished(self, route: str, status: int, seconds: float) -> None:
        """A REST request was answered. `route` is the path's template, never the path."""

    def stream_opened(self) -> None:
        """A live stream was accepted."""

    def stream_closed(self, outcome: str) -> None:
        """A live stream ended, with the name of its close (a closed set: see `service.api.websocket`)."""

    def stream_refused(self, reason: str) -> None:
        """An upgrade was refused: `full`, `draining`, `not_ready` or `unavailable`."""

    def decoder_failed(self, failure: DecoderFailure) -> None:
        """A decoder process had to be given up, with the file or stream it was decoding."""


class NullObserver:
    """Watches nothing."""

    def stage_seconds(self, stage: Stage, seconds: float) -> None:
        """See `Observer`."""

    def batch_scored(self, model: str, num_windows: int) -> None:
        """See `Observer`."""

    def windows_dropped(self, model: str, reason: WasteReason, num_windows: int) -> None:
        """See `Observer`."""

    def queue_depth(self, model: str, num_windows: int) -> None:
        """See `Observer`."""

    def audio_received(self, source: Source, seconds: float) -> None:
        """See `Observer`."""

    def audio_dropped(self, reason: DropReason, seconds: float) -> None:
        """See `Observer`."""

    def window_lag(self, seconds: float) -> None:
        """See `Observer`."""

    def request_finished(self, route: str, status: int, seconds: float) -> None:
        """See `Observer`."""

    def stream_opened(self) -> None:
        """See `Observer`."""

    def stream_closed(self, outcome: str) -> None:
        """See `Observer`."""

    def stream_refused(self, reason: str) -> None:
        """See `Observer`."""

    def decoder_failed(self, failure: DecoderFailure) -> None:
        """See `Observer`."""
