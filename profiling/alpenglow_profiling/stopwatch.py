"""Seconds of an operation on a device: events on a GPU, the wall clock on a CPU."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Work = Callable[[], object]
LEAST_S = 1e-3
"""A repeat takes at least this long, by doing an operation many times where it is short: nothing
is timed that is near the clock's own resolution."""
MOST_AT_ONCE = 200
HOLD_CYCLES = 100_000
"""For each queued operation a GPU first sleeps so long (some 60 us): the host, which may need
longer to start an operation than the GPU to do it, has then queued all before the first runs."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one operation over repeats."""

    seconds: float
    """Median."""
    least: float
    worst: float
    repeats: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Sum repeats up."""
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def at_once(seconds: float) -> int:
    """How many operations of so many seconds one repeat does."""
    return max(1, min(MOST_AT_ONCE, math.ceil(LEAST_S / max(seconds, 1e-9))))


class Stopwatch:
    """Times operations of the current device.

    Args:
        device: torch's.
    """

    def __init__(self, device: Any) -> None:
        self._clock: Any = None
        if device.type == "cuda":
            from alpenglow_profiling.cuda import CudaClock

            self._clock = CudaClock()

    def once(self, work: Work, count: int = 1) -> float:
        """Seconds of one operation, `count` of them done one behind the other.

        Raises:
            RuntimeError: the device failed.
        """
        if self._clock is None:
            begin = time.perf_counter()
            for _ in range(count):
                work()
            return (time.perf_counter() - begin) / count
        import torch

        hold = getattr(torch.cuda, "_sleep", None)
        if hold is not None:
            hold(HOLD_CYCLES * count)
        marks = [self._clock.mark()]
        for _ in range(count):
            work()
        marks.append(self._clock.mark())
        torch.cuda.synchronize()
        seconds = float(marks[0].elapsed_time(marks[1])) / 1e3
        self._clock.give_back(marks)
        return max(seconds, 1e-9) / count

    def time(self, work: Work, repeats: int) -> Timing:
        """Time an operation: one call to warm up, one to see how long it is, then the repeats.

        Raises:
            RuntimeError: the device failed.
        """
        self.once(work)
        count = at_once(self.once(work))
        return Timing.of([self.once(work, count) for _ in range(repeats)])
