"""The faults that a synthetic run can have, each with its place, its time and its strength.

Which of them a run has, and how much time each took, stands in `planted.json` beside it. The sizes
are the generator's own counterfactuals: the same steps, with the same dice, without the fault.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from alpenglow_analysis.synthetic_work import Fault, Work

ALWAYS = 2**31
"""The last step of a fault that never ends."""


@dataclass(frozen=True)
class _ForATime(Fault):
    """A fault from one step to another, both included."""

    first: int = field(default=0, kw_only=True)
    last: int = field(default=ALWAYS, kw_only=True)

    def touches(self, first: int, last: int) -> bool:
        """See `Fault.touches`."""
        return self.first <= last and self.last >= first


@dataclass(frozen=True)
class SlowRank(_ForATime):
    """One rank computes slower."""

    rank: int
    factor: float
    """Of the length of every pass; 1.1 is a tenth slower."""

    def disturb(self, work: Work, dice: np.random.Generator) -> None:
        """See `Fault.disturb`."""
        _slow_down(work, work.seats.rank == self.rank, self.factor, self.first, self.last)


@dataclass(frozen=True)
class SlowNode(_ForATime):
    """All ranks of one node compute slower, from one step to another."""

    node: int
    factor: float

    def disturb(self, work: Work, dice: np.random.Generator) -> None:
        """See `Fault.disturb`."""
        _slow_down(work, work.seats.on(self.node), self.factor, self.first, self.last)


@dataclass(frozen=True)
class Jitter(Fault):
    """Every pass takes longer or shorter by chance."""

    relative: float
    """Standard deviation of a pass over its length; never below half the length."""

    def disturb(self, work: Work, dice: np.random.Generator) -> None:
        """See `Fault.disturb`."""
        for action, took in work.passes.items():
            chance = dice.standard_normal(took.shape, np.float32)
            work.passes[action] = took * np.maximum(1 + self.relative * chance, 0.5)


@dataclass(frozen=True)
class HeavyStage(Fault):
    """One stage has more work than the others, as the last one has with its loss head."""

    stage: int
    """-1 is the last."""
    factor: float

    def disturb(self, work: Work, dice: np.random.Generator) -> None:
        """See `Fault.disturb`."""
        for took in work.passes.values():
            took[self.stage] *= self.factor


@dataclass(frozen=True)
class SlowLink(_ForATime):
    """One node's adapter is slow: whatever passes it between nodes takes longer."""

    node: int
    factor: float

    def disturb(self, work: Work, dice: np.random.Generator) -> None:
        """See `Fault.disturb`."""
        when = work.during(self.first, self.last)
        here = work.seats.on(self.node)
        end = np.asarray(here.any(axis=1))
        through = (end[:-1] | end[1:]) & ~work.seats.near()
        for stage, data in np.argwhere(through):
            work.message[stage, when, data] *= self.factor
        away = (work.seats.node != self.node).any(axis=2)
        for stage, tensor in np.argwhere(here.any(axis=2) & away):
            work.reduce[stage, tensor, when] *= self.factor


@dataclass(frozen=True)
class DataHiccups(Fault):
    """Some replicas wait for their first micro-batch, every so many steps."""

    replicas: int
    """The first so many replicas, all tensor ranks of their first stage."""
    every: int
    wait_ns: int

    def disturb(self, work: Work, dice: np.random.Generator) -> None:
        """See `Fault.disturb`."""
        when = np.flatnonzero(work.step % self.every == self.every // 2)
        work.load[0, 0, :, when, : self.replicas] += self.wait_ns


@dataclass(frozen=True)
class LongCheckpoint(Fault):
    """One checkpoint holds all ranks for longer than the others do."""

    step: int
    extra_ns: int

    def touches(self, first: int, last: int) -> bool:
        """No step: it lies between two."""
        return False


@dataclass(frozen=True)
class Clocks(Fault):
    """Clocks of nodes that are off and run at speeds of their own."""

    offset_ns: int
    """Standard deviation of a wall clock's error."""
    drift: float
    """Standard deviation of a clock's relative error of speed; 1e-6 is 1 us a second."""

    def touches(self, first: int, last: int) -> bool:
        """No step: it only changes what is written about them."""
        return False


def _slow_down(
    work: Work, who: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], factor: float,
    first: int, last: int,
) -> None:  # fmt: skip
    when = work.during(first, last)
    for took in work.passes.values():
        for stage, tensor, data in np.argwhere(who):
            took[stage, :, tensor, when, data] *= factor
