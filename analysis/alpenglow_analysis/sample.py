"""Some steps of a run as arrays: how long every rank took for every operation, without its waits.

What a replay needs: the own time of each pass (collectives inside it taken out), the transfer of
each message and collective (from the last arrival to the end), the wait for data. Steps are taken
from those whose spans were kept, evenly spread over each group of like steps (`strata.py`), and
each counts for about as many as its group has for one that was taken (`sample_weights.py`). Nodes'
clocks are aligned first (`clocks.py`), as a transfer is the difference of times on two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.bubble import schedule_name
from alpenglow_analysis.clocks import Alignment, align
from alpenglow_analysis.episodes import Episode
from alpenglow_analysis.messages import collectives, coordinates, transfers
from alpenglow_analysis.pass_times import pass_times
from alpenglow_analysis.run import Run
from alpenglow_analysis.sample_weights import calibrated
from alpenglow_analysis.segment import Segment
from alpenglow_analysis.strata import Strata, strata
from alpenglow_profiling.clock_exchange import ExchangeError, read_exchanges
from alpenglow_profiling.events import Events, Kind, Rows

MOST = 24
"""Steps that are replayed at least, where so many have their spans."""
MOST_SPANS = 4_000_000
"""Where steps are small, as many are replayed as have this many spans together."""
LEAST = 4
"""Steps of each group that are replayed, where so many have their spans."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """n steps of a run; times in ns. S stages, D data ranks, T tensor ranks, M micro-batches."""

    layout: Layout
    schedule: str
    micro_batches: int
    step: Ints
    """[n], ascending."""
    group: Ints
    """[n]: group of like steps that each comes from."""
    weight: Floats
    """[n]: how many steps of the run each counts for."""
    usual: npt.NDArray[np.bool_]
    """[n]: not of a group that is far longer than the median step."""
    duration: Floats
    """[n]: length of the step, the mean over ranks."""
    own: Floats
    """[n, S, D, T, 3, M]: forward, backward, weight passes by themselves."""
    recompute: Floats
    """[n, S, D, T, 3, M]: recomputation inside them."""
    joint: Floats
    """[n, S, D, 3, M]: a pass of a whole tensor group without the transfers inside: as long as its
    ranks need together, who waits for whom between two collectives included."""
    tensor: Floats
    """[n, S, D, 3, M]: transfers of tensor-parallel collectives inside a pass."""
    down: Floats
    """[n, S - 1, D, M]: transfer of an activation to the next stage; of the tensor ranks' the
    longest."""
    up: Floats
    """[n, S - 1, D, M]: of a gradient to the stage before."""
    load: Floats
    """[n, S, D, M]: wait for the data of a micro-batch."""
    head: Floats
    """[n, S, D]: wait for data before the pipeline starts."""
    gradient: Floats
    """[n, S, D]: from the last arrival of the data-parallel group to the end of its reduction."""
    optimizer: Floats
    """[n, S, D]: from the last arrival of all ranks to the end of the optimizer step."""
    segments: tuple[str, ...]
    """Jobs that the steps come from."""
    strata: Strata
    """All steps that count."""
    alignments: dict[str, Alignment]
    notes: tuple[str, ...]
    """What could not be matched, and how far clocks may be off."""

    def __len__(self) -> int:
        return len(self.step)

    @property
    def mean_s(self) -> float:
        """Mean length of the steps that it stands for, in seconds."""
        return float(np.average(self.duration, weights=self.weight)) / 1e9

    @property
    def busy(self) -> Floats:
        """[n, S, D, T]: compute and recomputation of each rank in each step."""
        return np.asarray((self.own + self.recompute).sum(axis=(-2, -1)))


def sample(run: Run, slow: Sequence[Episode] = (), most: int | None = None) -> Sample | None:
    """Choose steps and measure them; None where no step has the spans of all ranks.

    Args:
        run: the run.
        slow: slow spells, which divide steps into groups.
        most: steps; None: `MOST`, or more where that is little work.
    """
    if most is None:
        most = max(MOST, MOST_SPANS // (8 * run.facts.micro_batches * run.facts.layout.world))
    divided = strata(run, slow)
    whole: dict[str, tuple[Ints, Floats]] = {}
    able = np.zeros(len(divided.step), bool)
    for number, name in enumerate(divided.segment):
        segment = next(each for each in run.segments if each.name == name)
        events = run.events[name]
        whole[name] = (np.zeros(0, np.int64), np.zeros(0))
        if len(events.nodes) == events.world_size:
            whole[name] = _whole_steps(run, segment, events)
        mine = divided.of == number
        able[mine] = np.isin(divided.step[mine], whole[name][0])
    chosen = _chosen(run, divided, able, most)
    parts = []
    for number, name in enumerate(divided.segment):
        index = chosen[divided.of[chosen] == number]
        if len(index):
            steps, lengths = whole[name]
            length = lengths[np.searchsorted(steps, divided.step[index])]
            parts.append(_measure(run, name, divided, index, length))
    return _joined(parts, divided) if parts else None


def _chosen(run: Run, divided: Strata, able: npt.NDArray[np.bool_], most: int) -> Ints:
    """Indices of the steps that are replayed, ascending: of each group its share, evenly spread."""
    size = divided.size()
    regular = np.zeros(len(able), bool)
    for number, name in enumerate(divided.segment):
        every = run.events[name].sample_every
        regular |= (divided.of == number) & (divided.step % every == 0)
    found = []
    for group, count in enumerate(size.tolist()):
        mine = able & (divided.group == group)
        # Steps kept by their number were not chosen for what happened in them.
        if (mine & regular).sum() >= LEAST:
            mine &= regular
        wanted = max(LEAST, round(most * count / max(1, len(able))))
        found.append(_evenly(np.flatnonzero(mine), wanted))
    return np.sort(np.concatenate([np.zeros(0, np.int64), *found]))


def _evenly(index: Ints, most: int) -> Ints:
    if len(index) <= most:
        return index
    return np.asarray(index[np.linspace(0, len(index) - 1, most).round().astype(int)])


def _whole_steps(run: Run, segment: Segment, events: Events) -> tuple[Ints, Floats]:
    """Kept steps that count, that all ranks have whole, and their mean lengths."""
    rows = events.outer[events.outer["kind"] == Kind.STEP]
    rows = rows[np.isin(rows["step"], events.kept)]
    step, place, count = np.unique(rows["step"], return_inverse=True, return_counts=True)
    length = np.bincount(place, rows["end_ns"] - rows["begin_ns"], minlength=len(step))
    whole = (count == events.world_size) & (step > 0)
    lost_from = run.lost_from(segment)
    if lost_from is not None:
        whole &= step < lost_from
    if whole.sum() > 1 and len(step):
        whole &= step != step.min()  # buffers, shapes and connections are made in the first one
    return step[whole].astype(np.int64), length[whole] / events.world_size


def _measure(run: Run, name: str, divided: Strata, index: Ints, length: Floats) -> Sample:
    layout, m = run.facts.layout, run.facts.micro_batches
    schedule, steps, events = schedule_name(run), divided.step[index], run.events[name]
    notes: list[str] = []
    try:
        exchanges = read_exchanges(run.path / "events" / name)
    except ExchangeError as error:
        exchanges = ()
        notes.append(str(error))
    alignment = align(events, layout, m, schedule, steps.tolist(), exchanges)
    rows = events.moved(alignment.clocks).spans(steps.tolist())
    rows = rows[rows["rank"] < layout.world]
    place = np.searchsorted(steps, rows["step"])
    passes = pass_times(rows, place, len(steps), layout, m)
    down, up = _messages(rows, steps, layout, m, schedule, notes)
    load, head = _loads(rows, place, len(steps), layout, m)
    return Sample(
        layout=layout,
        schedule=schedule,
        micro_batches=m,
        step=steps,
        group=divided.group[index],
        weight=np.ones(len(index)),
        usual=~divided.long[divided.group[index]],
        duration=length,
        own=passes.own,
        recompute=passes.recompute,
        joint=passes.joint,
        tensor=passes.tensor,
        down=down,
        up=up,
        load=load,
        head=head,
        gradient=_collective(rows, steps, layout, Kind.GRADIENT_REDUCE, notes),
        optimizer=_collective(rows, steps, layout, Kind.OPTIMIZER, notes),
        segments=(name,),
        strata=divided,
        alignments={name: alignment},
        notes=tuple(notes + passes.notes),
    )


def _messages(
    rows: Rows, steps: Ints, layout: Layout, m: int, schedule: str, notes: list[str]
) -> tuple[Floats, Floats]:
    """[n, S - 1, D, M]: transfers of activations and of gradients."""
    stage, data, _ = coordinates(layout)
    shape = (len(steps), max(0, layout.pipeline - 1), layout.data, m)
    tables = np.zeros(shape), np.zeros(shape)
    if layout.pipeline == 1:
        return tables
    found = transfers(rows, layout, m, schedule)
    if found.unmatched or len(found) < found.expected:
        notes.append(
            f"{len(found):,} of {found.expected:,} messages between stages were matched; the "
            "others count as taking no time"
        )
    place = np.searchsorted(steps, found.step)
    border = np.minimum(stage[found.sender], stage[found.receiver])
    for table, mine in ((tables[0], found.down), (tables[1], ~found.down)):
        where = (place[mine], border[mine], data[found.sender[mine]], found.micro_batch[mine])
        np.maximum.at(table, where, found.transfer[mine].astype(np.float64))
    return tables


def _loads(rows: Rows, place: Ints, n: int, layout: Layout, m: int) -> tuple[Floats, Floats]:
    """[n, S, D, M] and [n, S, D]: waits for data by micro-batch, and before the first one.

    A tensor group goes on when the last of it has its data.
    """
    stage, data, tensor = coordinates(layout)
    of_rank = np.zeros((n, layout.world, m + 1))
    mine = rows["kind"] == Kind.DATA_WAIT
    number = rows["micro_batch"][mine].astype(np.int64)
    rank = rows["rank"][mine]
    reads = (stage[rank] == 0) | (stage[rank] == layout.pipeline - 1)
    number = np.where((number >= 0) & (number < m) & reads, number, m)
    lasted = (rows["end_ns"] - rows["begin_ns"])[mine].astype(np.float64)
    np.add.at(of_rank, (place[mine], rank, number), lasted)
    table = np.zeros((n, layout.pipeline, layout.data, layout.tensor, m + 1))
    table[:, stage, data, tensor] = of_rank
    longest = table.max(axis=3)
    return longest[..., :m], longest[..., m]


def _collective(rows: Rows, steps: Ints, layout: Layout, kind: Kind, notes: list[str]) -> Floats:
    """[n, S, D]: from the last arrival to a rank's end; of its tensor group the longest."""
    stage, data, tensor = coordinates(layout)
    whole = np.zeros((len(steps), layout.world))
    if (layout.data if kind is Kind.GRADIENT_REDUCE else layout.world) == 1:
        # Nobody to wait for: all of it is the rank's own.
        mine = rows["kind"] == kind
        lasted = (rows["end_ns"] - rows["begin_ns"])[mine].astype(np.float64)
        np.add.at(whole, (np.searchsorted(steps, rows["step"][mine]), rows["rank"][mine]), lasted)
    else:
        found = collectives(rows, layout, kind)
        if found.unmatched:
            notes.append(
                f"{found.unmatched:,} spans of {kind.label} had no partners and count as no "
                "transfer"
            )
        place = np.searchsorted(steps, found.step)
        np.add.at(whole, (place[:, None], found.ranks), found.transfer.astype(np.float64))
    of_rank = np.zeros((len(steps), layout.pipeline, layout.data, layout.tensor))
    of_rank[:, stage, data, tensor] = whole
    return np.asarray(of_rank.max(axis=3))


def _joined(parts: Sequence[Sample], divided: Strata) -> Sample:
    order = np.argsort(np.concatenate([part.step for part in parts]), kind="stable")

    def column(name: str) -> npt.NDArray[Any]:
        return np.asarray(np.concatenate([getattr(part, name) for part in parts])[order])

    alignments: dict[str, Alignment] = {}
    notes: list[str] = []
    for part in parts:
        alignments |= part.alignments
        notes += part.notes
    arrays = (
        "step", "group", "usual", "duration", "own", "recompute", "joint", "tensor", "down", "up",
        "load", "head", "gradient", "optimizer",
    )  # fmt: skip
    order_of_all = np.argsort(divided.step, kind="stable")
    chosen = np.searchsorted(divided.step[order_of_all], column("step"))
    return Sample(
        layout=parts[0].layout,
        schedule=parts[0].schedule,
        micro_batches=parts[0].micro_batches,
        segments=tuple(name for part in parts for name in part.segments),
        strata=divided,
        alignments=alignments,
        notes=tuple(dict.fromkeys(notes)),
        weight=calibrated(divided.length[order_of_all], divided.group[order_of_all], chosen),
        **{name: column(name) for name in arrays},
    )
