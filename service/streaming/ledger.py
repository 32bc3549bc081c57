"""The windows of one stream on their way: which wait, which are with the model, and whose turn it is to be answered.

Windows enter in order and leave in order, each once, as scored or as dropped; nothing overtakes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from service.audio.windowing import Span
from service.inference.runner import FloatArray
from service.observer import DropReason
from service.postprocess.scores import TagSelector

MAX_IN_FLIGHT = 4
"""Windows of one stream that may be with the model at once: enough to fill a batch from a file, few enough that no
stream crowds out another."""


class WindowState(Enum):
    """Where a window is."""

    WAITING = auto()
    IN_FLIGHT = auto()
    SCORED = auto()
    DROPPED = auto()


OPEN = (WindowState.WAITING, WindowState.IN_FLIGHT)


@dataclass(slots=True, eq=False)
class WindowEntry:
    """One window of a stream.

    Attributes:
        ticket: Its number in the stream, from 0.
        span: Its samples.
        previous_end: Where the window before it ended: what lies between is the sound that it alone would tell first.
        reference: Clock seconds from which its lag is counted.
        selector: The tags that were wanted when its last sample came.
        state: Where it is.
        scores: float32 `[labels]` once scored.
        drop_reason: Why it was dropped.
    """

    ticket: int
    span: Span
    previous_end: int
    reference: float
    selector: TagSelector
    state: WindowState = WindowState.WAITING
    scores: FloatArray | None = None
    drop_reason: DropReason = "lag"

    def drop(self, reason: DropReason) -> None:
        """Give the window up."""
        self.state, self.drop_reason = WindowState.DROPPED, reason


class WindowLedger:
    """The windows of one stream that are not answered yet, oldest first.

    Args:
        max_lag_seconds: A window that is not answered by then is dropped; None when nothing ever is.
    """

    def __init__(self, max_lag_seconds: float | None) -> None:
        self._max_lag = max_lag_seconds
        self._entries: deque[WindowEntry] = deque()
        self._by_ticket: dict[int, WindowEntry] = {}
        self._num_added = 0
        self._num_in_flight = 0
        self._added_end = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def oldest(self) -> WindowEntry | None:
        """The window whose turn it is."""
        return self._entries[0] if self._entries else None

    def add(self, span: Span, reference: float, selector: TagSelector) -> None:
        """Take a window that has just been completed; spans come in the order of their ends."""
        entry = WindowEntry(self._num_added, span, self._added_end, reference, selector)
        self._num_added += 1
        self._added_end = span.end
        self._entries.append(entry)

    def go_on(self, position: int) -> None:
        """Whatever is added next tells of sound from a position on."""
        self._added_end = position

    def deadline(self, entry: WindowEntry) -> float | None:
        """Return the clock time after which a window's answer is too late, or None."""
        return None if self._max_lag is None else entry.reference + self._max_lag

    def next_deadline(self) -> float | None:
        """Return when the oldest unanswered window becomes too late, or None."""
        open_entries = (entry for entry in self._entries if entry.state in OPEN)
        first = next(open_entries, None)
        return None if first is None else self.deadline(first)

    def expire(self, now: float) -> None:
        """Drop the windows whose lag has passed the limit, also those that the model still works on."""
        if self._max_lag is not None:
            for entry in self._entries:
                if entry.state in OPEN and now > entry.reference + self._max_lag:
                    entry.drop("lag")

    def issue(self) -> list[WindowEntry]:
        """Return the windows to give to the model now, and count them as given."""
        issued = []
        for entry in self._entries:
            if self._num_in_flight >= MAX_IN_FLIGHT:
                break
            if entry.state is WindowState.WAITING:
                entry.state = WindowState.IN_FLIGHT
                self._by_ticket[entry.ticket] = entry
                self._num_in_flight += 1
                issued.append(entry)
        return issued

    def settle(self, ticket: int, scores: FloatArray | None, now: float, reason: DropReason = "lag") -> None:
        """Take the model's answer for a window in flight.

        Args:
            ticket: Which window.
            scores: float32 `[labels]`, or None when it was not scored.
            now: Clock seconds; an answer that comes too late is dropped.
            reason: Why there are no scores.
        """
        entry = self._by_ticket.pop(ticket)
        self._num_in_flight -= 1
        if entry.state is WindowState.DROPPED:
            return  # it became too late meanwhile
        if scores is None:
            entry.drop(reason)
        elif self._max_lag is not None and now > entry.reference + self._max_lag:
            entry.drop("lag")
        else:
            entry.state, entry.scores = WindowState.SCORED, scores

    def pop_settled(self) -> list[WindowEntry]:
        """Return the windows at the head that are scored or dropped, in order, and forget them."""
        settled = []
        while self._entries and self._entries[0].state not in OPEN:
            settled.append(self._entries.popleft())
        return settled
