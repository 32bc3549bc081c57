"""The client for programs without an event loop: `AsyncClient` on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, TypeVar, Unpack

from service.answers import CapacityAnswer, ClipAnswer
from service.client.async_client import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TIMEOUT_SECONDS,
    DEFAULT_URL,
    AsyncClient,
    Classified,
    ClipT,
)
from service.client.errors import ClientClosed
from service.client.fields import ClassifyFields, StartFields
from service.client.retry import Retry
from service.client.sounds import Clip, LiveSource
from service.streaming.messages import ServerMessage

Item = TypeVar("Item")


class Client:
    """A Sonotag service; a context manager. Any thread may call, several at once.

    Args:
        url: See `AsyncClient`, as for the rest.
        api_key: Sent where the service asks for one.
        headers: Sent with everything.
        retry: When requests are repeated.
        timeout_seconds: How long the server may be silent before a request has failed.

    Raises:
        InvalidParameter: The address is none of HTTP, or the key is none.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry: Retry | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        self._client = AsyncClient(url, api_key=api_key, headers=headers, retry=retry, timeout_seconds=timeout_seconds)
        self._loop = asyncio.new_event_loop()
        # A program that forgets to close it can end all the same.
        self._thread = threading.Thread(target=self._loop.run_forever, name="sonotag-client", daemon=True)
        self._thread.start()
        self._ends: set[Callable[[], Coroutine[Any, Any, None]]] = set()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; what is asked afterwards raises `ClientClosed`."""
        if self._loop.is_closed():
            return
        for end in list(self._ends):
            self._run(end())
        self._run(self._client.close())
        self._run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def classify(
        self,
        clip: Clip,
        *,
        sample_rate: int | None = None,
        on_progress: Callable[[float], None] | None = None,
        **fields: Unpack[ClassifyFields],
    ) -> ClipAnswer:
        """See `AsyncClient.classify`. `on_progress` runs in another thread than the caller's."""
        return self._run(self._client.classify(clip, sample_rate=sample_rate, on_progress=on_progress, **fields))

    def classify_many(
        self, clips: Iterable[ClipT], *, concurrency: int = DEFAULT_CONCURRENCY, **fields: Unpack[ClassifyFields]
    ) -> Iterator[Classified[ClipT]]:
        """See `AsyncClient.classify_many`."""
        return self._iterate(self._client.classify_many(clips, concurrency=concurrency, **fields))

    def stream(
        self, source: LiveSource, *, sample_rate: int | None = None, **fields: Unpack[StartFields]
    ) -> Iterator[ServerMessage]:
        """See `AsyncClient.stream`. An iterable source runs in another thread than the caller's."""
        return self._iterate(self._client.stream(source, sample_rate=sample_rate, **fields))

    def capacity(self) -> CapacityAnswer:
        """See `AsyncClient.capacity`."""
        return self._run(self._client.capacity())

    def _run(self, coroutine: Coroutine[Any, Any, Item]) -> Item:
        if self._loop.is_closed():
            coroutine.close()
            raise ClientClosed
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:  # Control-C in the thread that waits
            future.cancel()
            raise

    def _iterate(self, items: AsyncGenerator[Item, None]) -> Iterator[Item]:
        turn = asyncio.Lock()

        async def take() -> tuple[Item] | None:
            async with turn:
                async for item in items:
                    return (item,)
                return None

        async def end() -> None:
            async with turn:  # an interrupted step ends first
                await items.aclose()

        async def leave() -> None:
            if not turn.locked():  # else another thread is in the middle of a step
                await end()

        self._ends.add(leave)
        try:
            while (taken := self._run(take())) is not None:
                yield taken[0]
        finally:
            self._ends.discard(leave)
            if not self._loop.is_closed():
                self._run(end())
