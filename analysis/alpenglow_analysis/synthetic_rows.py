"""Spans and sums of synthetic steps, as the recorders of all ranks would have kept them.

Nothing is held longer than it is needed: of each block of steps the sums stay, as dense arrays, and
begin and end of the spans of kept steps. A node's tables are made when its file is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.schedule import Action
from alpenglow_analysis.synthetic_steps import Part, Played, StepModel
from alpenglow_analysis.synthetic_work import Times
from alpenglow_profiling.kind import ACTIVATION, GRADIENT, ROW, SUM, Kind, Rows, Sums

_PASSES = {
    Action.forward: Kind.FORWARD,
    Action.backward: Kind.BACKWARD,
    Action.backward_input: Kind.BACKWARD,
    Action.backward_weight: Kind.WEIGHT_GRAD,
}
KINDS = (
    Kind.DATA_WAIT,
    Kind.FORWARD,
    Kind.RECOMPUTE,
    Kind.BACKWARD,
    Kind.WEIGHT_GRAD,
    Kind.P2P,
    Kind.TENSOR_REDUCE,
    Kind.GRADIENT_REDUCE,
    Kind.OPTIMIZER,
    Kind.STEP,
)
"""Kinds that have sums, by number."""
_PLACE = {kind: i for i, kind in enumerate(KINDS)}
_DRIFT_BITS = 30
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class NodeClocks:
    """CLOCK_MONOTONIC of every node: off by a constant, and by more as time goes on."""

    offset: Times
    """[nodes]: ns to add to true time at the segment's begin."""
    drift: Times
    """[nodes]: relative error of speed, in 2^-30."""
    origin: int
    """True time at which the drift has done nothing yet, in ns."""

    def at(self, true: Times, node: Times) -> Times:
        """What the clocks of some nodes show at some moments; arrays that broadcast."""
        shown = true + self.offset[node]
        if self.drift.any():
            shown += ((true - self.origin) * self.drift[node]) >> _DRIFT_BITS
        return np.asarray(shown)


@dataclass(frozen=True)
class Line:
    """One span of each step of a stage, whatever its time."""

    kind: Kind
    micro_batch: int = -1
    bytes: int = -1
    other: int = -1
    """The stage at the other end of a message."""
    inside: int = -1
    """Place of the line that holds it."""
    moves: int = -1
    """What a message carries: `ACTIVATION` or `GRADIENT`."""


@dataclass
class StageSpans:
    """Spans of the ranks of one stage in kept steps, a block after the other."""

    lines: list[Line]
    begin: list[Times] = field(default_factory=list)
    """[lines, tensor, steps, data] each, on the clocks of the nodes."""
    end: list[Times] = field(default_factory=list)
    count: Times = field(default_factory=lambda: np.zeros(len(KINDS), np.int64))
    """[kinds]: spans of a rank in a step."""
    bytes: Times = field(default_factory=lambda: np.zeros(len(KINDS), np.int64))


