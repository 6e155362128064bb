"""When the scheduler ends the job, kept by a clock that nobody sets.

The launch node tells the deadline as wall-clock time. Clocks of nodes are set, in both directions:
one that jumps ahead would end a segment early, one that jumps back would let the scheduler kill it
before it has saved. So the time left is taken once, at the start, and counted down by the steady
clock; a jump is noticed and told.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

NOTICED_S = 5.0
"""Smallest jump between two looks that is told; time services slew smaller differences away."""
MARGIN_S = 10.0
"""Seconds left for leaving the processes and closing the segment's record."""


def reserve(save_s: float, drain_s: float, leave_s: float, step_s: float) -> float:
    """Seconds to keep free before the deadline: a slow save, its drain, two steps, leaving.

    Args:
        save_s: what a save takes.
        drain_s: from then until the checkpoint exists, drains ahead of it included.
        leave_s: leaving after that, as earlier segments measured it.
        step_s: the longest step.
    """
    return 1.5 * (save_s + drain_s + leave_s) + 2.0 * step_s + MARGIN_S


def steady() -> float:
    """Seconds of a clock that only goes on, also while a laptop sleeps, where the system has it."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Deadline:
    """Counts down to the end of the job.

    Args:
        unix: the deadline in unix seconds; None: there is none.
        wall: the clock that it was told by.
        steady: the clock that it is kept by.
        tell: told of jumps.
    """

    def __init__(
        self,
        unix: float | None,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = steady,
        tell: Callable[[str], None] = _tell,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._tell = tell
        self._offset = wall() - steady()
        self._end = None if unix is None else unix - self._offset
        self.jumps = 0
        """Jumps of the wall clock so far."""

    def left(self) -> float | None:
        """Seconds until the deadline; None where there is none."""
        now = self._steady()
        offset = self._wall() - now
        if abs(offset - self._offset) >= NOTICED_S:
            self.jumps += 1
            self._tell(self._sentence(offset - self._offset, now))
        self._offset = offset
        return None if self._end is None else self._end - now

    def _sentence(self, jump: float, now: float) -> str:
        way = "ahead" if jump > 0 else "back"
        kept = ""
        if self._end is not None:
            kept = f"; the deadline stays {self._end - now:,.0f} s from now, by the steady clock"
        return f"the wall clock jumped {way} by {abs(jump):,.0f} s{kept}"
