"""Decodes the binary frames of one stream, where they arrive or in the pool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from service.audio.intake import ContainerIntake, Intake, RawIntake
from service.engine import Engine
from service.inference.runner import Int16Array, ModelSpec
from service.meter import Meter
from service.streaming.configuration import AudioFormat
from service.tracing import Lap, current_trace

INLINE_BYTES: Final = 32 * 1024
"""Raw frames up to this size are decoded where they arrive, under a millisecond; larger ones in the pool."""


class FrameDecoder:
    """Turns frames into sound: call `push` or `finish`, then `take` until there is nothing more.

    It is made where the stream's trace is the current one; its methods belong to the event loop, one at a time.

    Args:
        engine: A pool, a clock, decoders for containers, and who watches.
        meter: Counts the sound against whoever sends it.

    Attributes:
        lap: The reading of the piece that `take` returned last, where somebody traces.
    """

    def __init__(self, engine: Engine, meter: Meter) -> None:
        self.lap: Lap | None = None
        self._engine = engine
        self._meter = meter
        self._trace = current_trace()
        self._intake: Intake | None = None
        self._pieces: Iterator[Int16Array] = iter(())
        self._rate = 0
        self._is_inline = False

    def push(self, frame: bytes, audio: AudioFormat, spec: ModelSpec) -> None:
        """Begin with a frame.

        Args:
            frame: Its bytes.
            audio: What they are; the first frame's holds for all.
            spec: The model that scores the stream; likewise.
        """
        if self._intake is None:
            self._intake, self._rate = self._open(audio, spec.sample_rate), spec.sample_rate
        self._pieces = self._intake.push(frame)
        self._is_inline = isinstance(self._intake, RawIntake) and len(frame) <= INLINE_BYTES

    def finish(self) -> None:
        """Begin with what is left after the last frame."""
        if self._intake is not None:
            self._pieces = self._intake.finish()
            self._is_inline = isinstance(self._intake, RawIntake)

    async def take(self) -> Int16Array | None:
        """Return the next piece, int16 `[n]` at the model's rate, once the meter lets it pass; None when all is decoded.

        Raises:
            ServiceError: No more can be decoded, or the meter lets no more pass.
        """
        if self._intake is None:
            return None
        pieces, clock = self._pieces, self._engine.clock
        started = clock() if self._trace.is_recording else 0.0
        piece = next(pieces, None) if self._is_inline else await self._engine.run(lambda: next(pieces, None))
        if self._trace.is_recording:
            self.lap = Lap("decode", started, clock())
        if piece is None:
            return None
        seconds = len(piece) / self._rate
        self._engine.metrics.audio_received("stream", seconds)
        await self._meter.take(seconds)
        return piece

    def close(self) -> None:
        """Let the decoder go; nothing is decoded after it."""
        if self._intake is not None:
            self._intake.close()

    def _open(self, audio: AudioFormat, rate: int) -> Intake:
        engine = self._engine
        observe = engine.metrics.stage_seconds
        if audio.raw:
            return RawIntake(audio.raw, channel=audio.channel, target_rate=rate, observe=observe, clock=engine.clock)
        return ContainerIntake(
            channel=audio.channel,
            target_rate=rate,
            observe=observe,
            clock=engine.clock,
            make_decoder=engine.decoders.stream_decoder,
        )
