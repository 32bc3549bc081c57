"""The NDJSON answer: a clip's windows line by line as they are scored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pydantic

from service.answers import error_body, to_json
from service.api.schemas import ErrorLine, SummaryLine, WindowLine
from service.clips import Clip, add_window, make_answer, window_item
from service.engine import Engine
from service.errors import ServiceError
from service.tagger import ClipTags, ScoredWindow


async def answer_lines(
    engine: Engine, clip: Clip, first: ScoredWindow, on_error: Callable[[ServiceError], None]
) -> AsyncIterator[bytes]:
    """Yield the lines of an NDJSON answer; an error that comes later is the last line.

    Args:
        engine: Clock and metrics.
        clip: The clip.
        first: Its first window, which was awaited before the answer's head was sent.
        on_error: Is told of that error.
    """
    tags = ClipTags(clip.plan, per_window=True)
    window: ScoredWindow | None = first
    try:
        while window is not None:
            item = window_item(clip.plan.spec, window, add_window(engine, tags, window))
            progress = round(clip.progress(window.span.end), 4)
            yield _line(WindowLine(start=item.start, end=item.end, tags=item.tags, progress=progress))
            window = await anext(clip.windows, None)
        answer = make_answer(clip.plan, tags.result(clip.reader.num_samples))
        yield _line(SummaryLine.model_validate(answer.model_dump()))
    except ServiceError as error:
        on_error(error)
        yield _line(ErrorLine(error=error_body(error)))


def _line(item: pydantic.BaseModel) -> bytes:
    return to_json(item) + b"\n"
