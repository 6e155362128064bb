"""Learning rate: a linear warm-up, then a cosine down to a floor.

A pure function of the samples whose gradients were applied so far, so a resumed run is exact and
nothing but that number is saved. It is counted in steps of the run's first global batch: with one
batch throughout, that is the number of updates; with another one from some step on, the schedule
still ends with the run's last sample. The peak does not follow the batch. The shape is that of the
Pythia runs (EleutherAI/pythia, models/*.yml).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CosineSchedule:
    """Warm-up over `warmup_steps`, cosine from `lr` to `min_lr` over the rest of `total_steps`."""

    lr: float
    min_lr: float
    warmup_steps: int
    total_steps: int

    def at(self, update: float) -> float:
        """Learning rate after `update` steps' worth of applied samples (0 at the first).

        A step whose gradients overflowed is no update: it spends its samples but not its place
        in this schedule, as Adam's own step count does not move either.
        """
        if update < self.warmup_steps:
            return self.lr * min(1.0, (update + 1) / self.warmup_steps)
        span = max(1, self.total_steps - 1 - self.warmup_steps)
        share = min(1.0, (update - self.warmup_steps) / span)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1.0 + math.cos(math.pi * share))
