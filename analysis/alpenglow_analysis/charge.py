"""What one segment was charged, down to its steps: exact, by rank, in ns of the rank's own clock.

Only the outer spans and the sums of every step are read, never all spans, and all ranks are worked
on at once: a segment of thousands of ranks and steps takes seconds. Durations are differences on
one rank's monotonic clock; no correction of clocks has a part in them.

Every moment of a rank belongs to the innermost outer span that is open. A `drain` runs beside
training and counts only where nothing else goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.segment import Segment
from alpenglow_profiling.events import Events, Kind, Rows
from alpenglow_profiling.self_time import self_times

Times = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

OUTSIDE = {
    Kind.STARTUP: "startup",
    Kind.RESTART: "restart",
    Kind.CHECKPOINT: "checkpoint",
    Kind.DRAIN: "checkpoint",
    Kind.EVALUATE: "evaluate",
}
"""Piece of the charge that an outer span beside a step belongs to."""

MEASURED: dict[str, str] = {
    "data": "Waiting for data",
    "pipeline": "Sending and receiving, waiting included",
    "tensor": "Tensor-parallel collectives, waiting included",
    "gradient": "Gradient reduction, waiting included",
    "optimizer": "Optimizer, waiting included",
    "inside": "In a step, in no span",
    "recompute": "Recomputing activations",
    "compute": "Forward and backward compute",
}
"""What a step of a rank is made of as it was measured: by kind of span, not by cause."""

PART_OF_KIND: dict[Kind, str] = {
    Kind.DATA_WAIT: "data",
    Kind.FORWARD: "compute",
    Kind.RECOMPUTE: "recompute",
    Kind.BACKWARD: "compute",
    Kind.WEIGHT_GRAD: "compute",
    Kind.P2P: "pipeline",
    Kind.TENSOR_REDUCE: "tensor",
    Kind.GRADIENT_REDUCE: "gradient",
    Kind.OPTIMIZER: "optimizer",
    Kind.STEP: "inside",
}
_PARTS = tuple(MEASURED)


@dataclass(frozen=True)
class SegmentCharge:
    """The time of one segment. Pieces, the three sums over kept steps and `untold` make `charged`.

    Steps are the kept ones: whole, and not given up at a restart.
    """

    charged: int
    pieces: dict[str, int]
    """ns outside kept steps, by piece of the charge."""
    step: Times
    """[steps]: numbers, ascending."""
    ranks: Times
    """[steps]: how many ranks have a whole span of it."""
    duration: Times
    """[steps]: ns, sum over ranks."""
    compute: Times
    """[steps]: ns of forward, backward and weight passes themselves, sum over ranks."""
    recompute: Times
    """[steps]: likewise."""
    untold: int
    """ns of kept steps of which a rank has no sums."""
    parts: Times
    """[ranks, len(MEASURED)]: ns of kept steps."""
    count: Times
    """[ranks]: kept steps."""
    lost_steps: int
    """Steps that were trained and given up."""

    @property
    def waiting(self) -> Times:
        """[steps]: ns in steps that are neither compute nor recomputation, sum over ranks."""
        return np.asarray(self.duration - self.compute - self.recompute)


def charge(segment: Segment, events: Events | None, lost_from: int | None) -> SegmentCharge:
    """Add up the time of a segment.

    Args:
        segment: its record.
        events: what its ranks left; None: nothing.
        lost_from: the first step that a later segment trained again.
    """
    begin, elapsed = segment.begin_ns, segment.elapsed_ns
    pieces = dict.fromkeys(
        ("unused", "unrecorded", "launch", *OUTSIDE.values(), "lost", "between"), 0
    )
    world = 0 if events is None else events.world_size
    steps = _no_steps(world)
    present = np.zeros(world, bool)
    if events is not None and world:
        rows, tail, behind = _clipped(events, (begin, begin + elapsed))
        present[rows["rank"]] = True
        present |= tail > 0
        # More ranks than the charged nodes hold cannot be; what is beyond is left out.
        present &= np.cumsum(present) <= segment.slots
        rows = rows[present[rows["rank"]]]
        steps = _ranks(rows, np.where(present, tail, 0), behind, events, lost_from, pieces)
        pieces["launch"] = int(present.sum()) * elapsed - steps[0]
    with_events = int(present.sum())
    silent = max(0, min(segment.ranks, segment.slots) - with_events)
    pieces["unrecorded"] += silent * elapsed
    pieces["unused"] = (segment.slots - with_events - silent) * elapsed
    return SegmentCharge(segment.slots * elapsed, pieces, *steps[1:])


def _no_steps(world: int) -> tuple[Any, ...]:
    none = np.zeros(0, np.int64)
    return (
        0, none, none, none, none, none, 0,
        np.zeros((world, len(_PARTS)), np.int64), np.zeros(world, np.int64), 0,
    )  # fmt: skip


def _clipped(events: Events, window: tuple[int, int]) -> tuple[Rows, Times, Mask]:
    """Outer spans inside the window, where each rank's last span ends, and whose record breaks off.

    The step that a death cut short has no span of its own, but the spans inside it are kept. Ranks
    step together: one that is steps behind the others did not stop, its log did.
    """
    world = events.world_size
    rows = events.outer.copy()
    rows = rows[rows["rank"] < world]
    rows["begin_ns"] = np.clip(rows["begin_ns"], *window)
    rows["end_ns"] = np.clip(rows["end_ns"], *window)
    rows = rows[rows["end_ns"] > rows["begin_ns"]]
    rows = rows[np.lexsort((-rows["end_ns"], rows["begin_ns"], rows["rank"]))]
    whole = rows[rows["kind"] == Kind.STEP]
    count = np.bincount(whole["rank"], minlength=world)
    behind = count + 1 < count.max(initial=0)
    if not len(whole):
        wanted = events.kept[:2]
    else:
        # Sorted by time within a rank: its last step, which after a rewind is not its highest.
        ends = np.flatnonzero(np.diff(whole["rank"].astype(np.int64), append=world))
        last = np.unique(whole["step"][ends][~behind[whole["rank"][ends]]]).astype(np.int64)
        wanted = events.kept[np.isin(events.kept, np.union1d(last, last + 1)[-4:])]
        if len(last) == 1 and len(ends) == world and np.isin(wanted, last).all():
            wanted = wanted[:0]  # all ended with the same step, and there is nothing of a next one
    tail = np.zeros(world, np.int64)
    if len(wanted):
        inner = events.spans(wanted.tolist())
        inner = inner[inner["rank"] < world]
        inner = inner[~behind[inner["rank"]]]
        np.maximum.at(tail, inner["rank"], np.clip(inner["end_ns"], *window))
        tail[tail <= window[0]] = 0
    return rows, tail, behind


def _ranks(
    rows: Rows,
    tail: Times,
    behind: Mask,
    events: Events,
    lost_from: int | None,
    pieces: dict[str, int],
) -> tuple[Any, ...]:
    """Fill in pieces of all ranks; returns ns that are not launch, and a SegmentCharge's rest."""
    world = events.world_size
    rows, own = _own_times(rows)
    for kind, piece in OUTSIDE.items():
        pieces[piece] += int(own[rows["kind"] == kind].sum())
    whole = rows["kind"] == Kind.STEP
    given_up = whole & _rewound(rows, whole)
    if lost_from is not None:
        given_up |= whole & (rows["step"] >= lost_from)
    pieces["lost"] += int(own[given_up].sum())
    kept = whole & ~given_up

    first = np.full(world, np.iinfo(np.int64).max)
    last = np.zeros(world, np.int64)
    np.minimum.at(first, rows["rank"], rows["begin_ns"])
    np.maximum.at(last, rows["rank"], rows["end_ns"])
    cut = np.where(last > 0, np.maximum(tail - last, 0), 0)  # the step under way at a death
    pieces["lost"] += int(cut.sum())
    record = np.where(last > 0, last - first + cut, 0)
    pieces["between"] += int(record.sum() - own.sum() - cut.sum())
    # Where a log breaks off its rank went on as long as the others.
    ended = last + cut
    silent = int((ended.max(initial=0) - ended)[behind & (last > 0)].sum())
    pieces["unrecorded"] += silent
    steps = _kept_steps(rows[kept], own[kept], events)
    lost = len(np.unique(rows["step"][given_up])) if given_up.any() else 0
    return int(record.sum()) + silent, *steps, lost


