"""Both ends of every message, and all members of every collective, found in the spans of steps.

A message between two stages leaves a span at its sender and one at its receiver, a collective one
at each member. On a common clock the two parts of such a span can be told:

    wait     = last arrival - own arrival      the others are not there yet
    transfer = end - last arrival              bytes move

(the split of Scalasca's wait states, Geimer et al. 2010, doi 10.1002/cpe.1556, and of POP's
serialisation and transfer). What has no partner is counted and named, never guessed.

How ends find each other: a row of kind P2P names the other end (`peer`) and the micro-batch. Of the
two messages that a pair of stages exchanges for a micro-batch the activation goes first, in any
schedule, on both ends; rows that tell the direction themselves (`group` 0: activation, 1: gradient)
need no order. The k-th row of a collective on one rank belongs to the k-th of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.replay import SENDS, program
from alpenglow_profiling.kind import Kind, Rows

Ints = npt.NDArray[np.int64]
_UNKNOWN = np.iinfo(np.int64)


@dataclass(frozen=True)
class Transfers:
    """Messages between stages, one a place in each array, by step, sender's pair and micro-batch.

    Times in ns, on the clock of the rows.
    """

    step: Ints
    micro_batch: Ints
    down: npt.NDArray[np.bool_]
    """An activation, to the stage after; else a gradient, to the stage before."""
    sender: Ints
    receiver: Ints
    """Global ranks."""
    send_begin: Ints
    send_end: Ints
    receive_begin: Ints
    receive_end: Ints
    bytes: Ints
    """-1 where neither end knows."""
    expected: int
    """Messages that so many whole steps of the schedule have."""
    unmatched: int = 0
    """Rows without a partner."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why: rows by reason."""

    def __len__(self) -> int:
        return len(self.step)

    @property
    def arrival(self) -> Ints:
        """When the later end was there."""
        return np.maximum(self.send_begin, self.receive_begin)

    @property
    def end(self) -> Ints:
        """When both ends were done."""
        return np.maximum(self.send_end, self.receive_end)

    @property
    def wait_sender(self) -> Ints:
        """How long the sender waited for the receiver; never longer than its span."""
        return np.minimum(self.arrival, self.send_end) - self.send_begin

    @property
    def wait_receiver(self) -> Ints:
        """How long the receiver waited for the sender; never longer than its span."""
        return np.minimum(self.arrival, self.receive_end) - self.receive_begin

    @property
    def transfer(self) -> Ints:
        """From the last arrival to the end, at least 0."""
        return np.asarray(np.maximum(self.end - self.arrival, 0))

    @property
    def clamped(self) -> int:
        """Messages that end before their last arrival: the clocks of their ends disagree."""
        return int((self.end < self.arrival).sum())


@dataclass(frozen=True)
class Collectives:
    """Collectives of one kind: n of them, of g ranks each, by step, group and instance.

    Times in ns, on the clock of the rows.
    """

    kind: Kind
    step: Ints
    """[n]"""
    instance: Ints
    """[n]: counts the collectives of a group in a step, from 0."""
    group: Ints
    """[n]: index in `groups(layout, kind)`."""
    ranks: Ints
    """[n, g]"""
    begin: Ints
    """[n, g]"""
    end: Ints
    """[n, g]"""
    unmatched: int = 0
    """Rows of groups of which a member is missing or has another number of rows."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why: rows by reason."""

    def __len__(self) -> int:
        return len(self.step)

    @property
    def arrival(self) -> Ints:
        """[n]: when the last member was there."""
        return np.asarray(self.begin.max(axis=1, initial=_UNKNOWN.min))

    @property
    def wait(self) -> Ints:
        """[n, g]: how long each waited for the last; never longer than its span."""
        return np.minimum(self.arrival[:, None], self.end) - self.begin

    @property
    def transfer(self) -> Ints:
        """[n, g]: from the last arrival to each one's end, at least 0."""
        return np.asarray(np.maximum(self.end - self.arrival[:, None], 0))

    @property
    def clamped(self) -> int:
        """Spans that end before the last arrival.

        Clocks that disagree, or a reduction that began before its span did: gradients that travel
        during the last backward pass are only waited for in `gradient_reduce`.
        """
        return int((self.end < self.arrival[:, None]).sum())


@lru_cache(maxsize=8)
def coordinates(layout: Layout) -> Ints:
    """[3, world]: stage, data rank and tensor rank of every global rank."""
    return np.array([layout.coordinates(rank) for rank in range(layout.world)]).T.copy()


