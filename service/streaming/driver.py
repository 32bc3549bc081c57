"""Carries a `StreamSession`'s actions out, whatever the stream comes through: a socket, a file, a pipe.

Four things happen at once, all on the event loop: the reader takes frames and has them decoded, one task a window waits
for the model, the writer sends in order, and an alarm calls `poll`. The session decides everything; each call to it is
followed by `_perform`, which never awaits, so that no two calls interleave.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.engine import Engine
from service.errors import ServiceError, SlowReader, Unavailable
from service.inference.live_share import LivePlace
from service.inference.runner import FloatArray
from service.meter import UNMETERED, Meter
from service.options import whole_windows_per_second
from service.settings import Settings
from service.streaming.actions import Action, Close, Dropped, FinishAudio, Infer, Resume, Send
from service.streaming.alarm import Alarm
from service.streaming.channel import Channel, OtherSideLeft
from service.streaming.configuration import ActiveConfiguration
from service.streaming.frame_decoder import FrameDecoder
from service.streaming.messages import Limits, Stop, Tags
from service.streaming.outbox import Outbox
from service.streaming.scorer import WindowScorer
from service.streaming.session import StreamSession

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a stream asks for: so many windows a second of this model."""

    model: str
    windows_per_second: float


class Resumption(Protocol):
    """Where streams wait whose connection broke, in this process, and how those of other processes are found."""

    def make_token(self) -> str:
        """Return a token that nobody can guess."""
        ...

    def watch(self, token: str, driver: StreamDriver) -> None:
        """A stream is open that another connection may go on with."""
        ...

    def hold(self, token: str) -> None:
        """Its connection broke: keep it for a while, then call `StreamDriver.forget`."""
        ...

    def expect(self, token: str) -> bool:
        """It has ended, and its end is on its way: `hold` or `drop` follows. False where too many are: it is kept no longer."""
        ...

    def drop(self, token: str) -> None:
        """It has ended in good order."""
        ...

    def alias(self, token: str, old: str) -> None:
        """It goes on with what was fetched as `old`, and is found by that name, too, until `settle`."""
        ...

    def settle(self, token: str) -> None:
        """It is found by no other name any more."""
        ...

    async def find(self, token: str) -> Demand | None:
        """Return what has to be admitted before a stream is taken; None where nobody has it. The stream stays where it is, but
        its old connection is left if it is still open, and what that held is free.

        Raises:
            Unavailable: Whoever may have it does not answer.
        """
        ...

    async def fetch(self, token: str) -> str | None:
        """Take a stream that was found from wherever it is; None where nobody has it.

        Raises:
            Unavailable: Whoever may have it does not answer. It stays there.
        """
        ...


def limits_of(settings: Settings) -> Limits:
    """Return what streams are held to."""
    return Limits(
        max_lag_seconds=settings.max_lag_seconds,
        max_ahead_seconds=settings.max_ahead_seconds,
        idle_seconds=settings.idle_seconds,
        max_stream_seconds=settings.max_stream_seconds,
        max_frame_bytes=settings.max_frame_bytes,
        max_messages_per_second=settings.max_messages_per_second,
    )