def _own_times(rows: Rows) -> tuple[Rows, Times]:
    """Self-time of spans that are sorted by rank and begin; see `self_times`."""
    own = (rows["end_ns"] - rows["begin_ns"]).astype(np.int64)
    same = rows["rank"][1:] == rows["rank"][:-1]
    meet = same & (rows["begin_ns"][1:] < rows["end_ns"][:-1])
    if not meet.any():
        return rows, own
    rows = rows.copy()
    borders = np.flatnonzero(~same) + 1
    starts = np.concatenate([[0], borders])
    ends = np.concatenate([borders, [len(rows)]])
    crossed = np.unique(np.searchsorted(borders, np.flatnonzero(meet), side="right"))
    for begin, end in zip(starts[crossed].tolist(), ends[crossed].tolist(), strict=True):
        rows[begin:end], own[begin:end] = self_times(rows[begin:end])
    return rows, own


def _rewound(rows: Rows, whole: Mask) -> Mask:
    """Steps that the same segment trained again after it went back: a later one is no higher."""
    found = np.zeros(len(rows), bool)
    index = np.flatnonzero(whole)
    step, rank = rows["step"][index].astype(np.int64), rows["rank"][index].astype(np.int64)
    if not ((np.diff(step) <= 0) & (np.diff(rank) == 0)).any():
        return found
    # Ranks are sorted: one running minimum from the end serves all, each rank on its own level.
    level = rank * (int(step.max()) + 1)
    later = np.minimum.accumulate((step + level)[::-1])[::-1]
    found[index[:-1]] = (later[1:] <= (step + level)[:-1]) & (rank[1:] == rank[:-1])
    return found


