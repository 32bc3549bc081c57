"""`/v1/stream`: carries a `StreamSession`'s actions out on a real socket.

Four things happen at once, all on the event loop: the reader takes frames and has them decoded, one task a window waits
for the model, the writer sends in order, and an alarm calls `poll`. The session decides everything; each call to it is
followed by `_perform`, which never awaits, so that no two calls interleave.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from service.api.error_handlers import error_response
from service.api.middleware import new_id
from service.audio.intake import ContainerIntake, Intake, RawIntake
from service.errors import Draining, InferenceFailed, NotReady, QueueFull, ServiceError
from service.inference.policy import Priority
from service.inference.runner import Int16Array
from service.logs import log_event, session_context
from service.services import Services
from service.streaming.actions import Action, Close, Dropped, FinishAudio, Infer, Send
from service.streaming.messages import Limits, ServerMessage, Tags
from service.streaming.session import StreamSession

logger = logging.getLogger(__name__)
router = APIRouter()

MAX_OUTBOX = 256
"""Messages that may wait for a client that does not read; then it is not read either."""
INLINE_BYTES = 64 * 1024
"""Raw frames up to this size are decoded where they arrive, under a millisecond; larger ones in the pool."""
SEND_SECONDS = 30.0
"""A client that takes nothing for this long is gone."""
OUTCOMES = {
    1000: "done",
    1001: "draining",
    1007: "bad_message",
    1011: "failed",
    4400: "bad_configuration",
    4408: "idle",
    4413: "too_large",
    4415: "unsupported",
    4503: "overloaded",
}
DISCONNECTED = "disconnected"


@router.websocket("/v1/stream")
async def stream(websocket: WebSocket) -> None:
    """One live stream."""
    services: Services = websocket.app.state.services
    try:
        services.lifecycle.check_ready()
        if services.num_streams >= services.settings.max_streams:
            raise QueueFull(
                f"{services.num_streams} streams are open, the limit is {services.settings.max_streams} (SONOTAG_MAX_STREAMS)",
                retry_after_s=5.0,
            )
    except (Draining, NotReady, QueueFull) as error:
        reason = {"draining": "draining", "not_ready": "not_ready"}.get(error.code, "full")
        services.metrics.stream_refused(reason)
        log_event(logger, logging.INFO, "stream refused", reason=reason)
        await websocket.send_denial_response(error_response(error))
        return
    session_id = new_id()
    with session_context(session_id):
        connection = StreamConnection(websocket, services, session_id)
        services.num_streams += 1
        try:
            with services.lifecycle.admit(connection.drain):
                services.metrics.stream_opened()
                await connection.run()
        finally:
            services.num_streams -= 1
            services.metrics.stream_closed(connection.outcome)
            log_event(
                logger,
                logging.INFO,
                "stream closed",
                outcome=connection.outcome,
                seconds=round(connection.session.received_seconds, 3),
            )


def _limits(services: Services) -> Limits:
    settings = services.settings
    return Limits(
        max_lag_seconds=settings.max_lag_seconds,
        max_ahead_seconds=settings.max_ahead_seconds,
        idle_seconds=settings.idle_seconds,
        max_stream_seconds=settings.max_stream_seconds,
        max_frame_bytes=settings.max_frame_bytes,
    )


class StreamConnection:
    """One accepted connection.

    Args:
        websocket: Not accepted yet.
        services: What handlers share.
        session_id: Of this stream.
    """

    def __init__(self, websocket: WebSocket, services: Services, session_id: str) -> None:
        self._websocket = websocket
        self._services = services
        self._catalog = services.catalog
        self._clock = services.clock
        specs = {batcher.spec.name: batcher.spec for batcher in self._catalog}
        self.session = StreamSession(session_id, specs, self._catalog.default, _limits(services), services.settings.events)
        self.outcome = DISCONNECTED
        self._outbox: asyncio.Queue[ServerMessage | Close] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._inferences: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._must_finish = False
        self._is_receiving = False
        self._intake: Intake | None = None

    async def run(self) -> None:
        """Serve the stream until it is closed or the client is gone."""
        await self._websocket.accept()
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())
        try:
            self._perform(self.session.open(self._websocket.query_params.multi_items(), self._clock()))
            await asyncio.wait([self._writer, self._reader], return_when=asyncio.FIRST_COMPLETED)
            if not self._writer.done() and not self.session.is_reading:
                if self._must_finish:
                    await self._finish()
                await asyncio.wait([self._writer])
        finally:
            if self._alarm:
                self._alarm.cancel()
            self._perform(self.session.abandon())
            if self._intake:
                self._intake.close()
            tasks = [self._writer, self._reader, *self._inferences]
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect | OSError):
                    logger.error("the stream failed", exc_info=result)

    def drain(self) -> None:
        """The server is going away."""
        self._perform(self.session.drain(self._clock()))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(message):
                    self._outbox.put_nowait(message)
                    if isinstance(message, Tags):
                        self._services.metrics.window_lag(message.lag_ms / 1000)
                case Infer():
                    task = asyncio.create_task(self._infer(action))
                    self._inferences.add(task)
                    task.add_done_callback(self._inferences.discard)
                case FinishAudio():
                    self._must_finish = True
                case Dropped(reason, seconds):
                    self._services.metrics.audio_dropped(reason, seconds)
                case Close(code):
                    self.outcome = OUTCOMES.get(code, "failed")
                    self._outbox.put_nowait(action)
        if self._is_receiving and not self.session.is_reading:
            self._reader.cancel()  # it waits for a frame that does not matter any more
        self._changed.set()
        self._arm()

    def _arm(self) -> None:
        """Set the alarm for the session's next poll."""
        now = self._clock()
        at = self.session.next_poll(now)
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        if at is not None:
            # A little late rather than a little early: an early poll finds nothing to do and is set again.
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, at - now) + 0.001, self._poll)

    def _poll(self) -> None:
        self._alarm = None
        self._perform(self.session.poll(self._clock()))

    async def _infer(self, action: Infer) -> None:
        batcher = self._catalog.get(self.session.spec.name)
        try:
            result = await batcher.submit(action.waveform, priority=Priority.LIVE, deadline=action.deadline)
        except ServiceError as error:
            self._perform(self.session.receive_failure(action.ticket, error, self._clock()))
        except Exception:
            logger.exception("a window could not be scored")
            failure = InferenceFailed("a window could not be scored")
            self._perform(self.session.receive_failure(action.ticket, failure, self._clock()))
        else:
            started = self._clock()
            self._perform(self.session.receive_scores(action.ticket, result.scores, started))
            self._services.metrics.stage_seconds("postprocess", self._clock() - started)

    async def _write(self) -> None:
        while True:
            item = await self._outbox.get()
            async with asyncio.timeout(SEND_SECONDS):
                if isinstance(item, Close):
                    await self._websocket.close(item.code, item.reason)
                    return
                await self._websocket.send_text(item.to_json())
            if self._outbox.qsize() == MAX_OUTBOX // 2:
                self._changed.set()

    async def _read(self) -> None:
        while self.session.is_reading:
            await self._until_readable()
            self._is_receiving = True
            message = await self._websocket.receive()
            self._is_receiving = False
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1006))
            await self._take(message.get("text"), message.get("bytes"))

    async def _until_readable(self) -> None:
        """Hold the sender (through TCP) while too much is received and not answered, or not taken by the client."""
        while self.session.is_paused(self._clock()) or (self._outbox.qsize() > MAX_OUTBOX and self.session.is_reading):
            self._changed.clear()
            self._arm()
            await self._changed.wait()

    async def _take(self, text: object, data: object) -> None:
        now = self._clock()
        if isinstance(text, str):
            self._perform(self.session.receive_text(text, now))
        elif isinstance(data, bytes):
            self._perform(self.session.receive_binary(len(data), now))
            if self.session.is_reading:
                try:
                    self._intake = self._intake or self._open_intake()
                    await self._hand_over(self._intake.push(data), now, inline=self._is_quick(data))
                except ServiceError as error:
                    self._perform(self.session.receive_audio_end(self._clock(), error))

    async def _finish(self) -> None:
        """Drain the decoder."""
        now = self._clock()
        error: ServiceError | None = None
        try:
            if self._intake:
                await self._hand_over(self._intake.finish(), now, inline=isinstance(self._intake, RawIntake))
        except ServiceError as cut:
            error = cut
        self._perform(self.session.receive_audio_end(self._clock(), error))

    async def _hand_over(self, blocks: Iterator[Int16Array], arrived_at: float, *, inline: bool) -> None:
        """Give decoded blocks to the session, pausing between them where it asks for it."""
        rate = self.session.spec.sample_rate
        while True:
            block = next(blocks, None) if inline else await self._services.run(lambda: next(blocks, None))
            if block is None or self.session.is_closed:
                return
            self._services.metrics.audio_received("stream", len(block) / rate)
            self._perform(self.session.receive_audio(block, arrived_at, self._clock()))
            await self._until_readable()

    def _is_quick(self, data: bytes) -> bool:
        return isinstance(self._intake, RawIntake) and len(data) <= INLINE_BYTES

    def _open_intake(self) -> Intake:
        audio, spec = self.session.audio_format, self.session.spec
        observe = self._services.metrics.stage_seconds
        if audio.raw:
            return RawIntake(audio.raw, channel=audio.channel, target_rate=spec.sample_rate, observe=observe, clock=self._clock)
        return ContainerIntake(channel=audio.channel, target_rate=spec.sample_rate, observe=observe, clock=self._clock)
