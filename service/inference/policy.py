"""Which windows wait for the model, and which of them it takes next. Pure: no clock, no lock, no await; times are passed in.

The law, which the property tests hold it to:

* A window waits in one of three lines, live, clip or bulk, first come first served. Live goes first, then clips; while bulk
  waits, at least one batch in `BULK_SHARE` starts with bulk, and while clips wait at least one in `BULK_SHARE` + 1 with them.
  Room that is left in a batch is filled from the next line.
* A batch holds windows of one size, that of the first one of the line whose turn it is: its next ones of that size join, in
  order, also past windows of another size. As the first of a line is always in the batch that starts with its line, no size
  waits longer than what came before it in the line.
* A window in line holds a *place*. There are ``capacity`` places; bulk holds at most half of them, so that a batch job
  cannot shut others out, and bulk and clips together leave a quarter to live streams. A place is held from when the window
  joins the line until it is taken, dropped or expires.
* A `Grant` holds places for as long as its owner likes (a request admitted once, a long file); its windows use those places
  and wait, in order, behind each other when all are in use. A window without a grant waits for a free place, in order.
* A window that cannot be done by its deadline is dropped before it costs anything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from heapq import merge
from itertools import chain, count, islice
from typing import Generic, TypeVar

T = TypeVar("T")

BULK_SHARE = 8
"""While bulk windows wait, one batch in this many starts with them."""

SMOOTHING = 0.2
"""Weight of the newest run in the moving averages: the last ten runs make nine tenths of it."""


class Priority(Enum):
    """Who is waiting: someone who listens now, someone who waits for one short clip, or a job that runs through many windows.

    In the order in which they go.
    """

    LIVE = "live"
    CLIP = "clip"
    BULK = "bulk"


_LATER = (Priority.BULK, Priority.CLIP)
"""Those who must not wait for ever; whose turn it is first when both have waited long."""


@dataclass(slots=True, eq=False)
class Grant:
    """Places of the queue that one caller holds. Made by `WindowQueue.reserve`, ended by `WindowQueue.release`."""

    places: int
    priority: Priority
    used: int = 0
    released: bool = False


@dataclass(slots=True, eq=False)
class Entry(Generic[T]):
    """One window that waits.

    Attributes:
        priority: Its line.
        deadline: When its result is of no more use, in the seconds of the caller's clock; None for never.
        item: Whatever the caller wants back.
        grant: Whose places it uses; None for a place of its own.
        size: What a window must have in common with others to be in a batch with them.
        turn: When it joined its line, among all that did; set by the queue.
    """

    priority: Priority
    deadline: float | None
    item: T
    grant: Grant | None = None
    size: int = 0
    turn: int = field(default=-1, init=False)


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """What one `WindowQueue.take` gave: the entries to score, and those that it is too late for."""

    batch: tuple[Entry[T], ...]
    expired: tuple[Entry[T], ...]


_Places = OrderedDict[int, Entry[T]]
"""Entries by identity, in order: joining, leaving from the front and leaving from the middle are all O(1)."""


class _Line(Generic[T]):
    """One line: in order as a whole and within each size, of which there are a few."""

    def __init__(self, turns: Iterator[int]) -> None:
        self._turns = turns
        self._sizes: dict[int, _Places[T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._sizes.values()))

    def __iter__(self) -> Iterator[Entry[T]]:
        return merge(*(entries.values() for entries in self._sizes.values()), key=lambda entry: entry.turn)

    @property
    def first(self) -> Entry[T] | None:
        """Who came first of those who wait."""
        heads = (next(iter(entries.values())) for entries in self._sizes.values())
        return min(heads, key=lambda entry: entry.turn, default=None)

    def of_size(self, size: int) -> Iterable[Entry[T]]:
        """Those of one size, in order."""
        return self._sizes.get(size, OrderedDict[int, Entry[T]]()).values()

    def join(self, entry: Entry[T]) -> None:
        entry.turn = next(self._turns)
        self._sizes.setdefault(entry.size, OrderedDict())[id(entry)] = entry

    def leave(self, entry: Entry[T]) -> bool:
        """Take an entry out; False when it is not here."""
        entries = self._sizes.get(entry.size)
        if entries is None or entries.pop(id(entry), None) is None:
            return False
        if not entries:
            del self._sizes[entry.size]
        return True


@dataclass(slots=True, eq=False)
class WindowQueue(Generic[T]):
    """The windows that wait for one model.

    Args:
        capacity: How many places there are, 1 or more.
    """

    capacity: int
    run_seconds: float = field(default=0.0, init=False)
    """Moving average of how long a run takes; 0 until the first one."""
    seconds_per_window: float | None = field(default=None, init=False)
    """Moving average of a run's time divided by its windows; None until the first one."""
    _lines: dict[Priority, _Line[T]] = field(init=False)
    _parked: dict[Priority | Grant, _Places[T]] = field(init=False)
    _held: dict[Priority, int] = field(init=False)
    _batches_without: dict[Priority, int] = field(init=False)
    _num_waiting: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"capacity is {self.capacity}, it must be 1 or more")
        turns = count()
        self._lines = {priority: _Line(turns) for priority in Priority}
        self._parked = {}
        self._held = dict.fromkeys(Priority, 0)
        self._batches_without = dict.fromkeys(_LATER, 0)

    def __len__(self) -> int:
        """How many windows wait, in line or for a place. Counted, so that any thread may ask."""
        return self._num_waiting

    # Places

    def limit(self, priority: Priority) -> int:
        """Return how many places a priority can ever hold."""
        if priority is Priority.LIVE:
            return self.capacity
        if priority is Priority.CLIP:
            return self.capacity - self.capacity // 4
        return max(1, self.capacity // 2)

    def free_places(self, priority: Priority) -> int:
        """Return how many more places a priority could hold now."""
        free = min(self.capacity - sum(self._held.values()), self.limit(priority) - self._held[priority])
        if priority is Priority.LIVE:
            return free
        return min(free, self.limit(Priority.CLIP) - self._held[Priority.CLIP] - self._held[Priority.BULK])

    def reserve(self, num_windows: int, priority: Priority) -> Grant | None:
        """Hold places for a caller, or return None when so many are not free. The caller must `release` the grant."""
        if num_windows < 1:
            raise ValueError(f"num_windows is {num_windows}, it must be 1 or more")
        if self.free_places(priority) < num_windows:
            return None
        self._held[priority] += num_windows
        return Grant(num_windows, priority)

    def release(self, grant: Grant) -> None:
        """Give a grant's places back; those that its windows still use, when the windows leave. Twice is once."""
        if grant.released:
            return
        grant.released = True
        self._held[grant.priority] -= grant.places - grant.used
        for entry in self._parked.pop(grant, {}).values():
            entry.grant = None
            self._park(entry)
        self._seat_parked(None)

    def lift_limits(self) -> None:
        """Let everyone join who waits for a place: nothing new comes any more, and what is there is to be finished."""
        self.capacity = max(self.capacity, 2 * (sum(self._held.values()) + len(self)))
        self._seat_parked(None)

    # Windows

    def push(self, entry: Entry[T]) -> None:
        """Let a window join its line, or wait for a place first."""
        if entry.grant is not None and entry.grant.released:
            entry.grant = None
        self._num_waiting += 1
        self._park(entry)
        self._seat_parked(entry.grant)

    def discard(self, entry: Entry[T]) -> bool:
        """Drop a window whose caller left. Returns False when it no longer waits."""
        key = id(entry)
        owner = self._owner(entry)
        parked = self._parked.get(owner)
        if parked is not None and parked.pop(key, None) is not None:
            if not parked:
                del self._parked[owner]
        elif self._lines[entry.priority].leave(entry):
            self._leave(entry)
        else:
            return False
        self._num_waiting -= 1
        return True

    def promote(self, entry: Entry[T]) -> bool:
        """Let a window that waits go on as a live one, behind those that are. Returns False when it no longer waits."""
        if not self.discard(entry):
            return False
        entry.priority = Priority.LIVE
        self.push(entry)
        return True

    def upcoming(self, max_batch_size: int) -> list[Entry[T]]:
        """Return the entries that the next `take` would most likely give, without taking them."""
        order = [priority for priority in self._order() if self._lines[priority]]
        if not order:
            return []
        head = self._lines[order[0]].first
        assert head is not None
        lines = (self._lines[priority].of_size(head.size) for priority in order)
        return list(islice(chain.from_iterable(lines), max_batch_size))

    def waiting(self) -> list[Entry[T]]:
        """Return all that are in line, live ones first, each line in its order."""
        return [entry for priority in Priority for entry in self._lines[priority]]

    def take(self, now: float, max_batch_size: int) -> Taken[T]:
        """Take the next batch.

        Args:
            now: The time, on the clock of the deadlines.
            max_batch_size: The most windows to take, 1 or more.

        Returns:
            The batch, which may be empty, and the entries that were dropped because ``now`` plus the usual time of a run
            lies past their deadline. The caller answers both.
        """
        batch: list[Entry[T]] = []
        expired: list[Entry[T]] = []
        for priority in self._order():
            line = self._lines[priority]
            while len(batch) < max_batch_size:
                entry = next(iter(line.of_size(batch[0].size)), None) if batch else line.first
                if entry is None:
                    break
                line.leave(entry)
                self._num_waiting -= 1
                self._leave(entry)
                is_late = entry.deadline is not None and now + self.run_seconds > entry.deadline
                (expired if is_late else batch).append(entry)
        if batch:
            for priority in _LATER:
                must_wait = bool(self._lines[priority]) and batch[0].priority is not priority
                self._batches_without[priority] = self._batches_without[priority] + 1 if must_wait else 0
        elif expired:
            # One slow run (a page fault storm, a throttled core) must not make every later window look hopeless: without a
            # run there would be no new measurement, and the queue would expire everything for ever.
            self.run_seconds /= 2
        return Taken(tuple(batch), tuple(expired))

    def clear(self) -> tuple[Entry[T], ...]:
        """Drop every window and return them all."""
        parked = [entry for places in self._parked.values() for entry in places.values()]
        entries = (*self.waiting(), *parked)
        for entry in entries:
            self.discard(entry)
        return entries

    def record_run(self, batch_size: int, seconds: float, own_seconds: float | None = None) -> None:
        """Learn from a run.

        Args:
            batch_size: Its windows.
            seconds: How long it took.
            own_seconds: How much later it ended than the run before it, where runs overlap: what its windows really cost.
        """
        each = (seconds if own_seconds is None else own_seconds) / batch_size
        if self.seconds_per_window is None:
            self.run_seconds, self.seconds_per_window = seconds, each
        else:
            self.run_seconds += SMOOTHING * (seconds - self.run_seconds)
            self.seconds_per_window += SMOOTHING * (each - self.seconds_per_window)

    # Inside

    def _order(self) -> tuple[Priority, ...]:
        """Return the lines in the order in which the next batch takes from them."""
        due = (p for p in _LATER if self._lines[p] and self._batches_without[p] >= BULK_SHARE - 1)
        first = next(due, Priority.LIVE)
        return (first, *(priority for priority in Priority if priority is not first))

    @staticmethod
    def _owner(entry: Entry[T]) -> Priority | Grant:
        """Return whose places an entry waits for: its grant's, or those that anyone of its priority may have."""
        return entry.priority if entry.grant is None else entry.grant

    def _park(self, entry: Entry[T]) -> None:
        """Let an entry wait for a place, behind those who wait for the same ones."""
        self._parked.setdefault(self._owner(entry), OrderedDict())[id(entry)] = entry

    def _leave(self, entry: Entry[T]) -> None:
        """Give the place of an entry that has left its line to whoever waits for it."""
        grant = entry.grant
        if grant is None:
            self._held[entry.priority] -= 1
        else:
            grant.used -= 1
            if grant.released:
                self._held[grant.priority] -= 1
        self._seat_parked(grant)

    def _seat_parked(self, grant: Grant | None) -> None:
        """Let those join their lines, in order, who wait for the places of a grant, or for those that anyone may have."""
        if not self._parked:
            return
        owners: tuple[Priority | Grant, ...] = tuple(Priority) if grant is None or grant.released else (grant,)
        for owner in owners:
            parked = self._parked.get(owner, OrderedDict())
            while parked and self._seat(owner):
                _, entry = parked.popitem(last=False)
                self._lines[entry.priority].join(entry)
            if not parked:
                self._parked.pop(owner, None)

    def _seat(self, owner: Priority | Grant) -> bool:
        """Take a place of an owner's, if one is free."""
        if isinstance(owner, Grant):
            is_free = owner.used < owner.places
            owner.used += is_free
        else:
            is_free = self.free_places(owner) > 0
            self._held[owner] += is_free
        return is_free