def _kept_steps(rows: Rows, own: Times, events: Events) -> tuple[Any, ...]:
    """Divide the kept steps of all ranks by what was measured in them."""
    sums, world = events.sums, events.world_size
    number = rows["step"].astype(np.int64)
    numbers = np.unique(number)
    # Whole steps by span, [steps, ranks]; the sums only say in which proportions they divide.
    span = np.zeros((len(numbers), world), np.int64)
    np.add.at(span, (np.searchsorted(numbers, number), rows["rank"]), own)
    there = np.isin(numbers, sums.step)
    place = np.searchsorted(sums.step, numbers[there])

    def column(index: int) -> Times:
        return np.asarray(sums.own_ns[place, :, index])

    columns = [i for i, kind in enumerate(sums.kinds) if kind in PART_OF_KIND]
    told = np.zeros(span.shape, np.int64)
    for index in columns:
        told[there] += column(index)
    odd = (span != told) & (span > 0) & (told > 0)
    plain = (span == told)[there]
    at_step, at_rank = np.nonzero(odd)
    odd_own = None
    if len(at_step):
        odd_place = np.searchsorted(sums.step, numbers[at_step])
        odd_own = _fitted(sums.own_ns[odd_place, at_rank][:, columns], span[odd])
    parts = np.zeros((world, len(_PARTS)), np.int64)
    by_step = np.zeros((len(numbers), len(_PARTS)), np.int64)
    for nth, index in enumerate(columns):
        part = _PARTS.index(PART_OF_KIND[sums.kinds[index]])
        mine = np.where(plain, column(index), 0)
        parts[:, part] += mine.sum(axis=0)
        by_step[there, part] += mine.sum(axis=1)
        if odd_own is not None:
            np.add.at(parts[:, part], at_rank, odd_own[:, nth])
            np.add.at(by_step[:, part], at_step, odd_own[:, nth])
    if odd_own is not None:  # what the sums do not tell of a span is time in none
        inside, rest = _PARTS.index("inside"), span[odd] - odd_own.sum(axis=1)
        np.add.at(parts[:, inside], at_rank, rest)
        np.add.at(by_step[:, inside], at_step, rest)
    silent = int(span[told <= 0].sum())
    duration = by_step.sum(axis=1)
    compute, recompute = _PARTS.index("compute"), _PARTS.index("recompute")
    count = (span > 0) & (told > 0)
    return (
        numbers, count.sum(axis=1), duration, by_step[:, compute], by_step[:, recompute], silent,
        parts, count.sum(axis=0),
    )  # fmt: skip


def _fitted(own: Times, span: Times) -> Times:
    """Sums [cells, kinds] made to fit their spans [cells], clipped by the job's end or twice there.

    Sums of less than the span stay as they are.
    """
    own = np.maximum(own, 0)
    told = own.sum(axis=1)
    share = np.minimum(1.0, span / np.maximum(told, 1))
    found = np.where((told > span)[:, None], np.floor(own * share[:, None]), own).astype(np.int64)
    over = found.sum(axis=1) - span  # of rounding only
    most = found.argmax(axis=1)
    found[np.arange(len(found)), most] -= np.maximum(over, 0)
    return found
