"""Live streams whose connection broke, kept for a while for another connection in whichever worker takes it.

The worker that had a stream keeps it, with its state as it is: nothing is copied for a stream that nobody comes back for.
Whoever takes the new connection asks the keeper, which asks the worker that the token names (`service.keeper`). A client may be
back before its old connection is known to be broken: that one is left at the first question, and the stream is kept like any
other, so that it is never counted twice. With the worker its streams are gone.

A stream that is kept holds no place and asks nothing of the model: whoever wants to go on with it learns what it asks for,
takes a place, has that admitted, and only then takes the stream. One that is refused may come again: it is still there.

A client whose new connection breaks before it has read `ready` comes back with the token it had: until it has sent something,
its stream is found by both.

Nor is a stream lost whose worker is slow to answer: who comes for it is told to come again, and a worker that gave it keeps it
until it hears that it has arrived.

A stream is given to the API key that opened it and to no other. The keeper counts what is kept: the oldest go when there are
more than may be open.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TypeVar

from service.errors import Unavailable
from service.keeper.client import KeeperClient
from service.keeper.keeper import GIVE_SECONDS
from service.keeper.link import ASK_SECONDS
from service.keeper.topics import (
    DESCRIBE_STREAM,
    DROP_STREAM,
    FETCH_STREAM,
    FIND_STREAM,
    GIVE_STREAM,
    PARK_STREAM,
    RELEASE_STREAM,
    SETTLE_STREAM,
    TAKEN_STREAM,
    UNPARK_STREAM,
    Message,
    Nothing,
    ParkedStream,
    StreamDemand,
    StreamState,
    StreamToken,
    Topic,
)
from service.streaming.driver import Demand, StreamDriver

A = TypeVar("A", bound=Message)

MAX_TOKEN_CHARACTERS = 100
MAX_ARRIVING = 64
"""Streams of a worker whose end is on its way, for seconds: they have no place any more, and do not count as kept."""
RETRY_SECONDS = 1.0
"""A stream is kept for a limited time, and a worker that was busy may answer at once."""


@dataclass(slots=True)
class _Kept:
    """`alias`: the token that it was fetched by, while its client may know no other. `num_going`: how many want it for another
    connection, of whom some may have left. `is_given`: one of them was given it."""

    token: str
    driver: StreamDriver
    owner: str
    alias: str | None = None
    expiry: asyncio.TimerHandle | None = None
    num_going: int = 0
    is_given: bool = False


class StreamParking:
    """The streams of one worker. Its methods belong to the event loop.

    Args:
        keeper: Finds the streams of other workers, and counts all.
        keep_seconds: How long a stream is kept (SONOTAG_RESUME_SECONDS).
    """

    def __init__(self, keeper: KeeperClient, keep_seconds: float) -> None:
        self._keeper = keeper
        self._seconds = keep_seconds
        self._kept: dict[str, _Kept] = {}
        self._arriving: set[str] = set()
        keeper.desk.add(DESCRIBE_STREAM, self._describe)
        keeper.desk.add(GIVE_STREAM, self._give)
        keeper.desk.add(RELEASE_STREAM, self._release)
        keeper.desk.add(DROP_STREAM, self._drop_oldest)

    @property
    def num_held(self) -> int:
        """Streams that wait for their clients."""
        return len(self._held())

    def of(self, owner: str) -> OwnParking:
        """Return what a stream of an API key has of it; `owner` is the key's ID, empty without keys."""
        return OwnParking(self, owner)

    def make_token(self) -> str:
        """See `Resumption`."""
        return f"{self._keeper.worker}.{secrets.token_urlsafe(18)}"

    def watch(self, token: str, driver: StreamDriver, owner: str) -> None:
        """See `Resumption`."""
        self._kept[token] = _Kept(token, driver, owner)

    def expect(self, token: str) -> bool:
        """See `Resumption`."""
        if len(self._arriving) >= MAX_ARRIVING:
            return False
        self._arriving.add(token)
        return True

    def hold(self, token: str) -> None:
        """See `Resumption`."""
        self._arriving.discard(token)
        if (kept := self._own(token)) and not kept.num_going and kept.expiry is None:
            kept.expiry = asyncio.get_running_loop().call_later(self._seconds, self._expire, kept)
            self._keeper.tell(PARK_STREAM, ParkedStream(token=token))

    def drop(self, token: str) -> None:
        """See `Resumption`."""
        self._arriving.discard(token)
        if kept := self._own(token):
            self._end_wait(kept)
            self._remove(kept)

    def alias(self, token: str, old: str) -> None:
        """See `Resumption`."""
        if kept := self._kept.get(token):
            kept.alias = old
            self._kept[old] = kept

    def settle(self, token: str) -> None:
        """See `Resumption`."""
        if kept := self._kept.get(token):
            self._remove_alias(kept)

    async def find(self, token: str, owner: str) -> Demand | None:
        """See `Resumption`."""
        answer = await self._ask(FIND_STREAM, token, owner, ASK_SECONDS + 1)
        if answer is None or answer.model is None:
            _check_in_time(answer)
            return None
        return Demand(answer.model, answer.windows_per_second)

    async def fetch(self, token: str, owner: str) -> str | None:
        """See `Resumption`."""
        answer = await self._ask(FETCH_STREAM, token, owner, GIVE_SECONDS + 1)
        if answer is None or answer.state is None:
            _check_in_time(answer)
            return None
        self._release(0, ParkedStream(token=token))  # it may have been this very worker that gave it
        self._keeper.tell(TAKEN_STREAM, ParkedStream(token=token))
        return answer.state

    async def _ask(self, topic: Topic[StreamToken, A], token: str, owner: str, seconds: float) -> A | None:
        """Ask the keeper about a stream; None for what is no token.

        Raises:
            Unavailable: It does not answer.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            return None
        try:
            return await self._keeper.ask(topic, StreamToken(token=token, owner=owner), seconds=seconds)
        except Unavailable as error:
            raise _come_again() from error

    async def _describe(self, _asker: int, question: StreamToken) -> StreamDemand:
        if (kept := self._find(question)) is None:
            return StreamDemand()
        await kept.driver.leave()
        demand = kept.driver.demand
        if demand is None or self._find(question) is not kept:  # it has ended in good order meanwhile, or was taken
            return StreamDemand()
        return StreamDemand(model=demand.model, windows_per_second=demand.windows_per_second)

    async def _give(self, _asker: int, question: StreamToken) -> StreamState:
        if (kept := self._find(question)) is None:
            return StreamState(state=None)
        kept.num_going += 1
        self._end_wait(kept)
        try:
            state = await kept.driver.give_away()
            kept.is_given = True
        finally:  # whoever asked may have left, or wait no longer
            kept.num_going -= 1
            self.hold(kept.token)
        return StreamState(state=state)

    def _release(self, _asker: int, question: ParkedStream) -> Nothing:
        """Forget a stream that arrived where it was given to; it goes on there, so nothing of it is lost."""
        if (kept := self._kept.get(question.token)) and kept.is_given:
            self._end_wait(kept)
            self._remove(kept)
        return Nothing()

    def _find(self, question: StreamToken) -> _Kept | None:
        kept = self._kept.get(question.token)
        if kept is None or kept.owner != question.owner or not kept.driver.session.is_resumable:
            return None
        return kept

    def _own(self, token: str) -> _Kept | None:
        """Return the stream that began with a token, and not one that has it for its alias."""
        kept = self._kept.get(token)
        return kept if kept is not None and kept.token == token else None

    def _drop_oldest(self, _asker: int, question: ParkedStream) -> Nothing:
        if (kept := self._kept.get(question.token)) and kept.expiry is not None:
            self._expire(kept)
        return Nothing()

    def close(self) -> None:
        """The process ends: nobody can come back to what is kept."""
        for kept in self._held():
            self._expire(kept)

    def _held(self) -> list[_Kept]:
        """Return those that wait, each once, whatever else it is found by."""
        return [kept for name, kept in self._kept.items() if kept.expiry is not None and name == kept.token]

    def _expire(self, kept: _Kept) -> None:
        self._end_wait(kept)
        self._remove(kept)
        kept.driver.forget()

    def _end_wait(self, kept: _Kept) -> None:
        if kept.expiry is not None:
            kept.expiry.cancel()
            kept.expiry = None
            self._keeper.tell(UNPARK_STREAM, ParkedStream(token=kept.token))

    def _remove(self, kept: _Kept) -> None:
        self._kept.pop(kept.token, None)
        self._remove_alias(kept)

    def _remove_alias(self, kept: _Kept) -> None:
        if kept.alias is not None and self._kept.get(kept.alias) is kept:
            del self._kept[kept.alias]
            self._keeper.tell(SETTLE_STREAM, ParkedStream(token=kept.alias))
        kept.alias = None


def _check_in_time(answer: StreamDemand | StreamState | None) -> None:
    if answer is not None and answer.is_late:
        raise _come_again()


def _come_again() -> Unavailable:
    return Unavailable(
        "the process that may have this stream does not answer now, and keeps it: come again with the same resume_token",
        param="resume_token",
        retry_after_s=RETRY_SECONDS,
    )


class OwnParking:
    """A `Resumption` for the streams of one API key.

    Args:
        parking: Has the streams of all.
        owner: The key's ID; empty without keys.
    """

    def __init__(self, parking: StreamParking, owner: str) -> None:
        self._parking = parking
        self._owner = owner

    def make_token(self) -> str:
        """See `Resumption`."""
        return self._parking.make_token()

    def watch(self, token: str, driver: StreamDriver) -> None:
        """See `Resumption`."""
        self._parking.watch(token, driver, self._owner)

    def expect(self, token: str) -> bool:
        """See `Resumption`."""
        return self._parking.expect(token)

    def hold(self, token: str) -> None:
        """See `Resumption`."""
        self._parking.hold(token)

    def drop(self, token: str) -> None:
        """See `Resumption`."""
        self._parking.drop(token)

    def alias(self, token: str, old: str) -> None:
        """See `Resumption`."""
        self._parking.alias(token, old)

    def settle(self, token: str) -> None:
        """See `Resumption`."""
        self._parking.settle(token)

    async def find(self, token: str) -> Demand | None:
        """See `Resumption`."""
        return await self._parking.find(token, self._owner)

    async def fetch(self, token: str) -> str | None:
        """See `Resumption`."""
        return await self._parking.fetch(token, self._owner)
