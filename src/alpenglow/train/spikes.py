"""Loss spikes: a loss far above the recent ones, by median and median absolute deviation.

Mean and standard deviation would be carried off by the very spikes they are to find.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

# Makes the median absolute deviation of a normal distribution its standard deviation: 1 / the 75 %
# quantile of the standard normal (Rousseeuw and Croux 1993, J. Am. Stat. Assoc. 88).
SCALE = 1.4826
# A loss that hardly moves would make any change a spike: deviations count from this share of it.
SMALLEST = 0.005


@dataclass(frozen=True)
class Spike:
    """One loss that stands out."""

    loss: float
    median: float
    deviations: float
    """Robust standard deviations above the median."""


class SpikeDetector:
    """Looks at one loss a step; the same losses give the same answers.

    Args:
        threshold: robust standard deviations above the median that make a spike.
        window: losses that it remembers; it says nothing before half of them are there.
        losses: the run's last losses, where a segment goes on.
    """

    def __init__(self, threshold: float, window: int, losses: Iterable[float] = ()) -> None:
        self.threshold = threshold
        self._recent: deque[float] = deque(
            (loss for loss in losses if math.isfinite(loss)), maxlen=window
        )

    def look(self, loss: float) -> Spike | None:
        """Say whether this loss is a spike, and remember it."""
        if not math.isfinite(loss):
            return None  # its gradients are not finite either, which has its own policy
        found = self._spike(loss)
        # Spikes are remembered too: a loss that stays up is a level, not a spike a step for ever.
        self._recent.append(loss)
        return found

    def _spike(self, loss: float) -> Spike | None:
        maximum = self._recent.maxlen or 0
        if len(self._recent) < maximum // 2:
            return None
        median = statistics.median(self._recent)
        spread = SCALE * statistics.median(abs(one - median) for one in self._recent)
        deviations = (loss - median) / max(spread, SMALLEST * abs(median), 1e-12)
        return Spike(loss, median, deviations) if deviations > self.threshold else None
