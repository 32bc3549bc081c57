"""The answer that comes line by line, from the client's side."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

from service.answers import ClipAnswer, ErrorAnswer, WindowItem, check_timeline
from service.client.errors import error_of

NDJSON = "application/x-ndjson"


async def read_lines(lines: AsyncIterator[str], *, timeline: bool, on_progress: Callable[[float], None]) -> ClipAnswer:
    """Return the answer that the lines make up.

    Args:
        lines: As they come.
        timeline: Whether the windows are part of the answer.
        on_progress: Is told with each window how much is done, 0 to 1.

    Raises:
        ServiceError: The service could not go on.
        InvalidParameter: The timeline is longer than one answer may be; the service itself would refuse it without lines.
        ValueError: A line is none of a Sonotag's, or the last one is missing.
    """
    windows: list[WindowItem] = []
    num_tags = 0
    async for line in lines:
        document = json.loads(line)
        kind = document.pop("type", None) if isinstance(document, dict) else None
        if kind == "error":
            raise error_of(ErrorAnswer.model_validate(document).error)
        if kind == "summary":
            return ClipAnswer.model_validate({**document, "windows": windows if timeline else None})
        if kind != "window":
            raise ValueError(f"no line of an answer: {line[:100]}")
        on_progress(float(document.pop("progress")))
        if timeline:
            window = WindowItem.model_validate(document)
            num_tags += len(window.tags)
            check_timeline(num_tags)
            windows.append(window)
    raise ValueError("the last line is missing")
