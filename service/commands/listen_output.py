"""How `sonotag listen` prints a stream's messages: lines to read, or the messages themselves."""

from __future__ import annotations

import sys
from typing import NamedTuple, Protocol

from service.commands.key_hint import add_hint
from service.streaming.messages import ErrorMessage, EventMessage, ServerMessage, Summary, Tags, Warn


class Lines(NamedTuple):
    """What to print: whole lines for standard output and for standard error; either may be empty."""

    output: str = ""
    error: str = ""


class ListenOutput(Protocol):
    """Turns messages into lines."""

    def lines(self, message: ServerMessage) -> Lines:
        """Return what to print for a message."""
        ...


class JsonLines:
    """The messages of the wire, one a line; errors for people too."""

    def lines(self, message: ServerMessage) -> Lines:
        """See `ListenOutput`."""
        error = _error_line(message) if isinstance(message, ErrorMessage) else ""
        return Lines(message.to_json() + "\n", error)


class TextLines:
    """`TIME  tags` for each window, a line for an event's onset and one for its end; the rest only where it matters."""

    def lines(self, message: ServerMessage) -> Lines:
        """See `ListenOutput`."""
        match message:
            case Tags():
                tags = ", ".join(f"{tag.label} {tag.score:.3f}" for tag in message.tags)
                return Lines(f"{message.start:8.2f} {message.end:8.2f}  {tags or '-'}\n")
            case EventMessage():
                return Lines(_event_line(message))
            case Warn():
                return Lines(error=f"sonotag listen: warning: {message.message}\n")
            case ErrorMessage():
                return Lines(error=_error_line(message))
            case Summary():
                return Lines(_summary_line(message))
        return Lines()


class MessagePrinter:
    """Prints messages.

    Args:
        output: How.

    Attributes:
        num_errors: Messages of type `error` so far.
    """

    def __init__(self, output: ListenOutput) -> None:
        self._output = output
        self.num_errors = 0

    def write(self, message: ServerMessage) -> None:
        """Print a message; blocks while nobody reads.

        Raises:
            OSError: Nobody reads any more.
        """
        self.num_errors += isinstance(message, ErrorMessage)
        output, error = self._output.lines(message)
        if error:
            sys.stderr.write(error)
            sys.stderr.flush()
        if output:
            sys.stdout.write(output)
            sys.stdout.flush()


def _error_line(error: ErrorMessage) -> str:
    return f"sonotag listen: {add_hint(error.code, error.message)}\n"


def _event_line(event: EventMessage) -> str:
    if event.retracted:
        return f"{event.onset:8.2f}           withdrawn {event.label}\n"
    if event.phase == "offset":
        return f"{event.onset:8.2f} {event.offset:8.2f}  ended {event.label}, peak {event.peak:.3f}\n"
    corrected = ", corrected" if event.phase == "update" else ""
    return f"{event.onset:8.2f}           began {event.label}{corrected}\n"


def _summary_line(summary: Summary) -> str:
    parts = [f"{summary.duration:.2f} s heard", _count(summary.windows, "window"), _count(summary.events, "event")]
    if summary.dropped_seconds:
        parts.append(f"{summary.dropped_seconds:.2f} s not scored")
    return ", ".join(parts) + "\n"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