@dataclass
class Recorded:
    """What the ranks of one segment recorded of their steps."""

    model: StepModel
    clocks: NodeClocks
    own_ns: Times
    """[ranks, steps, kinds]"""
    step: Times
    """[steps]: numbers."""
    stages: list[StageSpans] = field(default_factory=list)
    kept: list[Times] = field(default_factory=list)
    """Step numbers of the spans, a block after the other."""
    begin: list[Times] = field(default_factory=list)
    """[steps]: true begin of steps, a block after the other."""
    length: list[Times] = field(default_factory=list)

    @classmethod
    def empty(cls, model: StepModel, clocks: NodeClocks, first: int, last: int) -> Recorded:
        """A record of so many steps, to which blocks are added in order."""
        steps = np.arange(first, last + 1)
        own = np.zeros((model.ranks, len(steps), len(KINDS)), np.int64)
        return cls(model, clocks, own, steps)

    def add(self, block: Played, begin: Times, kept: npt.NDArray[np.bool_]) -> None:
        """Add a block of steps.

        Args:
            block: played.
            begin: [steps], when each of them began, true time in ns.
            kept: [steps], whether its spans are kept.
        """
        place = slice(int(block.work.step[0] - self.step[0]), None)
        place = slice(place.start, place.start + len(begin))
        for stage in range(self.model.layout.pipeline):
            lines, spans = _spans(self.model, block, stage)
            if len(self.stages) == stage:
                self.stages.append(_stage(lines))
            node = self.model.seats.node[stage][:, None]
            moved = [self.clocks.at(times + begin[:, None], node) for times in spans]
            self.own_ns[self.model.seats.rank[stage], place] = _own(lines, *moved)
            if kept.any():
                self.stages[stage].begin.append(moved[0][:, :, kept])
                self.stages[stage].end.append(moved[1][:, :, kept])
        self.kept.append(block.work.step[kept])
        self.begin.append(begin)
        self.length.append(block.length)

    def rows(self, rank: int) -> Rows:
        """Spans of a rank in kept steps, STEP included; unsorted."""
        if not self.stages:
            return np.empty(0, ROW)
        layout = self.model.layout
        stage, data, tensor = layout.coordinates(rank)
        spans = self.stages[stage]
        step = np.concatenate(self.kept)
        rows = np.empty((len(spans.lines), len(step)), ROW)
        rows["rank"], rows["step"] = rank, step
        for name, parts in (("begin_ns", spans.begin), ("end_ns", spans.end)):
            chosen = [part[:, tensor, :, data] for part in parts]
            rows[name] = np.concatenate(chosen, axis=1) if chosen else 0
        group = stage * layout.data + data
        for row, line in zip(rows, spans.lines, strict=True):
            row["kind"], row["micro_batch"], row["bytes"] = line.kind, line.micro_batch, line.bytes
            row["group"] = group if line.kind is Kind.TENSOR_REDUCE else line.moves
            row["peer"] = layout.rank(line.other, data, tensor) if line.other >= 0 else -1
        return np.asarray(rows.ravel())

    def steps(self, rank: int) -> Rows:
        """The STEP spans of a rank, kept or not."""
        node = self.model.seats.node.ravel()[self.model.seats.rank.ravel() == rank]
        begin, length = (np.concatenate([_NONE, *part]) for part in (self.begin, self.length))
        rows = np.empty(len(begin), ROW)
        rows["rank"], rows["step"], rows["kind"] = rank, self.step, Kind.STEP
        rows["begin_ns"] = self.clocks.at(begin, node)
        rows["end_ns"] = self.clocks.at(begin + length, node)
        for name in ("micro_batch", "bytes", "group", "peer"):
            rows[name] = -1
        return rows

    def sums(self, ranks: list[int]) -> Sums:
        """Sums of some ranks, sorted by step, rank, kind."""
        if not self.stages:
            return np.empty(0, SUM)
        stage = [self.model.layout.coordinates(rank)[0] for rank in ranks]
        count = np.stack([self.stages[s].count for s in stage])
        nbytes = np.stack([self.stages[s].bytes for s in stage])
        shape = (len(self.step), len(ranks), len(KINDS))
        there = np.broadcast_to(count > 0, shape)
        found = np.empty(int(there.sum()), SUM)
        found["own_ns"] = self.own_ns[ranks].transpose(1, 0, 2)[there]
        columns = {
            "rank": np.array(ranks)[:, None],
            "step": self.step[:, None, None],
            "kind": np.array(KINDS),
            "count": count,
            "bytes": nbytes,
        }
        for name, values in columns.items():
            found[name] = np.broadcast_to(values, shape)[there]
        return found


def _stage(lines: list[Line]) -> StageSpans:
    made = StageSpans(lines)
    for line in lines:
        made.count[_PLACE[line.kind]] += 1
        made.bytes[_PLACE[line.kind]] += max(line.bytes, 0)
    return made