class StreamDriver:
    """One stream on its way through.

    Args:
        engine: The models, a pool, a clock and who watches; its catalog is loaded.
        channel: The other side.
        session_id: Of this stream.
        meter: Counts its sound against whoever sends it.
        resumption: For streams that another connection may go on with; None where there is no such thing.
        place: What the stream may ask of a model; None where it is the only one.

    Attributes:
        session: What decides.
        demand: What the stream asks for; None until it is configured.
        close_code: How the stream was closed; None until it is, and where the other side is gone.
        is_left: For whoever called `run` to set when nothing is held for the connection any more.
    """

    def __init__(
        self,
        engine: Engine,
        channel: Channel,
        session_id: str,
        meter: Meter = UNMETERED,
        resumption: Resumption | None = None,
        place: LivePlace | None = None,
    ) -> None:
        self._engine = engine
        self._channel = channel
        self._catalog = engine.catalog
        self._clock = engine.clock
        specs = {batcher.spec.name: batcher.spec for batcher in self._catalog}
        settings = engine.settings
        self._place = place
        self._half_lag = settings.max_lag_seconds / 2
        self._resumption = resumption
        self._token = resumption.make_token() if resumption else None
        self.session = StreamSession(
            session_id, specs, self._catalog.default, limits_of(settings), settings.events, self._token, self._admit
        )
        self.close_code: int | None = None
        self.demand: Demand | None = None
        self.is_left = asyncio.Event()
        self._changed = asyncio.Event()
        self._outbox = Outbox(channel, self._changed.set, self._give_up_on_reader)
        self._scorer = WindowScorer(engine, self._take_scores, self._take_failure)
        self._alarm = Alarm(self._clock, self._poll)
        self._must_finish = False
        self._is_parked = False
        self._is_arriving = False
        self._is_taken = asyncio.Event()
        self._fetching: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._is_receiving = False
        self._decoder = FrameDecoder(engine, meter)

    async def run(self, query: list[tuple[str, str]]) -> None:
        """Serve the stream until it is closed or the other side is gone.

        Args:
            query: The configuration that came with the connection, as names and values.
        """
        self._writer = asyncio.create_task(self._outbox.deliver())
        self._reader = asyncio.create_task(self._read())
        taken = asyncio.create_task(self._is_taken.wait())
        if self._resumption and self._token:
            self._resumption.watch(self._token, self)
        try:
            self._perform(self.session.open, query, self._clock())
            await asyncio.wait([self._writer, self._reader, taken], return_when=asyncio.FIRST_COMPLETED)
            if self._fetching:  # what is on its way here is to arrive
                await asyncio.wait([self._fetching])
            if self._must_finish and not self._writer.done() and not taken.done():
                await self._finish()
            if not self.session.is_reading and not taken.done():
                await asyncio.wait([self._writer, taken], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._alarm.cancel()
            self._part()
            self._decoder.close()
            tasks = [self._writer, self._reader, taken, *([self._fetching] if self._fetching else [])]
            for task in tasks:
                task.cancel()
            if not self._is_parked or self.session.is_closed:
                tasks += self._scorer.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, OSError):
                    logger.error("the stream failed", exc_info=result)

    def _part(self) -> None:
        """The connection is over: keep the stream where it broke, or may have broken before its end arrived; else end it."""
        is_closed = self._writer.done() and not self._writer.cancelled() and self._writer.exception() is None
        is_left = self._reader.done() and not self._reader.cancelled() and isinstance(self._reader.exception(), OtherSideLeft)
        if self._resumption and self._token and self.session.is_resumable and not is_left:
            self._is_arriving = is_closed and self._resumption.expect(self._token)
            if self._is_arriving or not is_closed:
                self._is_parked = True
                self._note_idle()
                if not is_closed:
                    self._resumption.hold(self._token)
                return
        if self._resumption and self._token:
            self._resumption.drop(self._token)
        self._perform(self.session.abandon)

    async def wait_arrived(self) -> None:
        """After `run`, when nothing is held for the connection any more: keep the stream if its end does not arrive. The other
        side may be gone without anybody knowing yet."""
        if not self._is_arriving or self._resumption is None or self._token is None:
            return
        has_arrived = False
        try:
            has_arrived = await self._channel.has_arrived()
        finally:
            if has_arrived:
                self._resumption.drop(self._token)
            else:
                self._resumption.hold(self._token)

    async def leave(self) -> None:
        """Leave the connection, if there still is one; returns when nothing is held for it any more."""
        self._is_taken.set()
        await self.is_left.wait()

    async def give_away(self) -> str:
        """Return the stream for another connection once its own is left and the model has answered for what came."""
        await self.leave()
        await self._idle.wait()
        return self.session.snapshot(self._clock())

    def forget(self) -> None:
        """Nobody came for the stream: what it had is dropped."""
        self._scorer.cancel()
        self._perform(self.session.abandon)

    def _note_idle(self) -> None:
        if self._is_parked and not self.session.has_windows:
            self._idle.set()

    def drain(self) -> None:
        """The server is going away. A stream that is on its way here arrives first: it is nowhere else any more."""
        if self._fetching and not self._fetching.done():
            self._fetching.add_done_callback(lambda _: self.drain())
            return
        self._perform(self.session.drain, self._clock())

    def stop(self) -> None:
        """Read no more, as if the other side had sent `stop`: what came is scored and sent, then the stream is closed."""
        self._perform(self.session.receive_text, Stop(type="stop").model_dump_json(), self._clock())

    def _perform(self, receive: Callable[..., list[Action]], *args: object) -> None:
        """Report to the session and carry out what it answers; if it breaks, that ends this stream and no other."""
        try:
            actions = receive(*args)
        except Exception:
            logger.exception("the stream broke")
            actions = self.session.fail(_our_fault())
        if not actions and self._alarm.is_set:
            return  # as after most frames: nobody waits for that, and nothing is due before the alarm, which is set again then
        for action in actions:
            match action:
                case Send(message) if self._is_parked:
                    pass  # the session keeps it for whoever goes on
                case Send(message):
                    self._outbox.put(message)
                    if isinstance(message, Tags):
                        self._engine.metrics.window_lag(message.lag_ms / 1000)
                        self._note_window(is_late=message.lag_ms / 1000 > self._half_lag)
                case Infer():
                    self._scorer.submit(action, self.session.spec.name, self._decoder.lap)
                case Resume(token):
                    self._fetching = asyncio.create_task(self._fetch(token))
                case FinishAudio():
                    self._must_finish = True
                case Dropped(reason, seconds):
                    self._engine.metrics.audio_dropped(reason, seconds)
                    if reason == "lag":
                        self._note_window(is_late=True)
                case Close(code):
                    self.close_code = code
                    self._outbox.put(action)
        if self._is_receiving and not self.session.is_reading:
            self._reader.cancel()  # it waits for a frame that does not matter any more
        self._changed.set()
        self._note_idle()
        if not self._is_parked:
            self._arm()

    async def _fetch(self, token: str) -> None:
        """Look for the stream that the client wants to go on with; it stays where it is if it cannot go on now."""
        try:
            text = await self._take_over(token)
        except Unavailable as error:
            self._perform(self.session.fail, error)
            return
        if self._resumption and text is not None and self._token:
            self._resumption.alias(self._token, token)  # should `ready` get lost, the client comes back as it came
        self._perform(self.session.resume, text, self._clock())
        if self.session.is_confirmed:
            self._settle()

    async def _take_over(self, token: str) -> str | None:
        """Return a stream that there is room for; None where nobody has it.

        Raises:
            Unavailable: There is no room, or the stream cannot be had now.
        """
        demand = await self._resumption.find(token) if self._resumption else None
        if self._resumption is None or demand is None:
            return None
        self._ask_for(demand)  # what is held now is what the stream will ask for: once taken it is not refused any more
        return await self._resumption.fetch(token)

    def _settle(self) -> None:
        if self._resumption and self._token:
            self._resumption.settle(self._token)

    def _admit(self, active: ActiveConfiguration) -> None:
        """Ask for as many windows as a configuration makes.

        Raises:
            QueueFull: The other streams leave too little.
        """
        self._ask_for(Demand(active.spec.name, whole_windows_per_second(active.spec, active.grid)))

    def _ask_for(self, demand: Demand) -> None:
        """Hold what is asked for in place of what was.

        Raises:
            QueueFull: The other streams leave too little.
        """
        if self._place is not None and demand.model in self._catalog.names:
            self._place.move(self._catalog.get(demand.model).live, demand.windows_per_second)
        self.demand = demand

    def _note_window(self, *, is_late: bool) -> None:
        if not self.session.may_wait:
            self._catalog.get(self.session.spec.name).live.record_window(is_late=is_late)

    def _arm(self) -> None:
        self._alarm.set(self.session.next_poll(self._clock()))

    def _poll(self) -> None:
        self._perform(self.session.poll, self._clock())

    def _take_scores(self, ticket: int, scores: FloatArray, now: float) -> None:
        self._perform(self.session.receive_scores, ticket, scores, now)

    def _take_failure(self, ticket: int, error: ServiceError, now: float) -> None:
        self._perform(self.session.receive_failure, ticket, error, now)

    def _give_up_on_reader(self) -> None:
        """The other side takes nothing: the error and the close are all that is still sent."""
        seconds = self._engine.settings.send_seconds
        error = SlowReader(f"nothing was taken of what was sent for {seconds:g} s (SONOTAG_SEND_SECONDS): read while you send")
        self._perform(self.session.fail, error)

    async def _read(self) -> None:
        while self.session.is_reading:
            if self._fetching and not self._fetching.done():
                await asyncio.wait([self._fetching])
                continue
            self._is_receiving = True
            try:
                frame = await self._channel.receive()
            except ServiceError as error:
                self._perform(self.session.receive_audio_end, self._clock(), error)
                return
            finally:
                self._is_receiving = False
            await self._take(frame)
            # Frames that are there already are taken without waiting: let other streams have their turn between them.
            await asyncio.sleep(0)
            await self._until_readable()  # the stream may end meanwhile: then no frame is waited for

    async def _until_readable(self) -> None:
        """Hold the sender while too much is received and not answered, or not taken by the other side."""
        while self.session.is_paused(self._clock()) or (self._outbox.is_full and self.session.is_reading):
            self._changed.clear()
            self._arm()
            await self._changed.wait()

    async def _take(self, frame: str | bytes) -> None:
        now = self._clock()
        if not self.session.is_confirmed:
            self._settle()
        if isinstance(frame, str):
            self._perform(self.session.receive_text, frame, now)
            return
        self._perform(self.session.receive_binary, len(frame), now)
        if self.session.is_reading:
            self._decoder.push(frame, self.session.audio_format, self.session.spec)
            if error := await self._hand_over(now):
                self._perform(self.session.receive_audio_end, self._clock(), error)

    async def _finish(self) -> None:
        """Drain the decoder."""
        self._decoder.finish()
        error = await self._hand_over(self._clock())
        self._perform(self.session.receive_audio_end, self._clock(), error)

    async def _hand_over(self, arrived_at: float) -> ServiceError | None:
        """Give what is decoded to the session, pausing where it asks for it; return why no more can be decoded."""
        try:
            while not self.session.is_closed and (piece := await self._decoder.take()) is not None:
                self._perform(self.session.receive_audio, piece, arrived_at, self._clock())
                await self._until_readable()
        except ServiceError as error:
            return error
        except Exception:
            logger.exception("the sound of a stream could not be decoded")
            return _our_fault()
        return None


def _our_fault() -> ServiceError:
    return ServiceError("something went wrong on our side; the log knows it under this session_id")
