"""Where in a step a rank's pause falls, and what it makes longer there.

Torch-free. A pause has its moment in the undisturbed step. Within a pass it adds all of itself to
that pass. While the rank waits for its next pass it adds what is left of it when that pass would
begin. Behind the last pass it holds the rank up in the reduction or the optimizer, and all others
with it, as far as it outlasts the wait for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.disturbance import Hiccups
from alpenglow.parallel.job_lengths import JobLengths
from alpenglow.parallel.replay import Event, place
from alpenglow.parallel.schedule import COMPUTE

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pauses:
    """Pauses of a block of steps, one entry each."""

    steps: int
    step: Numbers
    """Place of its step in the block."""
    stage: Numbers
    tensor: Numbers
    data: Numbers
    turn: Numbers
    """The pass that it makes longer: action x turns + turn; -1 behind the last."""
    longer: Floats
    """Seconds that it adds to that pass."""
    moment: Floats
    """Seconds since the step began, in the undisturbed step."""
    lasts: Floats

    def behind(self, met: float) -> Floats:
        """[steps]: seconds that pauses behind the last pass add to a step.

        Args:
            met: seconds until all ranks meet in the optimizer, in the undisturbed step.
        """
        found = np.zeros(self.steps)
        tail = self.turn < 0
        added = np.maximum(0.0, self.lasts[tail] - np.maximum(0.0, met - self.moment[tail]))
        np.maximum.at(found, self.step[tail], added)
        return found


def placed(
    job: JobLengths, hiccups: Sequence[Hiccups], seed: int, step: Numbers, length: float
) -> Pauses:
    """Draw the pauses of some steps.

    Args:
        job: its undisturbed step says what a rank does when.
        hiccups: what is drawn from.
        seed: of the dice.
        step: [steps], their numbers.
        length: seconds of the undisturbed step.
    """
    world, rows = job.layout.world, []
    for i, number in enumerate(step.tolist() if hiccups else []):
        for one in hiccups:
            who, when, lasts = one.drawn(seed, number, world, length)
            rows.append(np.stack([np.full(len(who), i), who, when * length, lasts]))
    found = np.concatenate([np.empty((4, 0)), *rows], axis=1)
    where = np.empty((world, 3), np.int64)
    if found.size:
        shape = job.seats.rank.shape  # [S, T, D]
        where[job.seats.rank.reshape(-1)] = np.stack(np.unravel_index(range(world), shape), axis=1)
    stage, tensor, data = where[found[1].astype(np.int64)].T
    turn, longer = _met(job, stage, data, found[2], found[3])
    return Pauses(
        len(step), found[0].astype(np.int64), stage, tensor, data, turn, longer, found[2], found[3]
    )


def _met(
    job: JobLengths, stage: Numbers, data: Numbers, moment: Floats, lasts: Floats
) -> tuple[Numbers, Floats]:
    turn, longer = np.full(len(stage), -1), np.zeros(len(stage))
    kind = data % job.kinds
    for k in np.unique(kind).tolist():
        for s, (place_of, begin, end) in enumerate(_timeline(job, k)):
            mine = np.flatnonzero((kind == k) & (stage == s))
            near = np.searchsorted(end, moment[mine], side="right")
            mine, near = mine[near < len(end)], near[near < len(end)]
            turn[mine] = place_of[near]
            longer[mine] = np.maximum(
                0.0, lasts[mine] - np.maximum(0.0, begin[near] - moment[mine])
            )
    return turn, longer


def _timeline(job: JobLengths, kind: int) -> list[tuple[Numbers, Floats, Floats]]:
    """Of each stage its passes in order: which, begin, end; in the undisturbed step."""
    whole = job.by_action(job.own[kind]) + job.by_action(job.tensor[kind])
    hops = job.hops[kind].tolist()
    p, k = job.layout.pipeline, job.turns
    beside = [0.0] * p
    if job.exchanges:
        ring = [*hops[:-1], hops[-1] if job.chunks > 1 else 0.0]
        beside = [max(ring[s], ring[s - 1]) for s in range(p)]
        hops = [0.0] * p
    lengths: list[float] = []
    for s in range(p):
        for a in range(job.actions):
            lengths += [float(whole[s, a]) + (beside[s] if a < 2 else 0.0)] * k
    lengths += hops
    plan = job.plan
    turns = iter([lengths[index] for index in plan.order])
    spans: list[list[tuple[float, float]]] = [[] for _ in range(p)]

    def note(event: Event, begin: float, _: float, end: float) -> None:
        if event.action in COMPUTE:
            spans[event.stage].append((begin, end - beside[event.stage]))

    place(
        plan.events, lambda _: next(turns), [0.0] * p, rendezvous=job.blocks, placed=note
    )  # fmt: skip
    return [
        (
            np.array(plan.passes[s]) - s * job.actions * k,
            np.array([begin for begin, _ in spans[s]]),
            np.array([end for _, end in spans[s]]),
        )
        for s in range(p)
    ]
