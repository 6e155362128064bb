"""From a node's CLOCK_MONOTONIC to a common clock: one offset, or a line between known points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClockMap:
    """How far a node's clock is off at some moments; between them the offset is a straight line."""

    monotonic_ns: Times
    """Shape [points], ascending; one point is one offset for all times."""
    offset_ns: Times
    """Shape [points]: what to add there."""

    @classmethod
    def constant(cls, offset_ns: int) -> ClockMap:
        """The same offset at any time."""
        return cls(np.zeros(1, np.int64), np.array([offset_ns], np.int64))

    @classmethod
    def of_flushes(cls, clock: np.ndarray[Any, np.dtype[np.void]]) -> ClockMap:
        """To wall-clock time, by the median of (wall - monotonic) over a node's flushes.

        One offset, so that durations stay as they were measured, to the ns.
        """
        if not len(clock):
            return cls.constant(0)
        return cls.constant(int(np.median(clock["wall_ns"] - clock["monotonic_ns"])))

    def at(self, monotonic_ns: Times) -> Times:
        """The common time of these moments, in ns."""
        if len(self.offset_ns) == 1:
            return np.asarray(monotonic_ns + self.offset_ns[0])
        # Offsets are large and their differences small: only the differences become floats.
        first = self.offset_ns[0]
        moved = np.interp(
            (monotonic_ns - self.monotonic_ns[0]).astype(np.float64),
            (self.monotonic_ns - self.monotonic_ns[0]).astype(np.float64),
            (self.offset_ns - first).astype(np.float64),
        )
        return np.asarray(monotonic_ns + first + np.rint(moved).astype(np.int64))
