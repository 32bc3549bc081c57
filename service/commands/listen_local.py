"""A live stream between a source of sound and standard output, scored in this process."""

from __future__ import annotations

from service.commands.listen_output import MessagePrinter
from service.commands.listen_sources import Source
from service.engine import Engine
from service.streaming.messages import ServerMessage, Stop


class LocalChannel:
    """A `Channel` between a source of sound and standard output.

    Args:
        engine: A pool to write in: a pipe that nobody reads must not hold the model.
        source: The sound.
        printer: Where messages go.

    Attributes:
        trouble: What ended the input or the output, if it was no end in good order.
    """

    def __init__(self, engine: Engine, source: Source, printer: MessagePrinter) -> None:
        self._engine = engine
        self._source = source
        self._printer = printer
        self.trouble: OSError | None = None

    async def receive(self) -> str | bytes:
        """See `Channel`. The end of the sound is `stop`."""
        try:
            frame = await anext(self._source.frames, None)
        except OSError as error:
            self.trouble = error
            raise
        return Stop(type="stop").model_dump_json() if frame is None else frame

    async def send(self, message: ServerMessage) -> None:
        """See `Channel`."""
        try:
            await self._engine.run(lambda: self._printer.write(message))
        except OSError as error:
            self.trouble = error
            raise

    async def close(self, code: int, reason: str) -> None:
        """See `Channel`. What there is to say was sent."""

    async def has_arrived(self) -> bool:
        """See `Channel`. It is written."""
        return True
