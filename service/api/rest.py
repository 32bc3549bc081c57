"""REST: clips (`/v1/classify`, `/v1/classify/batch`, `/compat/huggingface`)."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import IO, Any, TypeVar

import pydantic
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from service.answers import ClassifyQuery, ClipAnswer, ErrorAnswer, error_body, to_json
from service.api.admission import REFUSALS, caller_of
from service.api.error_handlers import note_refusal
from service.api.lines import answer_lines
from service.api.queries import describe_query, read_query
from service.api.schemas import (
    BatchAnswer,
    HuggingFaceItem,
    HuggingFaceParameters,
    HuggingFaceRequest,
    error_responses,
)
from service.api.uploads import FILE_FIELD, open_clips, until_disconnect
from service.clips import LEAST_SECONDS, Clip, answer_clip, make_plan, open_clip
from service.errors import BodyTooLarge, InvalidParameter, ServiceError
from service.inference.batcher import Batcher
from service.inference.policy import Priority
from service.meter import Meter
from service.services import Services
from service.tagger import MAX_PLACES, ScoredWindow, Timing
from service.validation import parameter_error

T = TypeVar("T")

NDJSON = "application/x-ndjson"
MAX_JSON_BYTES = 64 * 1024 * 1024
"""A JSON body is held in memory, base64 and all; sound of any size can be sent as it is."""
BATCH_CONCURRENCY = 2
"""Clips of one batch request under way at once: one is decoded while the other is scored."""
HUGGING_FACE_TOP_K = 5
_HUGGING_FACE_FIELDS = (
    *HuggingFaceRequest.model_fields,
    *(f"parameters.{name}" for name in HuggingFaceParameters.model_fields),
)


class WholeRoute(APIRoute):
    """A route whose endpoint takes the request as it is and returns the response: nothing is left for FastAPI to read or write,
    and it need not look for it (measured: docs/performance.md, a clip besides its model)."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


router = APIRouter(route_class=WholeRoute, responses=REFUSALS)

_AUDIO = {"type": "string", "format": "binary"}


def _body(*, many: bool) -> dict[str, object]:
    files = {"type": "array", "items": _AUDIO} if many else _AUDIO
    content: dict[str, object] = {
        "multipart/form-data": {"schema": {"type": "object", "required": [FILE_FIELD], "properties": {FILE_FIELD: files}}}
    }
    if not many:
        content["application/octet-stream"] = {"schema": _AUDIO}
    return {"requestBody": {"required": True, "content": content}}


_QUERY = {"parameters": describe_query(ClassifyQuery)}


_ERRORS = error_responses(
    {
        400: "A bad parameter, or sound that is broken",
        404: "No such model",
        408: "The body came too slowly",
        413: "Too long or too large",
        415: "Not sound",
        422: "Fewer samples than the model needs, or sound that its decoder could not be done with",
        500: "Our own fault",
        503: "Queue full, no room for the body, too late, draining or not ready; Retry-After says when to try again",
    }
)


def _services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


