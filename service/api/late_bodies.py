"""Ends the wait for bodies of requests when a drain's time is up: who sends one at a byte a second must not hold up the end."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.lifecycle import Lifecycle


class LateBodies:
    """Has whoever reads a body that has not all come told why no more of it is wanted. Pure ASGI.

    Args:
        app: What is wrapped; it answers the errors of `Lifecycle.check_ready`.
        lifecycle: Knows when the time is up.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_whole = False

        async def receive_in_time() -> Message:
            nonlocal is_whole
            message = await (receive() if is_whole else self._receive(receive))
            is_whole = not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)

    async def _receive(self, receive: Receive) -> Message:
        """Wait for a piece of a body.

        Raises:
            Unavailable: The drain's time is up.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as wait:
                with self._lifecycle.interruptible(lambda: wait.reschedule(loop.time())):
                    return await receive()
        except TimeoutError:
            self._lifecycle.check_ready()
            raise