def _own(lines: list[Line], begin: Times, end: Times) -> Times:
    """[tensor, data, steps, kinds]: time of each kind in no span inside; of STEP, in no other."""
    length = end - begin
    own = np.zeros((len(KINDS), *length.shape[1:]), np.int64)
    for i, line in enumerate(lines):
        own[_PLACE[line.kind]] += length[i]
        if line.inside >= 0:
            own[_PLACE[lines[line.inside].kind]] -= length[i]
    return own.transpose(1, 3, 2, 0)


class _Spans:
    """What a stage records of a block of steps; see `_spans`."""

    def __init__(self, model: StepModel, block: Played, stage: int) -> None:
        self.model, self.block, self.stage = model, block, stage
        self.lines: list[Line] = []
        most = 5 + 4 * len(block.parts[stage])
        shape = (most, model.layout.tensor, len(block.length), model.layout.data)
        self.begin, self.end = np.empty(shape, np.int64), np.empty(shape, np.int64)

    def add(self, line: Line, begin: Times | int, end: Times | int) -> int:
        """Add a span of each step; times broadcast to [tensor, steps, data]."""
        place = len(self.lines)
        self.begin[place], self.end[place] = begin, end
        self.lines.append(line)
        return place

    def step(self) -> None:
        """Add everything in a step."""
        model, block = self.model, self.block
        whole = self.add(Line(Kind.STEP), 0, block.length[:, None])
        if model.data_wait:
            self.add(Line(Kind.DATA_WAIT, inside=whole), 0, model.data_wait)
        for part in block.parts[self.stage]:
            stage, other = part.event.stage, part.event.other
            if other < 0:
                self.compute(part, whole)
                continue
            other = stage if other == self.stage else other
            moves = ACTIVATION if part.event.action is Action.send_activation else GRADIENT
            k, size = part.event.micro_batch, model.message_bytes
            self.add(Line(Kind.P2P, k, size, other, whole, moves), part.begin, part.end)
        done = block.parts[self.stage][-1].end
        reduced = block.reduced[self.stage][:, :, None]
        self.add(Line(Kind.GRADIENT_REDUCE, -1, model.gradient_bytes, -1, whole), done, reduced)
        self.add(Line(Kind.OPTIMIZER, inside=whole), reduced, block.updated[:, None])

    def compute(self, part: Part, whole: int) -> None:
        """Add a pass, and what lies before and inside it."""
        model, action, k = self.model, part.event.action, part.event.micro_batch
        took = self.block.took[action][self.stage, k]
        begin: Times = part.begin
        if action is Action.forward and self.stage in (0, model.layout.pipeline - 1):
            load = self.block.load[0 if self.stage == 0 else 1, k]
            if model.reads:
                self.add(Line(Kind.DATA_WAIT, k, inside=whole), begin, begin + load)
            begin = begin + load
        kind = _PASSES[action]
        outer = self.add(Line(kind, k, inside=whole), begin, part.end)
        if kind is Kind.BACKWARD and model.recompute:
            # What chance makes longer is the whole pass, what is done again included.
            share = model.recompute / (model.backward - self._meeting)
            again = np.rint(took * share).astype(np.int64)
            self.add(Line(Kind.RECOMPUTE, inside=outer), begin, begin + again)
        if self._meeting and kind is not Kind.WEIGHT_GRAD:
            line = Line(Kind.TENSOR_REDUCE, -1, model.message_bytes, inside=outer)
            self.add(line, begin + took, part.end)

    @property
    def _meeting(self) -> int:
        return self.model.tensor_reduce if self.model.layout.tensor > 1 else 0


def _spans(model: StepModel, block: Played, stage: int) -> tuple[list[Line], tuple[Times, Times]]:
    """What a stage records of a block of steps.

    Returns:
        The lines, and begin and end of each: [lines, tensor, steps, data], true ns since the step
        began.
    """
    spans = _Spans(model, block, stage)
    spans.step()
    size = len(spans.lines)
    return spans.lines, (spans.begin[:size], spans.end[:size])
