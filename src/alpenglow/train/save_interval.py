"""When the next checkpoint is due: at fixed steps, or after the time that loses least.

A save costs some seconds of standing still; a failure costs, on average, half of what was done
since the last save. Between the two lies Daly's optimum, from the measured cost of a save and the
time between failures that the machine file's rate gives for this many GPUs. Rank 0's clock decides;
its word travels with the ranks' vote at the step border. This module is imported, never started.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

# No failure rate is known for most machines: then a quarter of an hour, which at the rate of the
# machines that are known costs 3,072 GPUs 0.8 % of their work.
DEFAULT_S = 900.0
# A drain keeps the file system busy, which is not the run's alone: at most a tenth of the time.
DRAIN_SHARE = 0.1


def daly_interval(save_s: float, mean_time_s: float) -> float:
    """Seconds of work between two saves that lose least time to saves and failures.

    J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps",
    Future Generation Computer Systems 22 (2006) 303-312, equation 37. Its first term is Young's
    sqrt(2 save_s mean_time_s) (Communications of the ACM 17, 1974, 530-531).

    Args:
        save_s: seconds that a save costs.
        mean_time_s: mean time between failures of the whole job, seconds.
    """
    if save_s >= 2 * mean_time_s:
        return mean_time_s
    part = save_s / (2 * mean_time_s)
    first = math.sqrt(2 * save_s * mean_time_s)
    return first * (1 + math.sqrt(part) / 3 + part / 9) - save_s


@dataclass
class SaveInterval:
    """Says when to save."""

    every: int | None
    """Steps; None: by time."""
    keep_every: int = 0
    """Multiples of this step are saved in any case, since they are to be kept; 0: none."""
    mean_time_s: float | None = None
    """Mean time between failures of the job in seconds; None where no rate is known."""
    seconds: float = field(default=DEFAULT_S, init=False)
    """Time between two saves, where time decides."""
    _last: float = field(default_factory=time.monotonic, init=False)

    def measured(self, save_s: float, drain_s: float) -> None:
        """Compute the interval anew from what a save and its drain cost."""
        if self.mean_time_s is not None:
            least = daly_interval(save_s, self.mean_time_s)
            self.seconds = max(least, drain_s / DRAIN_SHARE)

    def explain(self, save_s: float, drain_s: float) -> str:
        """Say in one line what the interval is and why."""
        if self.every is not None:
            return f"checkpoints: every {self.every} steps"
        if self.mean_time_s is None:
            return (
                f"checkpoints: every {self.seconds / 60:.3g} min (the default: no failure rate is "
                "known for this machine)"
            )
        return (
            f"checkpoints: every {self.seconds / 60:.3g} min (Daly 2006: a save costs "
            f"{save_s:.3g} s and its drain {drain_s:.3g} s, a failure every "
            f"{self.mean_time_s / 3600:.3g} h)"
        )

    def saved(self) -> None:
        """Count from now on."""
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a checkpoint of this step is due."""
        if self.keep_every and step % self.keep_every == 0:
            return True
        if self.every is not None:
            return step % self.every == 0
        return time.monotonic() - self._last >= self.seconds
