"""The passes of some steps as arrays: own time, recomputation, and collectives inside."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.messages import coordinates, instances
from alpenglow_profiling.events import Kind, Rows

PASSES = (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT_GRAD)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PassTimes:
    """Times in ns; see `sample.Sample` for the shapes."""

    own: Floats
    recompute: Floats
    joint: Floats
    tensor: Floats
    notes: list[str] = field(default_factory=list)


def pass_times(rows: Rows, place: Ints, n: int, layout: Layout, m: int) -> PassTimes:
    """Measure the passes of some steps.

    Args:
        rows: all spans of these steps, on a common clock.
        place: which of the steps each row belongs to.
        n: number of steps.
        layout: of the run.
        m: micro-batches a step.
    """
    stage, data, tensor = coordinates(layout)
    order = np.lexsort((-rows["end_ns"], rows["begin_ns"], rows["rank"], place))
    wanted = np.isin(rows["kind"][order], [*PASSES, Kind.RECOMPUTE, Kind.TENSOR_REDUCE])
    order = order[wanted]
    kind, rank = rows["kind"][order], rows["rank"][order].astype(np.int64)
    begin, end = rows["begin_ns"][order], rows["end_ns"][order]
    group = place[order] * layout.world + rank
    number = rows["micro_batch"][order].astype(np.int64)

    is_pass = np.isin(kind, PASSES) & (number >= 0) & (number < m)
    parent = _inside(is_pass, group, begin, end)
    redone = kind == Kind.RECOMPUTE
    again = _inside(redone, group, begin, end)
    lasted = (end - begin).astype(np.float64)
    cell = np.full(len(order), -1)
    kinds = np.searchsorted(PASSES, kind[is_pass])
    cell[is_pass] = (group[is_pass] * len(PASSES) + kinds) * m + number[is_pass]
    size = n * layout.world * len(PASSES) * m

    def total(mask: npt.NDArray[np.bool_], owner: Ints) -> Floats:
        return added(cell[owner[mask]], lasted[mask], size)

    collective = kind == Kind.TENSOR_REDUCE
    whole = added(cell[is_pass], lasted[is_pass], size)
    recompute = total(redone & (parent >= 0), parent)
    inside = total(collective & (parent >= 0), parent)
    inside_again = total(collective & (parent >= 0) & (again >= 0), parent)

    def shaped(flat: Floats) -> Floats:
        """[n, S, D, T, 3, M] of [n x world x 3 x M]."""
        table = np.empty((n, layout.pipeline, layout.data, layout.tensor, len(PASSES), m))
        table[:, stage, data, tensor] = flat.reshape(n, layout.world, len(PASSES), m)
        return table

    own = shaped(whole - recompute - (inside - inside_again))
    again_own = shaped(recompute - inside_again)
    if layout.tensor == 1:
        joint = (own + again_own)[:, :, :, 0]
        return PassTimes(own, again_own, joint, np.zeros_like(joint))
    notes: list[str] = []
    moved = _transfers(rows, order, collective & (parent >= 0), cell[parent], layout, size, notes)
    transfer = shaped(moved).mean(axis=3)
    first = np.full(size, np.inf)
    last = np.full(size, -np.inf)
    base = begin.min(initial=0)
    np.minimum.at(first, cell[is_pass], (begin[is_pass] - base).astype(np.float64))
    np.maximum.at(last, cell[is_pass], (end[is_pass] - base).astype(np.float64))
    # A group's pass begins when its last rank has come to it.
    together = shaped(last).max(axis=3) - shaped(first).max(axis=3)
    joint = np.where(np.isfinite(together), np.maximum(together - transfer, 0), 0)
    return PassTimes(own, again_own, joint, transfer, notes)


def added(where: Ints, values: Floats, size: int) -> Floats:
    """[size]: sums of values by place."""
    return np.asarray(np.bincount(where, values, minlength=size), np.float64)


def _inside(holders: npt.NDArray[np.bool_], group: Ints, begin: Ints, end: Ints) -> Ints:
    """Index of the latest holder that begins at or before each row and holds it; -1: none."""
    index = np.where(holders, np.arange(len(holders)), -1)
    latest = np.maximum.accumulate(index) if len(index) else index
    held = (latest >= 0) & ~holders
    there = np.maximum(latest, 0)
    held &= (group[there] == group) & (end[there] >= end) & (begin[there] <= begin)
    return np.where(held, latest, -1)


def _transfers(
    rows: Rows,
    order: Ints,
    mine: npt.NDArray[np.bool_],
    cell: Ints,
    layout: Layout,
    size: int,
    notes: list[str],
) -> Floats:
    """[size]: transfers of tensor-parallel collectives by the pass they lie in."""
    found = instances(rows, layout, Kind.TENSOR_REDUCE)
    if found.reasons:
        notes.append(
            f"{sum(found.reasons.values()):,} spans of tensor-parallel collectives had no partners "
            "and count as no transfer"
        )
    table = found.table
    begin = table.column("begin_ns")[found.index]
    end = table.column("end_ns")[found.index]
    moved = np.maximum(end - begin.max(axis=1, initial=np.iinfo(np.int64).min)[:, None], 0)
    owner = np.full(len(rows), -1)
    owner[order[mine]] = cell[mine]
    where = owner[table.index[found.index]]
    known = where >= 0
    return added(where[known], moved[known].astype(np.float64), size)
