"""The client for programs with an event loop."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar, Unpack
from urllib.parse import urlsplit

import httpx
import pydantic
from websockets.asyncio.client import ClientConnection

from service.answers import CapacityAnswer, ClassifyQuery, ClipAnswer
from service.client.connection import open_stream
from service.client.errors import BadAnswer, ClientClosed, Unreachable, connection_reason, response_error
from service.client.fields import ClassifyFields, StartFields, make_query, make_start, query_items
from service.client.lines import NDJSON, read_lines
from service.client.retry import Retry
from service.client.sounds import Clip, Frame, LiveSource, Payload, make_payload, open_live
from service.client.streams import run_stream
from service.errors import InvalidParameter, ServiceError
from service.streaming.messages import ServerMessage, Start

DEFAULT_URL = "http://127.0.0.1:8000"
API_KEY_VARIABLE = "SONOTAG_API_KEY"
DEFAULT_TIMEOUT_SECONDS = 600.0
"""How long a server may be silent while it scores a clip: one of two hours takes minutes on a small machine."""
CONNECT_SECONDS = 10.0
DEFAULT_CONCURRENCY = 4

ClipT = TypeVar("ClipT", bound=Clip)
AnswerT = TypeVar("AnswerT", bound=pydantic.BaseModel)


@dataclass(frozen=True, slots=True)
class Classified(Generic[ClipT]):
    """What became of one of several clips: an answer, or why there is none.

    Attributes:
        clip: As it was given.
        answer: None where there is an error.
        error: None where there is an answer.
    """

    clip: ClipT
    answer: ClipAnswer | None
    error: ServiceError | OSError | None


class AsyncClient:
    """A Sonotag service; a context manager. Any number of calls may be under way at once.

    Args:
        url: Where it is; with a path, where a proxy serves it under one.
        api_key: Sent where the service asks for one; that of the environment (SONOTAG_API_KEY) when it is not given.
        headers: Sent with everything, such as what a proxy asks for.
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
        check_address(url)
        self._url = url.rstrip("/")
        self._headers = {**_authorization(api_key), **(headers or {})}
        self._retry = retry or Retry()
        timeout = httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS, pool=None)
        self._http = httpx.AsyncClient(headers=self._headers, timeout=timeout)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; what is asked afterwards raises `ClientClosed`."""
        await self._http.aclose()

    def _check_open(self) -> None:
        if self._http.is_closed:
            raise ClientClosed

    async def classify(
        self,
        clip: Clip,
        *,
        sample_rate: int | None = None,
        on_progress: Callable[[float], None] | None = None,
        **fields: Unpack[ClassifyFields],
    ) -> ClipAnswer:
        """Say what is heard in a clip.

        Args:
            clip: A path, the bytes of a file, an open file, or samples: float in [-1, 1] or int16, `[n]` or `[n, channels]`.
            sample_rate: Of samples, Hz.
            on_progress: Is told after each window how much is done, 0 to 1, from 0 again where the request is repeated. It
                runs on the event loop. The service answers line by line then, which costs it a little more.
            fields: What is wanted: the parameters of POST /v1/classify; `events` is a boolean or a mapping.

        Raises:
            ServiceError: What the server refused it with, or `Unreachable`, after the last try; `InvalidParameter` for what
                cannot be sent, `ClientClosed` after `close`.
            OSError: The file cannot be read.
        """
        return await self.classify_query(clip, make_query(fields), sample_rate=sample_rate, on_progress=on_progress)

    async def classify_query(
        self,
        clip: Clip,
        query: ClassifyQuery,
        *,
        sample_rate: int | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> ClipAnswer:
        """Do as `classify` does, with the parameters in one object.

        Args:
            clip: As of `classify`.
            query: What is wanted.
            sample_rate: Of samples, Hz.
            on_progress: As of `classify`.

        Raises:
            ServiceError: As of `classify`.
            OSError: The file cannot be read.
        """
        self._check_open()
        items, payload = query_items(query), make_payload(clip, sample_rate)
        if on_progress is None:
            return await self._retry.run(lambda: self._classify(payload, items))
        return await self._retry.run(lambda: self._classify_by_line(payload, items, query.timeline, on_progress))

    async def classify_many(
        self, clips: Iterable[ClipT], *, concurrency: int = DEFAULT_CONCURRENCY, **fields: Unpack[ClassifyFields]
    ) -> AsyncGenerator[Classified[ClipT], None]:
        """Classify clips, some at a time; yield what became of each, in their order. One that fails does not end the rest.

        Args:
            clips: Paths, mostly. No more of them is taken than is under way.
            concurrency: How many are under way at once, those included that wait for an earlier one to be taken.
            fields: As of `classify`.
        """
        self._check_open()
        query = make_query(fields)

        async def attempt(clip: ClipT) -> Classified[ClipT]:
            try:
                return Classified(clip, await self.classify_query(clip, query), None)
            except (ServiceError, OSError) as error:
                return Classified(clip, None, error)

        running: deque[asyncio.Task[Classified[ClipT]]] = deque()
        try:
            for clip in clips:
                running.append(asyncio.create_task(attempt(clip)))
                if len(running) >= concurrency:
                    yield await running.popleft()
            while running:
                yield await running.popleft()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def stream(
        self, source: LiveSource, *, sample_rate: int | None = None, **fields: Unpack[StartFields]
    ) -> AsyncGenerator[ServerMessage, None]:
        """Stream sound and yield what the server says: `Ready`, `Tags`, `EventMessage`, ..., `Summary`.

        The upgrade is tried again where the server is full. Where the connection breaks a stream of raw samples goes on over
        another one, told by a second `Ready`: that is tried for 30 s, also where the server is full meanwhile. A container
        does not go on.

        Args:
            source: As a clip, or an iterable (asynchronous or not) of bytes as they come, which may yield `Update`, `Flush`
                and `KeepAlive` messages between them. Its end is the stream's.
            sample_rate: Of raw samples, Hz.
            fields: What is wanted: the fields of `start`. Without `encoding` the bytes are a container, or an array's.

        Raises:
            ServiceError: The server refused it, or ended it in no good order, or the source yields what is no frame; what the
                server said before has been yielded.
        """
        document: dict[str, object] = dict(fields)
        if sample_rate is not None:
            document["sample_rate"] = sample_rate
        frames = open_live(source, document)
        async with aclosing(self.stream_frames(frames, make_start(document))) as messages:
            async for message in messages:
                yield message

    async def stream_frames(self, frames: AsyncIterator[Frame], start: Start) -> AsyncGenerator[ServerMessage, None]:
        """Do as `stream` does, with the configuration in one object."""
        self._check_open()
        url = self._url.replace("http", "ws", 1) + "/v1/stream"

        async def connect(query: Mapping[str, str]) -> ClientConnection:
            return await open_stream(url, self._headers, query)

        async with aclosing(run_stream(connect, self._retry, start, frames)) as messages:
            async for message in messages:
                yield message

    async def capacity(self) -> CapacityAnswer:
        """Say how much the service has to do, and how much it can take.

        Raises:
            ServiceError: What the server refused it with, or `Unreachable`, after the last try.
        """
        self._check_open()
        return await self._retry.run(self._capacity)

    async def _request(self, payload: Payload, items: tuple[tuple[str, str], ...], accept: str) -> httpx.Request:
        headers = {
            "Content-Length": str(await payload.num_bytes()),
            "Content-Type": "application/octet-stream",
            "Accept": accept,
        }
        return self._http.build_request(
            "POST", f"{self._url}/v1/classify", params=httpx.QueryParams(items), content=payload.chunks(), headers=headers
        )

    async def _classify_by_line(
        self, payload: Payload, items: tuple[tuple[str, str], ...], timeline: bool, on_progress: Callable[[float], None]
    ) -> ClipAnswer:
        request = await self._request(payload, items, NDJSON)
        try:
            response = await self._http.send(request, stream=True)
            async with aclosing(response):
                if not response.is_success:
                    raise response_error(response.status_code, response.headers, await response.aread())
                return await read_lines(response.aiter_lines(), timeline=timeline, on_progress=on_progress)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except ValueError as error:
            raise BadAnswer(f"{self._url} answers {response.status_code}, but not as a Sonotag does") from error

    def _unreachable(self, error: httpx.TransportError) -> Unreachable:
        return Unreachable(f"no answer from {self._url}: {connection_reason(error)}")

    async def _classify(self, payload: Payload, items: tuple[tuple[str, str], ...]) -> ClipAnswer:
        return self._read(await self._send(await self._request(payload, items, "application/json")), ClipAnswer)

    async def _capacity(self) -> CapacityAnswer:
        return self._read(await self._send(self._http.build_request("GET", f"{self._url}/v1/capacity")), CapacityAnswer)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._http.send(request)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _read(self, response: httpx.Response, kind: type[AnswerT]) -> AnswerT:
        if not response.is_success:
            raise response_error(response.status_code, response.headers, response.content)
        try:
            return kind.model_validate_json(response.content)
        except pydantic.ValidationError as error:
            raise BadAnswer(f"{self._url} answers {response.status_code}, but not as a Sonotag does") from error


def _authorization(api_key: str | None) -> dict[str, str]:
    key = (os.environ.get(API_KEY_VARIABLE, "") if api_key is None else api_key).strip()
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InvalidParameter("the API key has characters that no key has", param="api_key")
    return {"Authorization": f"Bearer {key}"}


def check_address(url: str) -> None:
    """Refuse what cannot be the address of a service.

    Raises:
        InvalidParameter: It is no HTTP address.
    """
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_address = False
    if not is_address:
        raise InvalidParameter(f"the address of a service is like http://HOST:PORT; got {url[:80]!r}", param="url")
