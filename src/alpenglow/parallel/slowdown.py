"""What each disturbance of a job costs: alone, on top of those before it, and if it were cured.

Torch-free. Two disturbances together cost more or less than each alone: a slow rank hides the
jitter of the others, and jitter hits it too. So three sizes are given for each, the words as in a
synthetic run's truth: `alone`, nothing else disturbs; `added`, on top of those named before it,
which sums to the whole; `cured`, what the job would gain without it. All scenarios throw the same
dice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alpenglow.parallel.disturbance import Disturbance
from alpenglow.parallel.job_lengths import JobLengths
from alpenglow.parallel.simulation import Simulated, simulate

ORDER = ("slow_ranks", "jitter", "slow_links", "hiccups")
"""As the account of a run takes its causes; hiccups, which it has in jitter, behind them."""


@dataclass(frozen=True, eq=False)
class Cost:
    """Seconds that one disturbance takes of the mean step."""

    disturbance: Disturbance
    alone: float
    added: float
    cured: float
    of_one: float
    """Of `alone`, what a replica by itself would lose, the mean over replicas."""
    of_meeting: float
    """The rest: all wait for the slowest replica, stage and rank."""


@dataclass(frozen=True, eq=False)
class Slowdown:
    """A disturbed job, and what disturbs it how much."""

    together: Simulated
    costs: tuple[Cost, ...]
    """In the order in which they were added."""

    plain: Simulated
    """Nothing disturbs."""

    def share(self, seconds: float) -> float:
        """Seconds of a step as a share of the mean step."""
        return seconds / self.together.mean

    def equivalents(self, seconds: float) -> float:
        """Seconds of a step in GPUs that are lost with them."""
        return self.together.job.layout.world * self.share(seconds)

    def alone(self, cost: Cost) -> float:
        """GPUs that a disturbance takes where nothing else disturbs."""
        return self.together.job.layout.world * cost.alone / (self.plain.mean + cost.alone)


def numbered(disturbances: Sequence[Disturbance]) -> tuple[Disturbance, ...]:
    """Order disturbances, and give those of a kind dice of their own."""
    seen: dict[str, int] = {}
    made = []
    for one in sorted(disturbances, key=lambda each: ORDER.index(each.key)):
        made.append(replace(one, number=seen.get(one.key, 0)))
        seen[one.key] = seen.get(one.key, 0) + 1
    return tuple(made)


def slowdown(
    job: JobLengths,
    disturbances: Sequence[Disturbance],
    *,
    steps: int = 200,
    seed: int = 1,
    allocations: int = 20,
) -> Slowdown:
    """Simulate a job with all disturbances, each alone, and all but each.

    Arguments and errors as `simulate`; disturbances are ordered and numbered here.
    """
    every = numbered(disturbances)
    known: dict[tuple[Disturbance, ...], Simulated] = {}

    def played(some: tuple[Disturbance, ...]) -> Simulated:
        if some not in known:
            known[some] = simulate(job, some, steps=steps, seed=seed, allocations=allocations)
        return known[some]

    together = played(every)
    plain = played(())
    costs = []
    for i, one in enumerate(every):
        alone = played((one,))
        lost = alone.mean - plain.mean
        own = min(lost, float((alone.replica - plain.replica).mean()))
        without = played((*every[:i], *every[i + 1 :]))
        costs.append(
            Cost(
                disturbance=one,
                alone=lost,
                added=played(every[: i + 1]).mean - played(every[:i]).mean,
                cured=together.mean - without.mean,
                of_one=own,
                of_meeting=lost - own,
            )
        )
    return Slowdown(together, tuple(costs), plain)