class LinesResponse(StreamingResponse):
    """NDJSON whose resources are released whatever becomes of the connection.

    Args:
        lines: The body.
        stack: What to close at the end.
    """

    def __init__(self, lines: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        # nginx would hold the lines back otherwise
        super().__init__(lines, media_type=NDJSON, headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store"})
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        async with self._stack:
            # Not the base class's own watch: it cancels again and again until it is obeyed, and what has to end here waits
            # for a thread that still reads the clip.
            await until_disconnect(Request(scope, receive), self.stream_response(send))


def _server_timing(timing: Timing) -> dict[str, str]:
    parts = {"decode": timing.decode, "queue": timing.queue, "infer": timing.infer}
    return {"Server-Timing": ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts.items())}


def _batch_to_json(results: list[ClipAnswer | ErrorAnswer]) -> bytes:
    return b'{"results":[' + b",".join(map(to_json, results)) + b"]}"


async def _let_in(
    request: Request, services: Services, batcher: Batcher, *, num_places: int | None = None
) -> AbstractAsyncContextManager[Meter]:
    """Refuse what cannot be taken now before its body is read, and return a context of what counts its sound.

    Nothing is held while the body comes, which may take hours: slow clients would have all places and do nothing with them.
    So what is let in asks once more when its body is there, and may be refused then.

    Args:
        request: The request.
        services: The services.
        batcher: The model.
        num_places: How many places of the queue it will have, as bulk, and its clips wait for decoders however long the line
            is; None for one clip of any length.

    Raises:
        QuotaExceeded: The caller has no sound left.
        QueueFull: There is no decoder or no place in the queue, and none in the line before it.
    """
    caller = caller_of(request)
    async with services.guard.metering(caller) as meter:
        await meter.require(LEAST_SECONDS)
    if num_places is None:
        services.decoders.check_line()
    batcher.reserve(num_places or 1, Priority.CLIP if num_places is None else Priority.BULK).release()
    return services.guard.metering(caller)


@router.post(
    "/v1/classify", tags=["clips"], response_model=ClipAnswer, responses=_ERRORS, openapi_extra=_QUERY | _body(many=False)
)
async def classify(request: Request) -> Response:
    """Say what is heard in one clip: multipart field `file`, or the bytes as the body."""
    services = _services(request)
    query = read_query(ClassifyQuery, request.query_params)
    async with AsyncExitStack() as stack:
        stack.enter_context(services.lifecycle.admit())
        stack.enter_context(services.catalog.users.joined())
        batcher = services.catalog.get(query.model)
        plan = make_plan(batcher.spec, query, services.settings.events)
        meter = await stack.enter_async_context(await _let_in(request, services, batcher))
        [file] = await stack.enter_async_context(
            open_clips(request, services.settings, services.spool, services.lifecycle, max_files=1)
        )
        opening = open_clip(services, batcher, file, plan, query.channel, meter=meter)
        if NDJSON in request.headers.get("accept", ""):

            async def begin() -> tuple[Clip, ScoredWindow]:
                clip = await stack.enter_async_context(opening)
                return clip, await anext(clip.windows)

            clip, first = await until_disconnect(request, begin())
            lines = answer_lines(services, clip, first, lambda error: note_refusal(request.scope, error.code))
            return LinesResponse(lines, stack.pop_all())
        answer, timing = await until_disconnect(request, _answer(services, opening, timeline=query.timeline))
        # A long timeline takes a while to write.
        body = await services.run(lambda: to_json(answer)) if query.timeline else to_json(answer)
        return Response(body, media_type="application/json", headers=_server_timing(timing))


async def _answer(
    services: Services, opening: AbstractAsyncContextManager[Clip], *, timeline: bool = False
) -> tuple[ClipAnswer, Timing]:
    async with opening as clip:
        return await answer_clip(services, clip, timeline=timeline), clip.timing


@router.post(
    "/v1/classify/batch",
    tags=["clips"],
    response_model=BatchAnswer,
    responses=_ERRORS,
    openapi_extra=_QUERY | _body(many=True),
)
async def classify_batch(request: Request) -> Response:
    """Say what is heard in several clips: as many parts `file`; one answer or error for each, in order."""
    services = _services(request)
    query = read_query(ClassifyQuery, request.query_params)
    with services.lifecycle.admit(), services.catalog.users.joined():
        batcher = services.catalog.get(query.model)
        plan = make_plan(batcher.spec, query, services.settings.events)
        places = min(MAX_PLACES, batcher.max_places(Priority.BULK))
        async with (
            await _let_in(request, services, batcher, num_places=places) as meter,
            open_clips(request, services.settings, services.spool, services.lifecycle) as files,
        ):
            with batcher.reserve(places, Priority.BULK) as reservation:
                turn = asyncio.Semaphore(BATCH_CONCURRENCY)

                async def answer(file: IO[bytes]) -> ClipAnswer | ErrorAnswer:
                    try:
                        opening = open_clip(services, batcher, file, plan, query.channel, reservation, meter)
                        async with turn:
                            return (await _answer(services, opening, timeline=query.timeline))[0]
                    except ServiceError as error:
                        return ErrorAnswer(error=error_body(error))

                results = await until_disconnect(request, _gather([answer(file) for file in files]))
        return Response(await services.run(lambda: _batch_to_json(results)), media_type="application/json")


async def _gather(jobs: list[Coroutine[object, object, T]]) -> list[T]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job) for job in jobs]
    return [task.result() for task in tasks]


@router.post(
    "/compat/huggingface",
    tags=["clips"],
    response_model=list[HuggingFaceItem],
    responses=_ERRORS,
    openapi_extra=_body(many=False),
)
async def classify_for_hugging_face(request: Request) -> Response:
    """The wire format of Hugging Face's audio-classification task: sound, or JSON with base64 `inputs` and `parameters`."""
    services = _services(request)
    async with AsyncExitStack() as stack:
        stack.enter_context(services.lifecycle.admit())
        stack.enter_context(services.catalog.users.joined())
        batcher = services.catalog.get(None)
        meter = await stack.enter_async_context(await _let_in(request, services, batcher))
        [file] = await stack.enter_async_context(
            open_clips(request, services.settings, services.spool, services.lifecycle, max_files=1)
        )
        file, asked = await services.run(lambda: _read_hugging_face(file))
        parameters = asked.parameters if asked else None
        top_k = (parameters and parameters.top_k) or HUGGING_FACE_TOP_K
        function = parameters.function_to_apply if parameters else None
        plan = make_plan(batcher.spec, ClassifyQuery(top_k=top_k), services.settings.events, function)
        opening = open_clip(services, batcher, file, plan, None, meter=meter)
        answer, timing = await until_disconnect(request, _answer(services, opening))
        items = [HuggingFaceItem(label=tag.label, score=tag.score) for tag in answer.tags]
        body = pydantic.TypeAdapter(list[HuggingFaceItem]).dump_json(items)
        return Response(body, media_type="application/json", headers=_server_timing(timing))


def _read_hugging_face(file: IO[bytes]) -> tuple[IO[bytes], HuggingFaceRequest | None]:
    """Tell JSON from sound by the first bytes: the client sends no content type."""
    is_json = file.read(64).lstrip()[:1] == b"{"
    file.seek(0)
    if not is_json:
        return file, None
    text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise BodyTooLarge(f"a JSON body has more than {MAX_JSON_BYTES} bytes: send the sound itself as the body")
    try:
        asked = HuggingFaceRequest.model_validate_json(text)
        return io.BytesIO(base64.b64decode(asked.inputs, validate=True)), asked
    except pydantic.ValidationError as error:
        raise parameter_error(error, _HUGGING_FACE_FIELDS) from error
    except ValueError as error:  # binascii.Error, and where characters are not even ASCII its parent
        raise InvalidParameter(f"inputs is no base64: {error}", param="inputs") from error
