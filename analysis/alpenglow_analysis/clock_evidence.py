"""What the spans of steps say of clocks, told to a `Causality`.

Messages between stages bound both clocks from both sides: a receive ends after its send began, and
a send waits for its receiver (rendezvous: gloo, and NCCL beyond its buffers). Nobody leaves the
optimizer before all ranks have come to it: the gradients' norm is agreed on by all. Gradient
reductions may begin in the last backward pass, so only this is sure: they end after every member
has begun that pass. Tensor-parallel groups count where they leave a node.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.clock_bounds import Causality, Ints
from alpenglow_analysis.messages import Instances, InSteps, groups, instances, transfers
from alpenglow_profiling.kind import Kind, Rows

_INSTANCES = 8
"""Of a tensor-parallel group in a step, that are looked at: they are many and much alike."""


def kinds(layout: Layout, of_rank: Ints) -> list[Kind]:
    """The kinds of spans that say something.

    Args:
        layout: of the run.
        of_rank: [world]: index of each rank's node; -1 where it left nothing.
    """
    found = [Kind.STEP, Kind.P2P, Kind.OPTIMIZER]
    if layout.data > 1:
        found += [Kind.GRADIENT_REDUCE, Kind.BACKWARD, Kind.WEIGHT_GRAD]
    if _crossing(of_rank, groups(layout, Kind.TENSOR_REDUCE)).any():
        found.append(Kind.TENSOR_REDUCE)
    return found


def _crossing(of_rank: Ints, members: Ints) -> Any:
    """Which groups have members on more than one node."""
    at = of_rank[members]
    return at.max(axis=1) > np.where(at < 0, len(of_rank), at).min(axis=1)


def tell(
    said: Causality,
    rows: Rows,
    origin: int,
    steps: Ints,
    of_rank: Ints,
    layout: Layout,
    micro_batches: int,
    schedule: str,
    *,
    rendezvous: bool = True,
) -> tuple[int, int, int]:
    """Tell what cannot have happened before what.

    Args:
        said: is told.
        rows: spans of the kinds above, of whole steps.
        origin: ns that times are counted from.
        steps: numbers of the steps, ascending.
        of_rank: as `kinds`.
        layout: of the run.
        micro_batches: a step.
        schedule: name of the run's schedule.
        rendezvous: sends end only when their receives have begun.

    Returns:
        How many messages between nodes, collectives and steps there were.

    Raises:
        ValueError: an unknown schedule.
    """
    moved = transfers(rows, layout, micro_batches, schedule)
    place = np.searchsorted(steps, moved.step)
    sender, receiver = of_rank[moved.sender], of_rank[moved.receiver]
    receive_end, send_begin = moved.receive_end - origin, moved.send_begin - origin
    said.link(place, receiver, receive_end, sender, send_begin)
    send_end, receive_begin = moved.send_end - origin, moved.receive_begin - origin
    if rendezvous:
        said.link(place, sender, send_end, receiver, receive_begin)
    count = 0
    for kind in [Kind.OPTIMIZER] + [Kind.GRADIENT_REDUCE] * (layout.data > 1):
        found = instances(rows, layout, kind, partial=True)
        begin = found.table.column("begin_ns") - origin
        end = found.table.column("end_ns") - origin
        if kind is Kind.GRADIENT_REDUCE:
            begin = _last_passes(rows, found, steps, layout.world) - origin
        row = found.index.ravel()
        there = row >= 0
        row, number = row[there], np.repeat(np.arange(len(found.step)), found.index.shape[1])[there]
        at = np.searchsorted(steps, found.step)[number]
        said.collective(at, number, of_rank[found.table.rank[row]], end[row], begin[row])
        if kind is Kind.OPTIMIZER:
            said.together = np.full((said.steps, said.nodes), np.nan)
            np.fmax.at(said.together, (at, of_rank[found.table.rank[row]]), end[row].astype(float))
        count += len(found.step)
    if (rows["kind"] == Kind.TENSOR_REDUCE).any():
        count += _say_tensor(said, rows, origin, steps, of_rank, layout)
    return int((sender != receiver).sum()), count, len(steps)


def _say_tensor(
    said: Causality, rows: Rows, origin: int, steps: Ints, of_rank: Ints, layout: Layout
) -> int:
    """Some collectives of each tensor-parallel group that leaves a node, as pairs of members."""
    found = instances(rows, layout, Kind.TENSOR_REDUCE, partial=True)
    crossing = _crossing(of_rank, groups(layout, Kind.TENSOR_REDUCE))[found.group]
    last = np.flatnonzero(np.diff(found.instance, append=0) <= 0)
    size = np.repeat(found.instance[last] + 1, found.instance[last] + 1)
    spread = -(-size // _INSTANCES)
    index = found.index[crossing & (found.instance % spread == 0)]
    place = np.searchsorted(steps, found.step[crossing & (found.instance % spread == 0)])
    begin = found.table.column("begin_ns") - origin
    end = found.table.column("end_ns") - origin
    node = of_rank[found.table.rank]
    for one in range(index.shape[1]):
        for other in range(index.shape[1]):
            both = (index[:, one] >= 0) & (index[:, other] >= 0)
            if one != other and both.any():
                a, b = index[both, one], index[both, other]
                said.link(place[both], node[a], end[a], node[b], begin[b])
    return len(index)


def _last_passes(rows: Rows, found: Instances, steps: Ints, world: int) -> Ints:
    """When the rank of each row of a reduction began its last backward or weight pass.

    A rank without one says nothing: the beginning of time.
    """
    long_ago = int(found.table.rows["begin_ns"].min()) - 2**60
    latest = np.full((len(steps), world), long_ago)
    for kind in (Kind.BACKWARD, Kind.WEIGHT_GRAD):
        table = InSteps.of(rows, kind, world)
        at = np.searchsorted(steps, table.steps)[table.place]
        np.maximum.at(latest, (at, table.rank), table.column("begin_ns"))
    own = np.searchsorted(steps, found.table.steps)[found.table.place]
    return np.asarray(latest[own, found.table.rank])