def groups(layout: Layout, kind: Kind) -> Ints:
    """[groups, members]: the ranks that do a collective of this kind together.

    Raises:
        ValueError: a kind that is none.
    """
    if kind is Kind.TENSOR_REDUCE:
        return np.array(layout.tensor_groups())
    if kind is Kind.GRADIENT_REDUCE:
        return np.array(layout.data_groups())
    if kind is Kind.OPTIMIZER:
        return np.arange(layout.world)[None]
    raise ValueError(f"{kind.label} is no collective")


def transfers(rows: Rows, layout: Layout, micro_batches: int, schedule: str = "1f1b") -> Transfers:
    """Match sends with receives.

    Args:
        rows: all spans of some steps, of all ranks that left any. Where a rank's STEP span is
            there, only what began inside it counts (validation sends messages too).
        layout: of the run.
        micro_batches: a step.
        schedule: name of the run's schedule, to know how many messages there should be.

    Raises:
        ValueError: an unknown schedule.
    """
    p, m, world = layout.pipeline, micro_batches, layout.world
    stage, data, tensor = coordinates(layout)
    table = InSteps.of(rows, Kind.P2P, world)
    rank, peer, number = table.rank, table.column("peer"), table.column("micro_batch")
    reasons = dict(table.reasons)

    known = (peer >= 0) & (peer < world) & (number >= 0) & (number < m)
    other = np.where(known, peer, rank)
    known &= np.abs(stage[rank] - stage[other]) == 1
    known &= (data[rank] == data[other]) & (tensor[rank] == tensor[other])
    reasons["name no neighbouring stage or no micro-batch"] = int((~known).sum())
    table, other, number = table.chosen(known), other[known], number[known]

    rank = table.rank
    upper = stage[rank] > stage[other]  # this end sits at the later stage of the two
    pair = (table.place * world + np.where(upper, other, rank)) * m + number
    up, told = _direction(table, pair * 2 + upper)
    reasons["do not tell a send from a receive"] = int((~told).sum())
    end = (pair * 2 + up) * 2 + upper
    ends = len(table.steps) * world * m * 4
    count = np.bincount(end[told], minlength=ends)
    index = np.full(ends, -1, np.int32)
    index[end[told]] = np.flatnonzero(told)
    reasons["are there twice"] = int(count[count > 1].sum())
    found = (count == 1).reshape(-1, 2)
    reasons["have no other end"] = int(found[~found.all(axis=1)].sum())
    both = np.flatnonzero(found.all(axis=1))
    low, high = index.reshape(-1, 2)[both].T

    down = both % 2 == 0
    first, second = np.where(down, low, high), np.where(down, high, low)
    begin, finish, size = (table.column(name) for name in ("begin_ns", "end_ns", "bytes"))
    sends = sum(event.action in SENDS for event in program(schedule, p, m)) if p > 1 else 0
    reasons = {reason: n for reason, n in reasons.items() if n}
    return Transfers(
        step=table.steps[table.place[first]],
        micro_batch=number[first],
        down=down,
        sender=rank[first],
        receiver=rank[second],
        send_begin=begin[first],
        send_end=finish[first],
        receive_begin=begin[second],
        receive_end=finish[second],
        bytes=np.maximum(size[first], size[second]),
        expected=len(table.steps) * layout.data * layout.tensor * sends,
        unmatched=sum(reasons.values()),
        reasons=reasons,
    )


def collectives(rows: Rows, layout: Layout, kind: Kind) -> Collectives:
    """Match the members of the collectives of one kind.

    Of gradient reductions the last of each rank in a step: one before it sums a tied weight over
    the first and the last stage, which is no collective of the data-parallel group.

    Args:
        rows: as `transfers`.
        layout: of the run.
        kind: TENSOR_REDUCE, GRADIENT_REDUCE (data-parallel group) or OPTIMIZER (all ranks).

    Raises:
        ValueError: another kind.
    """
    found = instances(rows, layout, kind)
    table, index = found.table, found.index
    return Collectives(
        kind=kind,
        step=found.step,
        instance=found.instance,
        group=found.group,
        ranks=groups(layout, kind)[found.group],
        begin=table.column("begin_ns")[index],
        end=table.column("end_ns")[index],
        unmatched=sum(found.reasons.values()),
        reasons=found.reasons,
    )


@dataclass(frozen=True)
class Instances:
    """Which rows make which collective; see `instances`."""

    table: InSteps
    step: Ints
    instance: Ints
    group: Ints
    """Each [n]."""
    index: Ints
    """[n, g]: row of `table` of each member; -1 where a member left none."""
    reasons: dict[str, int]


