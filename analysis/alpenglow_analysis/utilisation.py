"""Where the time of all ranks went: from charged rank-seconds down to useful compute.

Every ns that was charged belongs to exactly one piece, so the pieces add up to the charge exactly
(integers throughout). Inside a rank's record a moment belongs to the innermost span that is open:
a collective inside a forward pass is taken from the forward pass. A `drain` that runs beside
training counts only where nothing else goes on.

Waiting is booked where it happens. A stage that waits for its neighbour does so in `p2p`, so that
piece is bubble and transfer together; a stage that is done early waits in the gradient reduction or
in the optimizer's collectives. Telling waiting from moving bytes needs the clocks of the nodes
aligned, which is not done here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.bubble import ideal_bubble
from alpenglow_analysis.run import Run
from alpenglow_analysis.segment import Segment
from alpenglow_profiling.events import Events, Kind, Rows
from alpenglow_profiling.self_time import covered, self_times

Times = npt.NDArray[np.int64]

PIECES: dict[str, str] = {
    "unused": "Charged nodes that ran no rank",
    "unrecorded": "Ranks that left no events",
    "launch": "Launch and shutdown, outside the record",
    "startup": "Start-up and restart",
    "lost": "Steps lost at a restart",
    "checkpoint": "Checkpoints",
    "evaluate": "Evaluation",
    "between": "Between steps",
    "data": "Waiting for data",
    "pipeline": "Pipeline: bubble and transfer",
    "tensor": "Tensor-parallel collectives",
    "gradient": "Gradient reduction",
    "optimizer": "Optimizer",
    "inside": "Idle in a step, in no span",
    "recompute": "Recomputing activations",
    "compute": "Forward and backward compute",
}
"""Pieces of the charge in the order of the waterfall; the last is the useful one."""

PIECE_OF_KIND: dict[Kind, str] = {
    Kind.STARTUP: "startup",
    Kind.RESTART: "startup",
    Kind.DATA_WAIT: "data",
    Kind.FORWARD: "compute",
    Kind.RECOMPUTE: "recompute",
    Kind.BACKWARD: "compute",
    Kind.WEIGHT_GRAD: "compute",
    Kind.P2P: "pipeline",
    Kind.TENSOR_REDUCE: "tensor",
    Kind.GRADIENT_REDUCE: "gradient",
    Kind.OPTIMIZER: "optimizer",
    Kind.CHECKPOINT: "checkpoint",
    Kind.DRAIN: "checkpoint",
    Kind.EVALUATE: "evaluate",
    Kind.STEP: "inside",
}
IN_STEP = ("data", "pipeline", "tensor", "gradient", "optimizer", "inside", "recompute", "compute")
"""The pieces that a step is made of."""

_INDEX = {name: i for i, name in enumerate(PIECES)}
# By number of kind; a number that this code does not know counts as time in no span.
_PIECE_BY_NUMBER = np.full(256, _INDEX["inside"])
for _kind, _piece in PIECE_OF_KIND.items():
    _PIECE_BY_NUMBER[_kind] = _INDEX[_piece]
_OF_A_STEP = np.isin(_PIECE_BY_NUMBER, [_INDEX[name] for name in IN_STEP])


@dataclass(frozen=True)
class Account:
    """The account of a run."""

    pieces: dict[str, int]
    """ns of all charged ranks by piece, in the order of `PIECES`; they sum to `charged_ns`."""
    charged_ns: int
    """Sum over segments of charged nodes x ranks a node x elapsed time."""
    step_pieces: npt.NDArray[np.float64]
    """[ranks, len(IN_STEP)]: mean seconds of a kept step."""
    step: npt.NDArray[np.int64]
    """[kept steps]: their numbers, ascending."""
    step_s: npt.NDArray[np.float64]
    """[kept steps]: duration of each whole step that counts, the mean over ranks."""
    compute_s: npt.NDArray[np.float64]
    """[kept steps]: forward and backward compute, mean over ranks."""
    bubble: float
    """Share of a step that the schedule idles with equal stages and free communication."""
    lost_steps: int
    """Steps that were trained and given up at a restart."""

    def share(self, *names: str) -> float:
        """Share of the charge that these pieces are together."""
        return sum(self.pieces[name] for name in names) / max(1, self.charged_ns)

    @property
    def losses(self) -> list[tuple[str, int]]:
        """Pieces other than useful compute, the biggest first."""
        items = [(name, ns) for name, ns in self.pieces.items() if name != "compute"]
        return sorted(items, key=lambda item: -item[1])


@dataclass
class _Steps:
    """What the kept steps of all ranks add up to, by rank."""

    pieces: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    duration: dict[int, list[int]]
    compute: dict[int, list[int]]


def account(run: Run) -> Account:
    """Add up where the time of all ranks of a run went."""
    ranks = run.facts.ranks
    totals = np.zeros(len(PIECES), np.int64)
    steps = _Steps(np.zeros((ranks, len(PIECES)), np.int64), np.zeros(ranks, np.int64), {}, {})
    charged = lost_steps = 0
    for segment in run.segments:
        charged += segment.slots * segment.elapsed_ns
        lost_from = run.lost_from(segment)
        events = run.events.get(segment.name)
        totals += _segment(segment, events, lost_from, steps)
        if events is not None and lost_from is not None:
            done = np.unique(events.rows["step"][events.rows["kind"] == Kind.STEP])
            lost_steps += int((done >= lost_from).sum())
    order = sorted(steps.duration)
    columns = [_INDEX[name] for name in IN_STEP]
    return Account(
        pieces={name: int(totals[i]) for name, i in _INDEX.items()},
        charged_ns=charged,
        step_pieces=steps.pieces[:, columns] / np.maximum(1, steps.count)[:, None] / 1e9,
        step=np.array(order, dtype=np.int64),
        step_s=np.array([np.mean(steps.duration[step]) for step in order]) / 1e9,
        compute_s=np.array([np.mean(steps.compute[step]) for step in order]) / 1e9,
        bubble=ideal_bubble(run, run.facts.micro_batches),
        lost_steps=lost_steps,
    )


def _segment(
    segment: Segment, events: Events | None, lost_from: int | None, steps: _Steps
) -> Times:
    """Pieces of one segment; they sum to its charge."""
    total = np.zeros(len(PIECES), np.int64)
    elapsed = segment.elapsed_ns
    begin = segment.begin_ns
    with_events = 0
    if events is not None and len(events.rows):
        rows = events.rows[np.argsort(events.rows["rank"], kind="stable")]
        # A segment of another shape: its time counts, its steps are not comparable.
        comparable = steps if events.world_size == len(steps.count) else None
        borders = np.flatnonzero(np.diff(rows["rank"])) + 1
        for of_rank in np.split(rows, borders)[: segment.slots]:
            total += _rank(of_rank, (begin, begin + elapsed), lost_from, comparable)
            with_events += 1
    silent = max(0, min(segment.ranks, segment.slots) - with_events)
    total[_INDEX["unrecorded"]] += silent * elapsed
    total[_INDEX["unused"]] += (segment.slots - with_events - silent) * elapsed
    return total


def _rank(
    rows: Rows, window: tuple[int, int], lost_from: int | None, steps: _Steps | None
) -> Times:
    """Pieces of one rank of one segment; they sum to the window, which is what was charged."""
    rows = rows.copy()
    rows["begin_ns"] = np.clip(rows["begin_ns"], *window)
    rows["end_ns"] = np.clip(rows["end_ns"], *window)
    rows = rows[rows["end_ns"] > rows["begin_ns"]]
    pieces = np.zeros(len(PIECES), np.int64)
    if not len(rows):
        pieces[_INDEX["launch"]] = window[1] - window[0]
        return pieces
    rows, own = self_times(rows)
    piece = _PIECE_BY_NUMBER[rows["kind"]]
    whole = rows["kind"] == Kind.STEP
    in_step = covered(rows, rows[whole])
    if lost_from is not None:
        # The kind decides, not the place: the step that a kill cut short has no row of its own.
        given_up = (rows["step"] >= lost_from) & _OF_A_STEP[rows["kind"]]
        piece[given_up] = _INDEX["lost"]
        in_step &= ~given_up
        whole &= ~given_up
    np.add.at(pieces, piece, own)
    if steps is not None:
        _keep_steps(rows, own, piece, in_step | whole, steps)
    record = int(rows["end_ns"].max()) - int(rows["begin_ns"].min())
    pieces[_INDEX["between"]] += record - int(own.sum())
    pieces[_INDEX["launch"]] += window[1] - window[0] - record
    return pieces


def _keep_steps(
    rows: Rows, own: Times, piece: npt.NDArray[np.int64], mine: npt.NDArray[np.bool_], steps: _Steps
) -> None:
    """Add the whole, kept steps of one rank of one segment to the run's."""
    rank = int(rows["rank"][0])
    np.add.at(steps.pieces[rank], piece[mine], own[mine])
    whole = mine & (rows["kind"] == Kind.STEP)
    steps.count[rank] += int(whole.sum())
    numbers, place = np.unique(rows["step"][mine], return_inverse=True)
    useful = np.zeros(len(numbers), np.int64)
    mine_useful = piece[mine] == _INDEX["compute"]
    np.add.at(useful, place[mine_useful], own[mine][mine_useful])
    duration = np.zeros(len(numbers), np.int64)
    lasted = (rows["end_ns"] - rows["begin_ns"])[whole]
    np.add.at(duration, np.searchsorted(numbers, rows["step"][whole]), lasted)
    for number, lasted_ns, useful_ns in zip(
        numbers.tolist(), duration.tolist(), useful.tolist(), strict=True
    ):
        steps.duration.setdefault(number, []).append(lasted_ns)
        steps.compute.setdefault(number, []).append(useful_ns)
