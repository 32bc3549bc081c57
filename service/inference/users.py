"""Who still uses something that is to be replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Users:
    """Counts users and tells them to leave. Its methods belong to the event loop."""

    def __init__(self) -> None:
        self._users: dict[object, Callable[[], None] | None] = {}
        self._gone = asyncio.Event()
        self._gone.set()

    def __len__(self) -> int:
        return len(self._users)

    @contextmanager
    def joined(self, leave: Callable[[], None] | None = None) -> Iterator[None]:
        """Count one user for as long as the context is open.

        Args:
            leave: Asks the user to leave soon; None for one who leaves anyway.
        """
        key = object()
        self._users[key] = leave
        self._gone.clear()
        try:
            yield
        finally:
            del self._users[key]
            if not self._users:
                self._gone.set()

    def dismiss(self) -> None:
        """Ask everyone who can be asked to leave; once each."""
        for key, leave in list(self._users.items()):
            if leave is not None:
                self._users[key] = None
                leave()

    async def wait_gone(self) -> None:
        """Wait until there is nobody."""
        await self._gone.wait()