def instances(rows: Rows, layout: Layout, kind: Kind, *, partial: bool = False) -> Instances:
    """Find the members of collectives; arguments as `collectives`.

    Args:
        rows: as `transfers`.
        layout: of the run.
        kind: of the collective.
        partial: keep collectives of which some members left no row at all.
    """
    world, members = layout.world, groups(layout, kind)
    table = InSteps.of(rows, kind, world)
    reasons = dict(table.reasons)
    steps = len(table.steps)
    count, order = table.by_rank()
    first = (np.cumsum(count) - count).reshape(steps, world)
    count = count.reshape(steps, world)
    if kind is Kind.GRADIENT_REDUCE:
        first, count = first + np.maximum(count - 1, 0), np.minimum(count, 1)
    each = count[:, members]
    most = each.max(axis=2, initial=0)
    alike = ((each == most[..., None]) | (partial & (each == 0))).all(axis=2)
    reasons["belong to collectives of which a member is missing"] = int(each[~alike].sum())
    place, group = np.nonzero(alike & (most > 0) & (members.shape[1] > 1))
    times = most[place, group]
    instance = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    place, group = np.repeat(place, times), np.repeat(group, times)
    there = each[place, group] > 0
    index = np.where(there, first[place[:, None], members[group]] + instance[:, None], 0)
    index = np.where(there, order[index] if len(order) else index, -1)
    reasons = {reason: n for reason, n in reasons.items() if n}
    return Instances(table, table.steps[place], instance, group, index, reasons)


@dataclass(frozen=True)
class InSteps:
    """The rows of one kind inside the steps of their ranks, in order of begin within a step."""

    rows: Rows
    index: Ints
    """Where in `rows`; the other arrays are parallel to it."""
    rank: Ints
    place: Ints
    """Index in `steps`."""
    steps: Ints
    """Step numbers, ascending."""
    world: int
    reasons: dict[str, int]

    @classmethod
    def of(cls, rows: Rows, kind: Kind, world: int) -> InSteps:
        """Find them; where a rank's STEP span is there, what began outside it does not count."""
        index = np.flatnonzero(rows["kind"] == kind)
        outside = rows["rank"][index] >= world
        index = index[~outside]
        step = rows["step"][index]
        steps = np.unique(step)
        place = np.searchsorted(steps, step)
        begin = rows["begin_ns"][index]
        if (np.diff(begin)[np.diff(place) == 0] < 0).any() or (np.diff(place) < 0).any():
            order = np.lexsort((begin, place))
            index, place, begin = index[order], place[order], begin[order]
        rank = rows["rank"][index].astype(np.int64)
        whole = rows[rows["kind"] == Kind.STEP]
        whole = whole[np.isin(whole["step"], steps) & (whole["rank"] < world)]
        opens = np.full((len(steps), world), _UNKNOWN.min)
        closes = np.full((len(steps), world), _UNKNOWN.max)
        where = (np.searchsorted(steps, whole["step"]), whole["rank"])
        opens[where], closes[where] = whole["begin_ns"], whole["end_ns"]
        inside = (begin >= opens[place, rank]) & (begin < closes[place, rank])
        return cls(
            rows, index[inside], rank[inside], place[inside], steps.astype(np.int64), world,
            {"are of ranks outside the layout": int(outside.sum())},
        )  # fmt: skip

    def column(self, name: str) -> Ints:
        """A column of the rows as int64."""
        return np.asarray(self.rows[name][self.index], dtype=np.int64)

    def chosen(self, mask: npt.NDArray[np.bool_]) -> InSteps:
        """Some of the rows."""
        if mask.all():
            return self
        return InSteps(
            self.rows, self.index[mask], self.rank[mask], self.place[mask], self.steps, self.world,
            self.reasons,
        )  # fmt: skip

    def by_rank(self) -> tuple[Ints, Ints]:
        """Rows of each (step, rank), and their order by step, rank, begin."""
        key = self.place * self.world + self.rank
        count = np.bincount(key, minlength=len(self.steps) * self.world)
        return count, np.argsort(key, kind="stable")


def _direction(table: InSteps, end: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Which messages are gradients (1) and which activations (0), and where that is known.

    Args:
        table: rows of kind P2P.
        end: a number for each end of a pair of stages in a step and micro-batch.
    """
    group = table.column("group")
    told = (group == 0) | (group == 1)
    up = np.where(told, group, 0)
    silent = np.flatnonzero(~told)
    if len(silent):
        mine = end[silent]
        pairs = np.bincount(mine)[mine] == 2
        first = np.empty(int(mine.max()) + 1, np.int32)
        # Of an index that is assigned twice the last value stays: the row that begins first.
        first[mine[::-1]] = np.arange(len(mine), dtype=np.int32)[::-1]
        up[silent] = first[mine] != np.arange(len(mine))
        told[silent] = pairs
    return up, told


def in_words(what: str, reasons: dict[str, int]) -> Sequence[str]:
    """One sentence for each reason why rows could not be matched."""
    return [f"{n:,} spans of {what} {reason}: left out" for reason, n in reasons.items()]
