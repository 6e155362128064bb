"""How long a job of a campaign waits in the queue: assumed, or as a site's own jobs did.

    QueueWait.assumed(queue, nodes, machine_nodes)          where nothing is known
    QueueWait.read(Path("waits.txt"))                       one wait in hours a line
    QueueWait.of_runs([Path("runs/a"), Path("runs/b")])     from the segment records of past runs

No public distribution of waits by size is known for the machines here, so the default is a stated
assumption and is told as one wherever it is used. It has two parts. In line: what an unboosted job
waits until none is before it, lognormal; priority grows with age, so a bin whose jobs are given b
days at submission shortens it by b days. Then nodes have to come free: running jobs end evenly over
the queue's longest walltime, so n of M nodes are free within n/M of it (all M: when the last ends).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.segment import RunError, Segment
from alpenglow_analysis.units import seconds
from alpenglow_lsf.machine import Queue

MEDIAN_S = 6 * 3600.0
"""assumed: median time in line of an unboosted job."""
SIGMA = 1.0
"""assumed: standard deviation of its logarithm; 10 to 90 % are then 1.7 to 21.6 h."""
DAY_S = 86_400.0


@dataclass(frozen=True)
class QueueWait:
    """A distribution of waits in seconds."""

    source: str
    """Where it is from, in words."""
    assumed: bool
    values: tuple[float, ...] = ()
    """Waits that were observed, each as likely as another; empty where it is lognormal."""
    median_s: float = MEDIAN_S
    sigma: float = SIGMA
    boost_s: float = 0.0
    """What the bin's aging boost takes off the time in line."""
    free_s: float = 0.0
    """Until the nodes are free, after that."""
    factor: float = 1.0
    """Times all of it."""

    def __post_init__(self) -> None:
        if any(not (math.isfinite(v) and v >= 0) for v in (*self.values, self.factor)):
            raise RunError("queue wait: a wait is a finite number of hours, 0 or more")
        if not (math.isfinite(self.median_s) and self.median_s >= 0 and 0 <= self.sigma <= 5):
            raise RunError(
                f"queue wait: median {self.median_s / 3600:g} h and sigma {self.sigma:g}: "
                "the median should be 0 h or more, sigma between 0 and 5"
            )

    def seconds(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Waits in seconds, of the same shape as `uniform`, which holds numbers in (0, 1).

        The same numbers give longer waits for a longer distribution, so that two plans can be
        compared wait by wait.
        """
        if self.values:
            ordered = np.sort(np.array(self.values, np.float64))
            index = np.minimum((uniform * len(ordered)).astype(np.int64), len(ordered) - 1)
            return self.factor * ordered[index]
        if self.median_s == 0:
            return np.full_like(uniform, self.factor * self.free_s)
        line = self.median_s * np.exp(self.sigma * normal(uniform))
        return self.factor * (self.free_s + np.maximum(0.0, line - self.boost_s))

    def scaled(self, factor: float) -> QueueWait:
        """The same with every wait so many times as long."""
        return replace(self, factor=self.factor * factor)

    @property
    def words(self) -> str:
        """The distribution in a sentence's part."""
        if self.values:
            middle = float(np.median(self.values)) * self.factor
            return f"{self.source}: {len(self.values)} waits, median {seconds(middle)}"
        parts = []
        if self.median_s:
            parts.append(f"lognormal, median {seconds(self.median_s)}, sigma {self.sigma:g}")
        if self.boost_s:
            parts.append(f"less {self.boost_s / DAY_S:g} days of aging boost")
        if self.free_s:
            parts.append(f"then {seconds(self.free_s)} until nodes are free")
        text = ", ".join(parts) or "none"
        times = "" if self.factor == 1 else f", all times {self.factor:g}"
        return f"{self.source}: {text}{times}"

    @classmethod
    def default(
        cls,
        queue: Queue,
        nodes: int,
        machine_nodes: int,
        median_s: float = MEDIAN_S,
        sigma: float = SIGMA,
    ) -> QueueWait:
        """What the module says of a job of `nodes` nodes in a queue."""
        found = queue.bin(nodes)
        return cls(
            source="assumed",
            assumed=True,
            median_s=median_s,
            sigma=sigma,
            boost_s=0.0 if found is None else DAY_S * found.boost_days,
            free_s=min(1.0, nodes / machine_nodes) * 3600 * max(b.hours for b in queue.bins),
        )

    @classmethod
    def none(cls) -> QueueWait:
        """No wait: a machine, or a reservation, of one's own."""
        return cls(source="given", assumed=False, median_s=0.0)

    @classmethod
    def read(cls, path: Path) -> QueueWait:
        """Read a file with a wait in hours on each line; `#` begins a remark.

        Raises:
            RunError: it cannot be read, holds no wait, or a line is no number.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{path}: not a readable list of waits: {error}") from None
        values = []
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not (math.isfinite(value) and value >= 0):
                raise RunError(f"{path}:{number}: {text!r} is no wait: hours, 0 or more")
            values.append(3600 * value)
        if not values:
            raise RunError(f"{path}: holds no wait: write one in hours on each line")
        return cls(source=str(path), assumed=False, values=tuple(values))

    @classmethod
    def of_runs(cls, runs: Sequence[Path], nodes: int | None = None) -> QueueWait:
        """Take the waits that the jobs of past runs had.

        A chained job is submitted while the one before it runs, and can start when that has ended:
        it waits from the later of the two.

        Args:
            runs: run directories.
            nodes: only jobs of so many nodes; None takes all.

        Raises:
            RunError: not a run directory, or no record tells a wait.
        """
        values = [wait for run in runs for wait in waits(run, nodes)]
        if not values:
            which = "" if nodes is None else f" of {nodes:,} nodes"
            named = ", ".join(map(str, runs))
            raise RunError(f"{named}: no segment record{which} tells when its job was submitted")
        names = " ".join(str(run) for run in runs)
        return cls(source=f"records of {names}", assumed=False, values=tuple(values))


def waits(run: Path, nodes: int | None = None) -> list[float]:
    """Seconds that each job of a run waited, in the order they started; see `of_runs`."""
    folder = run / "segments"
    if not folder.is_dir():
        raise RunError(f"{run}: not a run directory: it has no segments/")
    paths = [path for path in sorted(folder.glob("*.json")) if not path.stem.endswith(".rank0")]
    found = [Segment.load(path, ranks_per_node=1) for path in paths]
    values, before = [], -math.inf
    for segment in sorted(found, key=lambda each: each.started):
        if segment.submitted is not None and nodes in (None, segment.nodes_asked):
            values.append(max(0.0, segment.started - max(segment.submitted, before)))
        before = max(before, segment.ended)
    return values


def normal(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Standard normal deviates from numbers in (0, 1), rising with them.

    P. J. Acklam's rational approximation of the inverse normal distribution function (2003),
    relative error below 1.2e-9; numpy has none.
    """
    a = (-3.969683028665376e1, 2.209460984245205e2, -2.759285104469687e2,
         1.383577518672690e2, -3.066479806614716e1, 2.506628277459239)  # fmt: skip
    b = (-5.447609879822406e1, 1.615858368580409e2, -1.556989798598866e2,
         6.680131188771972e1, -1.328068155288572e1, 1.0)  # fmt: skip
    c = (-7.784894002430293e-3, -3.223964580411365e-1, -2.400758277161838,
         -2.549732539343734, 4.374664141464968, 2.938163982698783)  # fmt: skip
    d = (7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416, 1.0)
    p = np.clip(uniform, 1e-300, 1 - 2**-53)
    tail = np.sqrt(-2 * np.log(np.minimum(p, 1 - p)))
    outer = np.polyval(c, tail) / np.polyval(d, tail)
    q = p - 0.5
    inner = q * np.polyval(a, q * q) / np.polyval(b, q * q)
    outer = np.where(q < 0, outer, -outer)
    return np.asarray(np.where(np.abs(q) <= 0.5 - 0.02425, inner, outer))
