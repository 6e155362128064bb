"""Steps of a whole job played event by event, with ranks that are not alike.

Torch-free. All replicas, stages and tensor ranks of a job go through its schedule
(`alpenglow.parallel.replay`), each pass as long as its rank needs for it, each message as long as
its link needs. Then all replicas of a stage reduce its gradients, beside their last backward passes
where the step's cost says so, and all ranks wait for all in the optimizer.

    job = JobLengths.of(step_cost(model, layout, work, machine))
    got = simulate(job, [Jitter(0.02), SlowRanks(0.005, Spread((1.15,)))], steps=200)
    got.slowdown, got.percentiles(), got.idle

Without disturbances the step is `StepCost.seconds` to rounding, wherever that was played; where it
took a closed form (deep pipelines, see `alpenglow.parallel.pipeline_time`) this is the exact one.
Replicas and steps in which nothing differs are played once.

A tensor group goes as its slowest rank, pass by pass: its ranks meet at the end of each. A
reduction starts when the last replica starts its last backward pass, and ends no sooner than it
would without overlap but for its last bucket. A pause is placed in the undisturbed step: in a pass
it makes that longer, in a wait only as far as it outlasts it. Slow ranks compute slower; their
optimizer and their messages do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.disturbance import (
    Disturbance,
    Hiccups,
    Jitter,
    SlowLinks,
    SlowRanks,
)
from alpenglow.parallel.job_lengths import JobLengths
from alpenglow.parallel.pauses import Pauses, placed
from alpenglow.parallel.replay import place

Floats = npt.NDArray[np.float64]
Factors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

TOGETHER = 1 << 14
"""Replicas x steps x turns that are played at once: what is drawn for them lies in the cache."""
FEW = 6
"""Up to so many, one after the other costs less than as arrays."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """Steps that were played."""

    job: JobLengths
    undisturbed: float
    """Seconds of the step that nothing disturbs."""
    seconds: Floats
    """[steps]"""
    allocation: Numbers
    """[steps]: slow nodes are the same in all steps of an allocation."""
    replica: Floats
    """[steps]: when a replica has done its last pass, the mean over replicas."""
    slowest: Floats
    """[steps]: when the last replica has."""
    working: Floats
    """[stages]: seconds of a step in which a rank is in a pass or the optimizer, the mean."""

    @property
    def mean(self) -> float:
        """Mean seconds of a step."""
        return float(self.seconds.mean())

    @property
    def slowdown(self) -> float:
        """S: the mean step over the undisturbed one."""
        return self.mean / self.undisturbed

    @property
    def lost(self) -> float:
        """Share of the GPUs' time that the disturbances take: 1 - 1/S."""
        return 1 - 1 / self.slowdown

    @property
    def equivalents(self) -> float:
        """GPUs that would be enough if nothing disturbed them, taken from those there are."""
        return self.job.layout.world * self.lost

    def percentiles(self, shares: Sequence[float] = (5, 50, 95)) -> tuple[float, ...]:
        """Seconds of a step that so many per cent of steps do not exceed."""
        return tuple(np.percentile(self.seconds, shares).tolist())

    @property
    def idle_by_stage(self) -> Floats:
        """[stages]: share of the time in which a rank is neither in a pass nor the optimizer.

        It waits then, for messages, for its pipeline to fill or drain, for slower ranks, or it
        reduces gradients. Tensor collectives belong to their pass, waits for them do not.
        """
        return np.asarray(1 - self.working / self.mean)

    @property
    def idle(self) -> float:
        """The same of all ranks."""
        return float(self.idle_by_stage.mean())


