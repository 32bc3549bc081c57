"""Whatever callers do, in whatever order: nothing is lost, order is kept, limits hold, bulk never starves."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.inference.policy import BULK_SHARE, Entry, Grant, Priority, Taken, WindowQueue

SIZES = (1, 2, 5)
priorities = st.sampled_from(Priority)


class QueueMachine(RuleBasedStateMachine):
    """Drives a queue beside a plain list of who waits."""

    @initialize(capacity=st.integers(1, 6))
    def begin(self, capacity: int) -> None:
        self.queue = WindowQueue[int](capacity)
        self.now = 0.0
        self.waiting: dict[int, Entry[int]] = {}
        self.grants: list[Grant] = []
        self.num_pushed = 0
        self.live_batches = 0
        self.own_place: set[int] = set()
        self.last_taken = {(priority, size): -1 for priority in Priority for size in SIZES}

    @rule(num_windows=st.integers(1, 4), priority=priorities)
    def reserve(self, num_windows: int, priority: Priority) -> None:
        free = self.queue.free_places(priority)
        grant = self.queue.reserve(num_windows, priority)
        assert (grant is not None) == (num_windows <= free)
        if grant is not None:
            self.grants.append(grant)

    @precondition(lambda self: self.grants)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.queue.release(data.draw(st.sampled_from(self.grants)))

    @rule(priority=priorities, patience=st.none() | st.floats(0, 5), size=st.sampled_from(SIZES), data=st.data())
    def push(self, priority: Priority, patience: float | None, size: int, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from([None, *self.grants]))
        deadline = None if patience is None else self.now + patience
        entry = Entry(priority if grant is None else grant.priority, deadline, self.num_pushed, grant, size)
        self.queue.push(entry)
        self.waiting[self.num_pushed] = entry
        if entry.grant is None:
            self.own_place.add(self.num_pushed)
        self.num_pushed += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(sorted(self.waiting)))
        entry = self.waiting.pop(item)
        assert self.queue.discard(entry)
        assert not self.queue.discard(entry)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(sorted(self.waiting)))
        entry = self.waiting[item]
        if entry.priority is not Priority.LIVE:
            assert self.queue.promote(entry)
            self.own_place.discard(item)  # it has its order among others now

    @rule(max_batch_size=st.integers(1, 5), seconds=st.floats(0, 2))
    def take_and_run(self, max_batch_size: int, seconds: float) -> None:
        upcoming = self.queue.upcoming(max_batch_size)
        in_line = self.queue.waiting()
        bulk_before = [entry for entry in in_line if entry.priority is Priority.BULK]
        nobody_parked = len(in_line) == len(self.queue)
        estimate = self.queue.run_seconds
        taken = self.queue.take(self.now, max_batch_size)
        assert len(taken.batch) <= max_batch_size
        for entry in (*taken.batch, *taken.expired):
            assert self.waiting.pop(entry.item) is entry
        for entry in taken.expired:
            assert entry.deadline is not None
            assert self.now + estimate > entry.deadline
        for entry in taken.batch:
            assert entry.deadline is None or self.now + estimate <= entry.deadline
        if nobody_parked and not taken.expired:
            assert list(taken.batch) == upcoming
        self._check_sizes(taken, in_line)
        for entry in taken.batch:
            if entry.item in self.own_place:
                line = entry.priority, entry.size
                assert entry.item > self.last_taken[line]
                self.last_taken[line] = entry.item
        self._count_live_batches(taken, bulk_before)
        if taken.batch:
            self.queue.record_run(len(taken.batch), seconds)
        self.now += seconds

    def _check_sizes(self, taken: Taken[int], in_line: list[Entry[int]]) -> None:
        """A batch is of one size and starts with the first of its line."""
        assert len({entry.size for entry in taken.batch}) <= 1
        if taken.batch and not taken.expired:
            first = taken.batch[0]
            assert first is next(entry for entry in in_line if entry.priority is first.priority)

    def _count_live_batches(self, taken: Taken[int], bulk_before: list[Entry[int]]) -> None:
        if not taken.batch:
            return
        is_waiting = any(entry.priority is Priority.BULK for entry in self.queue.waiting())
        is_live_first = taken.batch[0].priority is not Priority.BULK and bool(bulk_before)
        self.live_batches = self.live_batches + 1 if is_waiting and is_live_first else 0
        assert self.live_batches < BULK_SHARE

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "queue"):
            assert len(self.queue) == len(self.waiting)

    @invariant()
    def limits_hold(self) -> None:
        if not hasattr(self, "queue"):
            return
        in_line = self.queue.waiting()
        bulk = sum(entry.priority is Priority.BULK for entry in in_line)
        assert len(in_line) <= self.queue.capacity
        assert bulk <= self.queue.limit(Priority.BULK)
        for priority in Priority:
            assert 0 <= self.queue.free_places(priority) <= self.queue.capacity

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        for grant in self.grants:
            self.queue.release(grant)
        # With every grant released nobody can be stuck: all that waits leaves, and every place is free again.
        left = []
        while len(self.queue):
            taken = self.queue.take(0.0, 3)
            assert taken.batch or taken.expired
            left += [entry.item for entry in (*taken.batch, *taken.expired)]
        assert sorted(left) == sorted(self.waiting)
        assert self.queue.free_places(Priority.LIVE) == self.queue.capacity


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@given(bulk=st.integers(1, 20), max_batch_size=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_bulk_is_through_in_eight_batches_each_however_much_live_comes(bulk: int, max_batch_size: int) -> None:
    queue = WindowQueue[str](64)
    for _ in range(bulk):
        queue.push(Entry(Priority.BULK, None, "bulk"))
    left, batches = bulk, 0
    while left:
        while sum(entry.priority is Priority.LIVE for entry in queue.waiting()) < 2 * max_batch_size:
            queue.push(Entry(Priority.LIVE, None, "live"))
        taken = queue.take(0.0, max_batch_size).batch
        assert len(taken) == max_batch_size
        left -= sum(entry.priority is Priority.BULK for entry in taken)
        batches += 1
    assert batches == BULK_SHARE * -(-bulk // max_batch_size)


@given(ahead=st.lists(st.sampled_from(SIZES), max_size=12), max_batch_size=st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_no_size_starves_however_much_of_another_comes(ahead: list[int], max_batch_size: int) -> None:
    queue = WindowQueue[str](64)
    for size in ahead:
        queue.push(Entry(Priority.LIVE, None, "ahead", None, size))
    queue.push(Entry(Priority.LIVE, None, "mine", None, 7))
    batches = 0
    while any(entry.item == "mine" for entry in queue.waiting()):
        while len(queue) < 40:
            queue.push(Entry(Priority.LIVE, None, "later", None, SIZES[0]))
        queue.take(0.0, max_batch_size)
        batches += 1
    assert batches <= len(ahead) + 1
