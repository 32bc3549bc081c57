"""How much live streams ask of a model, and how much they may. Pure but for a clock: no lock, no await.

A stream that is taken is promised its windows in time, for as long as it lasts, so that it is refused at the door or not at
all. Each asks for one window a hop. What the model can do is what its runs take, the cheapest batch size counted: batches grow
as the load does. The measurement includes whatever else the machine has to do at the time, and that is the trap in it: what a
stream takes besides the model (its sound, its messages, the clients on the same machine) is felt when it has sent its first
whole window, and many that come at once would be taken at the speed of an idle machine. So half of what they may ask for is
given at once, and the rest a quarter at a time, each when the one before it is felt.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from service.errors import QueueFull
from service.inference.policy import SMOOTHING

RETRY_AFTER_SECONDS = 5.0
"""Streams come and go in minutes; asking more often finds the same answer."""
AVERAGED_SECONDS = 3.0
"""Of the model's time, over which its speed is averaged; ten runs, where that is longer."""
AT_ONCE = 0.5
"""Of what streams may ask for; beyond it new ones are felt before others are taken."""
STEP = 0.25
"""Of what streams may ask for: so much may be new, and not felt yet."""
FEW = 8.0
"""Windows a second that may always be new: where a model can do few, what a stream takes besides it is little."""
LATE_SHARE = 0.1
"""Of the windows lately answered; with more than this late the next stream would make it worse."""
LATE_SMOOTHING = 0.05
"""Weight of the newest window: after three late ones in twenty nobody is taken, and after some fifty in time everybody is."""


class LiveShare:
    """What the open live streams ask of one model.

    Args:
        share: Which part of what the model can do they may ask for together, above 0. The rest is for clips and bulk, and what
            keeps the queue short. Above 1 nobody is refused.
        felt_after_s: How long after it came a stream costs what it will go on to cost.
        clock: Seconds, rising.
    """

    def __init__(self, share: float, felt_after_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._felt_after_s = felt_after_s
        self._clock = clock
        self._new: deque[tuple[float, float]] = deque()
        self._costs: dict[int, float] = {}
        self._num_streams = 0
        self._late_share = 0.0
        self.asked = 0.0
        """Windows a second that all open streams ask for."""

    @property
    def possible(self) -> float | None:
        """Windows a second that the model can do; None until a run was measured."""
        cheapest = min(self._costs.values(), default=0.0)
        return 1 / cheapest if cheapest > 0 else None

    def record_run(self, batch_size: int, seconds: float) -> None:
        """Learn from a run of so many windows."""
        cost = seconds / batch_size
        known = self._costs.get(batch_size, cost)
        # Those who were refused ask again and again: an average that swings would let them in whenever it is high.
        weight = min(SMOOTHING, 1 - math.exp(-seconds / AVERAGED_SECONDS))
        self._costs[batch_size] = known + weight * (cost - known)

    def record_window(self, *, is_late: bool) -> None:
        """Learn from a window of a stream: late means that it took more than half of the lag limit, or was dropped."""
        self._late_share += LATE_SMOOTHING * (is_late - self._late_share)

    def take(self, windows_per_second: float) -> LivePlace:
        """Admit a stream; the caller must `LivePlace.release`.

        Raises:
            QueueFull: The streams that are open leave too little.
        """
        self._check(windows_per_second, 0.0)
        return LivePlace(self, windows_per_second)

    def _add(self, num_streams: int, windows_per_second: float) -> None:
        before = self.asked
        self._num_streams += num_streams
        # Sums of floats do not go back to 0 by themselves.
        self.asked = self.asked + windows_per_second if self._num_streams else 0.0
        if self.asked < before:
            # What was late under more load says less of what is left.
            self._late_share *= self.asked / before

    def _note_new(self, windows_per_second: float) -> None:
        """Remember that so much more is asked for, until it is felt."""
        if windows_per_second > 0:
            self._new.append((self._clock(), windows_per_second))

    def _check(self, wanted: float, held: float) -> None:
        """Refuse more than there is. A stream alone is always taken: on a slow machine it does with what it gets.

        Raises:
            QueueFull: There is too little.
        """
        others = self.asked - held
        if self._share > 1 or self._num_streams == (held > 0) or wanted <= held:
            return
        possible = self.possible
        if possible is not None and others + wanted > self._share * possible:
            raise QueueFull(
                f"the open streams ask for {others:.1f} windows a second and this one for {wanted:.1f}; the model can do "
                f"{possible:.1f} now, of which streams may have {self._share:.0%} (SONOTAG_LIVE_SHARE)",
                retry_after_s=RETRY_AFTER_SECONDS,
            )
        if possible is not None:
            self._check_growth(others, wanted - held, self._share * possible)
        if self._late_share > LATE_SHARE:
            raise QueueFull(
                "the open streams are answered late: another one would be too much (SONOTAG_MAX_LAG_SECONDS)",
                retry_after_s=RETRY_AFTER_SECONDS,
            )

    def _check_growth(self, others: float, more: float, limit: float) -> None:
        """Refuse what is too much at once.

        Raises:
            QueueFull: It is.
        """
        now = self._clock()
        while self._new and self._new[0][0] <= now - self._felt_after_s:
            self._new.popleft()
        new = min(others, sum(windows_per_second for _, windows_per_second in self._new))  # some of them may have left
        if self._new and others + more > AT_ONCE * limit and new + more > max(STEP * limit, FEW):
            raise QueueFull(
                f"streams that ask for {new:.1f} windows a second have just come: what they cost has to be seen before "
                "others are taken (SONOTAG_LIVE_SHARE)",
                retry_after_s=self._new[0][0] + self._felt_after_s - now,
            )


class LivePlace:
    """What one stream asks for. Made by `LiveShare.take`."""

    def __init__(self, owner: LiveShare, windows_per_second: float) -> None:
        self._owner = owner
        self._held = windows_per_second
        owner._note_new(windows_per_second)
        owner._add(1, windows_per_second)

    def move(self, owner: LiveShare, windows_per_second: float) -> None:
        """Ask for another number of windows, perhaps of another model; keeps what it has where that is refused.

        Raises:
            QueueFull: The other streams leave too little.
        """
        held = self._held if owner is self._owner else 0.0
        owner._check(windows_per_second, held)
        owner._note_new(windows_per_second - held)
        self.release()
        self._owner, self._held = owner, windows_per_second
        owner._add(1, windows_per_second)

    def release(self) -> None:
        """Ask for nothing any more. Twice is once."""
        if self._held:
            self._owner._add(-1, -self._held)
            self._held = 0.0
