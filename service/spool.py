"""Where the bodies of requests are while they are read: small ones in memory, so many of them; the others on disk, where all
have no more room together than SONOTAG_MAX_SPOOLED_BODIES, over all workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final

from service.errors import NoRoom
from service.keeper.client import KeeperClient
from service.keeper.topics import HOLD_ROOM, LEAVE_ROOM, HoldRoom, LeaveRoom

BLOCK_BYTES: Final = 4 * 1024**2
"""So much is set aside at once: a body of 2 GiB asks 512 times."""
RETRY_SECONDS: Final = 10.0
MEMORY_BYTES, LEAST_MEMORY_BYTES = 1024**2, 65_536
MAX_IN_MEMORY: Final = 128
"""Bodies of one process that may have `MEMORY_BYTES` each in memory; those that come while there are so many have
`LEAST_MEMORY_BYTES`: clients who send slowly, or nothing more, may be as many as there are descriptors."""


class BodyRoom:
    """The room of one body. Made by `Spool.room`.

    Args:
        keeper: Counts.
        holder: Names the body among its worker's.
        declared_bytes: How long it says that it is; None where it does not.
        memory_bytes: How much of it may be in memory.

    Attributes:
        memory_bytes: See there.
    """

    def __init__(self, keeper: KeeperClient, holder: str, declared_bytes: int | None, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self._keeper = keeper
        self._holder = holder
        self._declared_bytes = declared_bytes
        self._num_bytes = 0
        self._has_asked = False

    async def check(self) -> None:
        """Refuse a body for which there is no room now, by what it says of its length, before anything of it has come.

        Nothing is set aside for it: who says much and sends nothing takes no room from anybody.

        Raises:
            NoRoom: There is none.
            Unavailable: See `cover`.
        """
        if self._declared_bytes is not None and self._declared_bytes > self.memory_bytes:
            await self._hold(0, self._declared_bytes)

    async def cover(self, received_bytes: int) -> None:
        """See to it that there is room for what has come, before it is written. In memory there is.

        Raises:
            NoRoom: There is none, or none for the rest that is said to come.
            Unavailable: The supervisor does not answer: what it counts is not known, so nothing more is taken in.
        """
        if received_bytes > max(self._num_bytes, self.memory_bytes):
            declared = self._declared_bytes
            wanted = -(-received_bytes // BLOCK_BYTES) * BLOCK_BYTES
            await self._hold(wanted if declared is None else min(wanted, declared), max(received_bytes, declared or 0))

    async def _hold(self, wanted: int, needed: int) -> None:
        self._has_asked = True
        room = await self._keeper.ask(HOLD_ROOM, HoldRoom(holder=self._holder, num_bytes=wanted, needed_bytes=needed))
        if room.num_bytes is None:
            others = room.taken_bytes - self._num_bytes
            raise NoRoom(
                f"this body needs {needed} bytes on disk, others have {others}, and together they may have {room.limit_bytes} "
                "(SONOTAG_MAX_SPOOLED_BODIES)",
                retry_after_s=RETRY_SECONDS,
            )
        self._num_bytes = room.num_bytes

    def leave(self) -> None:
        """Give the room back; it may be none."""
        if self._has_asked:
            self._keeper.tell(LEAVE_ROOM, LeaveRoom(holder=self._holder))


class Spool:
    """Gives the bodies of one process their room.

    Args:
        keeper: Counts for all processes.
        memory_bytes: What a body may have in memory, as long as there are not many.
    """

    def __init__(self, keeper: KeeperClient, memory_bytes: int = MEMORY_BYTES) -> None:
        self._keeper = keeper
        self._memory_bytes = memory_bytes
        self._numbers = count()
        self._num_open = 0

    @contextmanager
    def room(self, declared_bytes: int | None) -> Iterator[BodyRoom]:
        """Yield the room of a body, none at first. It is given back at the end, also what is granted after the caller left."""
        memory_bytes = self._memory_bytes if self._num_open < MAX_IN_MEMORY else LEAST_MEMORY_BYTES
        room = BodyRoom(self._keeper, str(next(self._numbers)), declared_bytes, memory_bytes)
        self._num_open += 1
        try:
            yield room
        finally:
            self._num_open -= 1
            room.leave()
