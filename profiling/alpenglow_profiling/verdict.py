"""Which nodes of a step are used, judged by their rates, and the file that says so."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow_profiling.rates import UNITS, Metrics

FORMAT = 2
FAILED, SLOW, MISSING = 1, 3, 4
FEWEST_NODES = 3
"""Below this many nodes a median says nothing about which of them is slow."""


@dataclass(frozen=True)
class Slowness:
    """A rate of a node that is below the median of all nodes."""

    host: str
    metric: str
    rate: float
    median: float

    @property
    def factor(self) -> float:
        """How many times slower than the median."""
        return self.median / max(self.rate, 1e-30)

    def __str__(self) -> str:
        unit = UNITS[self.metric.partition(" ")[0]]
        return (
            f"{self.host}: {self.metric} reaches {self.rate:.3g} {unit}, the median is "
            f"{self.median:.3g}: {self.factor:.2f} times slower"
        )


@dataclass(frozen=True)
class Verdict:
    """Which nodes to use."""

    slow: tuple[Slowness, ...]
    """The worst rate of each node that is too slow, the slowest node first."""
    missing: tuple[str, ...]
    """Nodes that did not report in time."""
    failed: tuple[str, ...]
    """Nodes that could not be measured."""
    hosts: tuple[str, ...]
    """Nodes to use, in the order of their ranks."""
    left_out: tuple[str, ...]
    """Nodes that reported and are not used: the failing ones, then the slowest first."""
    exit_code: int = 0
    """What the ranks exit with; a bad node that a spare one replaces does no harm."""


def judge(
    reports: Mapping[str, Metrics],
    missing: Sequence[str],
    factor: float,
    spare: int,
    *,
    failed: Sequence[str] = (),
    shrink: Sequence[int] = (),
) -> Verdict:
    """Compare the nodes.

    Args:
        reports: host -> its rates, in the order of the hosts.
        missing: hosts that did not report.
        factor: a node is slow when a rate of the median node is this many times its own.
        spare: how many nodes are left out; missing and failed ones count first, then the slowest.
        failed: hosts that could not be measured.
        shrink: smaller counts of nodes that will do where too few are sound.
    """
    rates: dict[str, list[float]] = {}
    for metrics in reports.values():
        for metric, rate in metrics.items():
            rates.setdefault(metric, []).append(rate)
    medians = {metric: statistics.median(values) for metric, values in rates.items()}
    worst = [
        max(
            (Slowness(host, metric, rate, medians[metric]) for metric, rate in metrics.items()),
            key=lambda slowness: slowness.factor,
        )
        for host, metrics in reports.items()
        if metrics
    ]
    worst.sort(key=lambda slowness: slowness.factor, reverse=True)
    enough = len(reports) >= FEWEST_NODES
    slow = tuple(s for s in worst if enough and s.factor > factor)
    wanted = len(reports) + len(missing) + len(failed) - spare
    sound = len(reports) - len(slow)
    count = max((n for n in (wanted, *shrink) if 0 < n <= min(sound, wanted)), default=None)
    code = 0
    if count is None:
        too_few = MISSING if missing else FAILED
        code = too_few if len(reports) < wanted else SLOW
        count = len(reports)
    slowest = [s.host for s in worst[: len(reports) - count]]
    kept = tuple(host for host in reports if host not in slowest)
    return Verdict(slow, tuple(missing), tuple(failed), kept, (*failed, *slowest), code)


@dataclass(frozen=True)
class Roster:
    """A verdict as its file tells it: what each rank needs to act on it."""

    exit_code: int
    hosts: tuple[str, ...]
    ranks: tuple[int, ...]
    """Numbers of the ranks that go on, as the launcher gave them, ascending."""
    master: str
    """Address of the node of the first of them."""
    whole: bool
    """Whether every rank goes on."""
    waits: bool
    """Whether ranks of silent nodes may still be there when all others have ended."""

    @classmethod
    def read(cls, path: Path) -> Roster:
        """Read verdict.json."""
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            exit_code=int(told["exit_code"]),
            hosts=tuple(told["hosts"]),
            ranks=tuple(told["ranks"]),
            master=str(told["master"]),
            whole=not (told["left_out"] or told["missing"]),
            waits=bool(told["missing"]),
        )
