"""The life of one service process: starting, ready, draining, stopped.

::

    starting ──mark_ready──▶ ready ──begin_drain──▶ draining ──mark_stopped──▶ stopped
        │                     │                         ▲
        │                     └──break_down─────────────┤
        ├──begin_drain──────────────────────────────────┘
        └──fail──▶ failed

Whatever is under way (a request, a live stream) is admitted here. Once the drain has begun nothing more is admitted, every
admitted activity has been told once, and the process may end when the last one has left. This knows no server and no
signal: `service.draining_server` maps signals to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from service.errors import Draining, NotReady, StartError

State = Literal["starting", "ready", "draining", "stopped", "failed"]


class Lifecycle:
    """Admits activities and knows when the last one has left.

    Every method runs on the event loop's thread. It may be made outside a running loop.

    Args:
        on_readiness: Told whether new activities are admitted, each time that changes; it must not block or raise.
    """

    def __init__(self, on_readiness: Callable[[bool], None] | None = None) -> None:
        self._state: State = "starting"
        self.on_reload: Callable[[], None] | None = None
        """Reloads the models, where somebody outside asks for it (SIGHUP); it must not block or raise."""
        self._on_readiness = on_readiness
        self._failure: StartError | None = None
        self._breakdown: str | None = None
        self._activities: dict[object, Callable[[], None] | None] = {}
        self._waits: dict[object, Callable[[], None]] = {}
        self._is_cut_short = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._state

    @property
    def is_ready(self) -> bool:
        """Whether new requests and streams are admitted."""
        return self._state == "ready"

    @property
    def failed(self) -> StartError | None:
        """Why the start failed, or None."""
        return self._failure

    @property
    def breakdown(self) -> str | None:
        """What broke after the start so that this process must be replaced, or None."""
        return self._breakdown

    @property
    def num_active(self) -> int:
        """Activities that have been admitted and have not left."""
        return len(self._activities)

    def mark_ready(self) -> None:
        """The models are warm. A drain that began meanwhile is not undone."""
        if self._state == "starting":
            self._state = "ready"
            self._tell_readiness()

    def fail(self, error: StartError) -> None:
        """The start failed; nothing will ever be admitted."""
        if self._state in ("starting", "draining"):
            self._state = "failed"
            self._failure = error

    def begin_drain(self) -> None:
        """Admit nothing more and tell every activity once, in the order they came. A second call does nothing.

        The callbacks run here, one after the other; they must not block or raise.
        """
        if self._state not in ("starting", "ready"):
            return
        was_ready, self._state = self.is_ready, "draining"
        if was_ready:
            self._tell_readiness()
        for on_drain in list(self._activities.values()):
            if on_drain is not None:
                on_drain()

    def cut_short(self) -> int:
        """The drain's time is up: interrupt whoever waits for something from outside; return how many there were."""
        self._is_cut_short = True
        waits = list(self._waits.values())
        for interrupt in waits:
            interrupt()
        return len(waits)

    @contextmanager
    def interruptible(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Have a wait interrupted for as long as the context is open, once the drain's time is up, or at once where it is.

        The callback must not block or raise.
        """
        key = object()
        self._waits[key] = interrupt
        try:
            if self._is_cut_short:
                interrupt()
            yield
        finally:
            del self._waits[key]

    def break_down(self, reason: str) -> None:
        """Something broke that only another process can mend: drain what can still be answered."""
        self._breakdown = self._breakdown or reason
        self.begin_drain()

    def mark_stopped(self) -> None:
        """The process ends now."""
        if self._state != "failed":
            self._state = "stopped"

    def _tell_readiness(self) -> None:
        if self._on_readiness is not None:
            self._on_readiness(self.is_ready)

    def check_ready(self) -> None:
        """Refuse unless new activities are admitted.

        Raises:
            NotReady: The models are not warm yet, or never will be.
            Draining: The process is about to end.
        """
        if self._breakdown is not None:
            raise NotReady(f"{self._breakdown}; this worker is being replaced")
        if self._state in ("draining", "stopped"):
            raise Draining("the service is shutting down; another instance, or this one after its restart, will answer")
        if self._state == "failed":
            raise NotReady("the service could not start; its log says why")
        if self._state == "starting":
            raise NotReady("the model is being loaded; try again in a moment")

    def check_time(self) -> None:
        """Refuse to wait any longer once the drain's time is up.

        Raises:
            NotReady: See `check_ready`.
            Draining: See `check_ready`.
        """
        if self._is_cut_short:
            self.check_ready()

    @contextmanager
    def admit(self, on_drain: Callable[[], None] | None = None) -> Iterator[None]:
        """Count one activity for as long as the context is open.

        Args:
            on_drain: Called once, on the loop's thread, when the drain begins while the activity is under way.

        Raises:
            NotReady: See `check_ready`.
            Draining: See `check_ready`.
        """
        self.check_ready()
        key = object()
        self._activities[key] = on_drain
        self._idle.clear()
        try:
            yield
        finally:
            del self._activities[key]
            if not self._activities:
                self._idle.set()

    async def wait_idle(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - the caller's limit is its setting
        """Wait until nothing is under way, at most `timeout` seconds (None: for ever). Return whether that is so now."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