def simulate(
    job: JobLengths,
    disturbances: Sequence[Disturbance] = (),
    *,
    steps: int = 200,
    seed: int = 1,
    allocations: int = 20,
    alike: bool = True,
) -> Simulated:
    """Play steps.

    Args:
        job: how long everything takes.
        disturbances: what differs; several of a kind have different numbers.
        steps: how many are played.
        seed: of all dice.
        allocations: sets of slow nodes, links and GPUs that are drawn; step i has number
            i % allocations.
        alike: play what is alike once. The result is the same without, later.

    Raises:
        DisturbanceError: a disturbance that cannot be on this job.
        ValueError: counts below 1; the schedule does not go with the counts.
    """
    if steps < 1 or allocations < 1:
        raise ValueError(f"steps = {steps}, allocations = {allocations}: both are at least 1")
    base = _Player(job, (), seed, 1).played(np.zeros(1, np.int64), alike=True)
    if not disturbances and alike:
        return _joined(job, float(base[0][0]), [base] * steps, np.zeros(steps, np.int64))
    player = _Player(job, disturbances, seed, min(steps, allocations), float(base[0][0]))
    each = max(1, TOGETHER // (job.layout.data * job.turns))
    if player.jitter is None and alike:
        each = max(each, (1 << 20) // (job.layout.data * job.layout.pipeline))
    blocks = np.array_split(np.arange(steps), -(-steps // each))
    made = [player.played(block, alike=alike) for block in blocks]
    return _joined(job, float(base[0][0]), made, np.arange(steps) % player.allocations)


_Block = tuple[Floats, Floats, Floats, Floats]
"""Seconds, mean and slowest replica [steps]; working seconds [stages], summed over steps."""


def _joined(
    job: JobLengths, undisturbed: float, blocks: Sequence[_Block], allocation: Numbers
) -> Simulated:
    seconds, replica, slowest = (np.concatenate([b[i] for b in blocks]) for i in range(3))
    working = np.sum([block[3] for block in blocks], axis=0) / len(seconds)
    return Simulated(job, undisturbed, seconds, allocation, replica, slowest, working)


class _Player:
    """A job and its disturbances, ready for any steps."""

    def __init__(
        self,
        job: JobLengths,
        disturbances: Sequence[Disturbance],
        seed: int,
        allocations: int,
        length: float = 0.0,
    ) -> None:
        self.job, self.seed, self.allocations, self.length = job, seed, allocations, length
        self.update = float((job.update + job.gather).max())
        self.jitter: list[Jitter] | None = [
            one for one in disturbances if isinstance(one, Jitter) and one.cv > 0
        ] or None
        self.hiccups = [one for one in disturbances if isinstance(one, Hiccups)]
        shape = job.layout
        p, t, d = shape.pipeline, shape.tensor, shape.data
        self.slow: Floats | None = None
        """[allocations, stages, tensor, data]"""
        self.hops = np.ones((allocations, p, d))
        self.groups = np.ones((allocations, p))
        touched = np.zeros((allocations, d), bool)
        slow = [one for one in disturbances if isinstance(one, SlowRanks)]
        links = [one for one in disturbances if isinstance(one, SlowLinks)]
        if slow:
            self.slow = np.ones((allocations, p, t, d))
            for a in range(allocations):
                for one in slow:
                    self.slow[a] *= one.factors(job.seats, seed, a)
            touched |= (self.slow != 1).any(axis=(1, 2))
        for one_link in links:
            for a in range(allocations):
                hops, groups = one_link.factors(job.seats, seed, a)
                self.hops[a] = np.maximum(self.hops[a], hops)
                self.groups[a] = np.maximum(self.groups[a], groups)
        if links:
            touched |= (self.hops != 1).any(axis=1)
        self.touched = touched

    def played(self, step: Numbers, *, alike: bool) -> _Block:
        """Play some steps."""
        job, data = self.job, self.job.layout.data
        pauses = placed(job, self.hiccups, self.seed, step, self.length)
        shown, column = self._columns(step, pauses, alike)
        ends, last, own = self._ends(step, shown, pauses)
        allocation = step % self.allocations
        index = column.reshape(len(step), data)
        done = ends[:, index]  # [S, steps, D]
        wide = self.groups[allocation].T  # [S, steps]
        early = (ends - last)[:, index].max(axis=2) + job.reduce[:, None] * wide
        late = done.max(axis=2) + job.behind[:, None] * wide
        reduced = np.maximum(early, late).max(axis=0)
        met = np.maximum(reduced, done.max(axis=(0, 2)))
        if job.tied:
            met = met + job.tied * np.maximum(wide[0], wide[-1])
        update = (job.update[:, None] + job.gather[:, None] * wide).max(axis=0)
        seconds = met + update + pauses.behind(self.length - self.update)
        of_replica = done.max(axis=0)
        working = own[:, index].mean(axis=2).sum(axis=1) + len(step) * job.update
        return seconds, of_replica.mean(axis=1), of_replica.max(axis=1), working

    def _columns(self, step: Numbers, pauses: Pauses, alike: bool) -> tuple[Numbers, Numbers]:
        """Replicas of steps that differ from one another.

        Returns:
            [columns]: place of one of each in [steps, data]; [steps x data]: column of each.
        """
        data, count = self.job.layout.data, len(step) * self.job.layout.data
        every = np.arange(count)
        if self.jitter is not None or not alike:
            return every, every
        replica = np.broadcast_to(np.arange(data), (len(step), data))
        allocation = (step % self.allocations)[:, None]
        key = np.broadcast_to(replica % self.job.kinds, replica.shape)
        of_allocation = count + allocation * data + replica
        key = np.where(self.touched[step % self.allocations], of_allocation, key)
        key = key.reshape(-1).copy()
        mine = pauses.step * data + pauses.data
        key[mine] = count + self.allocations * data + mine
        _, shown, column = np.unique(key, return_index=True, return_inverse=True)
        return shown, column

    def _ends(self, step: Numbers, shown: Numbers, pauses: Pauses) -> tuple[Floats, Floats, Floats]:
        """Play columns: end of each stage, its last pass, what its ranks work; all [S, columns]."""
        job, data = self.job, self.job.layout.data
        at, replica = shown // data, shown % data
        kind, allocation = replica % job.kinds, step[at] % self.allocations
        # [S, actions, 1, columns]
        own = np.moveaxis(job.by_action(job.own)[kind], 0, -1)[:, :, None]
        tensor = np.moveaxis(job.by_action(job.tensor)[kind], 0, -1)[:, :, None]
        slow = None if self.slow is None else self.slow[allocation, :, :, replica]
        if slow is not None:  # [S, T, columns]
            slow = np.moveaxis(slow, 0, -1)
        whole, mean, chance = self._passes(step, own, slow)
        working = (own * mean + job.turns * tensor).sum(axis=(1, 2))
        if len(pauses.step):
            whole = np.array(np.broadcast_to(whole, (*own.shape[:2], job.turns, len(shown))))
            column_of = np.full(len(step) * data, -1)
            column_of[shown] = np.arange(len(shown))
            self._pause(whole, pauses, column_of, own, slow, chance)
        table = np.broadcast_to(whole + tensor, (*own.shape[:2], job.turns, len(shown)))
        plan = job.plan
        flat = table.reshape(-1, len(shown))
        last = flat[[passes[-1] for passes in plan.passes]]
        hops = job.hops[kind].T * self.hops[allocation, :, replica].T  # [S, columns]
        if job.exchanges:
            after, before = hops.copy(), np.roll(hops, 1, axis=0)
            if job.chunks == 1:
                after[-1] = before[0] = 0.0
            both = np.maximum(after, before)[:, None, None]
            # What waits for nobody, a pass to the weights, has no message after it.
            flat = np.concatenate([table[:, :2] + both, table[:, 2:]], axis=1)
            flat, hops = flat.reshape(-1, len(shown)), np.zeros_like(hops)
        return _played(job, flat, hops), last, working

    def _passes(
        self, step: Numbers, own: Floats, slow: Floats | None
    ) -> tuple[Floats, Floats, Factors | None]:
        """Computing of each tensor group as long as its slowest rank's.

        Returns:
            whole [S, actions, turns or 1, columns]; the factors of its ranks, summed over turns,
            their mean [S, actions, 1, columns]; all factors [S, T, actions, turns, columns], if
            they were drawn.
        """
        job, shape = self.job, self.job.layout
        if self.jitter is None:
            if slow is None:
                return own, np.full_like(own, job.turns), None
            most = slow.max(axis=1)[:, None, None]
            mean = slow.mean(axis=1)[:, None, None]
            return own * most, np.broadcast_to(job.turns * mean, own.shape), None
        p, t, d = shape.pipeline, shape.tensor, shape.data
        a, k = job.actions, job.turns
        chance = np.empty((p, t, a, k, len(step), d), np.float32)
        for i, number in enumerate(step.tolist()):
            drawn = self.jitter[0].factors(self.seed, number, shape.world, a * k)
            for more in self.jitter[1:]:
                drawn *= more.factors(self.seed, number, shape.world, a * k)
            mine = drawn[job.seats.rank].reshape(p, t, d, a, k)
            chance[:, :, :, :, i] = np.moveaxis(mine, 2, 4)
        chance = chance.reshape(p, t, a, k, -1)
        if slow is not None:
            chance *= slow[:, :, None, None]
        mean = chance.sum(axis=3, dtype=np.float64).mean(axis=1)[:, :, None]
        return chance.max(axis=1) * own, mean, chance

    def _pause(
        self,
        whole: Floats,
        pauses: Pauses,
        column_of: Numbers,
        own: Floats,
        slow: Floats | None,
        chance: Factors | None,
    ) -> None:
        """Lengthen the passes in which a rank pauses; its tensor group waits for it."""
        column = column_of[pauses.step * self.job.layout.data + pauses.data]
        for i in np.flatnonzero(pauses.turn >= 0).tolist():
            s, t, c = int(pauses.stage[i]), int(pauses.tensor[i]), int(column[i])
            a, k = divmod(int(pauses.turn[i]), self.job.turns)
            factor = 1.0 if slow is None else float(slow[s, t, c])
            if chance is not None:
                factor = float(chance[s, t, a, k, c])
            longer = float(own[s, a, 0, c]) * factor + float(pauses.longer[i])
            whole[s, a, k, c] = max(whole[s, a, k, c], longer)


def _played(job: JobLengths, flat: Floats, hops: Floats) -> Floats:
    """[S, columns]: when each stage has done its last event."""
    plan, columns = job.plan, flat.shape[1]

    def one(lengths: list[Any], begin: Any, maximum: Any) -> list[Any]:
        turns = iter([lengths[index] for index in plan.order])
        start = [begin] * job.layout.pipeline
        events, rendezvous = plan.events, job.blocks
        return place(events, lambda _: next(turns), start, rendezvous=rendezvous, maximum=maximum)

    table = np.concatenate([flat, hops])
    if columns <= FEW:
        played = [one(table[:, c].tolist(), 0.0, max) for c in range(columns)]
        return np.array(played).T
    return np.array(one(list(table), np.zeros(columns), np.maximum))
