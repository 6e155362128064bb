"""Where the time of all ranks went: from charged rank-seconds down to useful compute.

Every ns that was charged belongs to exactly one piece, so the pieces add up to the charge exactly
(integers throughout). What lies outside steps, and in steps compute and recomputation, is counted
(`charge`). The rest of the steps is waiting and transfer, and its causes come from replays of some
of the steps (`sample`, `causes`): what the schedule idles by itself, then what uneven stages, slow
ranks, jitter, messages and collectives add, each on top of those before it. Their proportions
divide the counted time. What the replays do not explain is a piece too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.bubble import ideal_bubble
from alpenglow_analysis.causes import CAUSES as REPLAYED
from alpenglow_analysis.charge import MEASURED, OUTSIDE, PART_OF_KIND, SegmentCharge, charge
from alpenglow_analysis.division import GroupShare, divide, whole
from alpenglow_analysis.run import Run
from alpenglow_analysis.study import Study, study
from alpenglow_profiling.events import Kind

PIECES: dict[str, str] = {
    "unused": "Charged nodes that ran no rank",
    "unrecorded": "Ranks that left no events",
    "launch": "Launch and shutdown, outside the record",
    "startup": "Start-up",
    "restart": "Reading a checkpoint to go on",
    "lost": "Steps lost at a restart",
    "checkpoint": "Checkpoint stalls",
    "evaluate": "Evaluation",
    "between": "Between steps",
    "waiting": "Waiting in steps, cause unknown",
    "data": "Waiting for data",
    "bubble": "Pipeline bubble of the schedule",
    "imbalance": "Waiting: uneven stages",
    "slow_ranks": "Waiting: slow ranks",
    "jitter": "Waiting: jitter",
    "p2p": "Transfer between stages",
    "tensor": "Transfer in tensor-parallel collectives",
    "gradient": "Transfer of gradients",
    "optimizer": "Optimizer",
    "unexplained": "In steps, unexplained",
    "recompute": "Recomputing activations",
    "compute": "Forward and backward compute",
}
"""Pieces of the charge in the order of the waterfall; the last is the useful one."""

CAUSES = tuple(name for name in PIECES if name in REPLAYED)
"""Pieces that waiting and transfer in steps are divided into. `unexplained` may be below 0."""

IN_STEP = tuple(MEASURED)
"""What the measured step of a rank is divided into, by kind of span."""
PIECE_OF_KIND: dict[Kind, str] = {**OUTSIDE, **PART_OF_KIND}
"""Where the time of a span is booked before it is divided by cause."""
LABELS: dict[str, str] = {**PIECES, **MEASURED}
"""Of what was measured: parts of a step, waiting included, and what lies outside steps."""


@dataclass(frozen=True)
class Account:
    """The account of a run."""

    pieces: dict[str, int]
    """ns of all charged ranks by piece, in the order of `PIECES`; they sum to `charged_ns`."""
    charged_ns: int
    """Sum over segments of charged nodes x ranks a node x elapsed time."""
    step_pieces: npt.NDArray[np.float64]
    """[ranks, len(IN_STEP)]: mean seconds of a kept step as measured."""
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
    segments: dict[str, dict[str, int]] = field(default_factory=dict)
    """`pieces` of each segment by its name; the waiting in steps is not divided there, it is
    `waiting`."""
    groups: tuple[GroupShare, ...] = ()
    """Causes of waiting by group of like steps."""
    notes: tuple[str, ...] = ()
    """What the numbers rest on, in sentences."""

    def share(self, *names: str) -> float:
        """Share of the charge that these pieces are together."""
        return sum(self.pieces[name] for name in names) / max(1, self.charged_ns)

    @property
    def losses(self) -> list[tuple[str, int]]:
        """Pieces other than useful compute, the biggest first."""
        items = [(name, ns) for name, ns in self.pieces.items() if name != "compute"]
        return sorted(items, key=lambda item: -item[1])

    def energy(self, joules: Mapping[str, float | None]) -> dict[str, float] | None:
        """MWh of each piece: the energy of each segment by the piece's share of its time.

        The ranks of a node are not told apart, nor waiting from computing, which draws more.

        Args:
            joules: energy of all nodes of each segment, by name; None where it was not sampled.

        Returns:
            MWh by piece, of the segments that were sampled; the causes of waiting in steps share it
            in proportion. None where no segment was.
        """
        known = {name: value for name, value in joules.items() if value is not None}
        if not known or not self.charged_ns:
            return None
        mwh = dict.fromkeys(self.pieces, 0.0)
        waited = sum(pieces["waiting"] for pieces in self.segments.values())
        for name, value in known.items():
            pieces = self.segments.get(name, {})
            whole = max(1, sum(pieces.values()))
            for piece, ns in pieces.items():
                if piece == "waiting" and waited:
                    for cause in ("waiting", *CAUSES):
                        mwh[cause] += value / 3.6e9 * ns / whole * self.pieces[cause] / waited
                else:
                    mwh[piece] += value / 3.6e9 * ns / whole
        return mwh


def account(run: Run, found: Study | None = None) -> Account:
    """Add up where the time of all ranks of a run went.

    Args:
        run: the run.
        found: its `study`, where it has been made already.
    """
    found = study(run) if found is None else found
    charges = {
        segment.name: charge(segment, run.events.get(segment.name), run.lost_from(segment))
        for segment in run.segments
    }
    by_segment = {name: _pieces(of) for name, of in charges.items()}
    pieces = {key: sum(each[key] for each in by_segment.values()) for key in PIECES}
    same = {name: of for name, of in charges.items() if len(of.count) == run.facts.ranks}
    step, duration, compute = _steps(list(same.values()))
    shares, notes = divide(list(same.values()), found)
    for cause, ns in whole(shares, sum(int(of.waiting.sum()) for of in same.values())).items():
        pieces[cause] += ns
        pieces["waiting"] -= ns
    parts = np.zeros((run.facts.ranks, len(IN_STEP)))
    count = np.zeros(run.facts.ranks, np.int64)
    for of in same.values():
        parts += of.parts
        count += of.count
    return Account(
        pieces=pieces,
        charged_ns=sum(of.charged for of in charges.values()),
        step_pieces=parts / np.maximum(1, count)[:, None] / 1e9,
        step=step,
        step_s=duration,
        compute_s=compute,
        bubble=ideal_bubble(run, run.facts.micro_batches),
        lost_steps=sum(of.lost_steps for of in charges.values()),
        segments=by_segment,
        groups=shares,
        notes=notes,
    )


def _pieces(found: SegmentCharge) -> dict[str, int]:
    """All pieces of a segment; waiting in steps is one of them."""
    pieces = dict.fromkeys(PIECES, 0) | found.pieces
    pieces["waiting"] = int(found.waiting.sum()) + found.untold
    pieces["recompute"] = int(found.recompute.sum())
    pieces["compute"] = int(found.compute.sum())
    return pieces


def _steps(
    charges: list[SegmentCharge],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Numbers of all kept steps, ascending; their length and compute in s, mean over ranks."""
    step = np.concatenate([np.zeros(0, np.int64), *(found.step for found in charges)])
    order = np.argsort(step, kind="stable")
    ranks = np.concatenate([np.zeros(0, np.int64), *(found.ranks for found in charges)])
    ranks = np.maximum(1, ranks)[order]
    duration, compute = (
        np.concatenate([np.zeros(0, np.int64), *columns])[order] / ranks / 1e9
        for columns in (
            [found.duration for found in charges],
            [found.compute for found in charges],
        )
    )
    return step[order], duration, compute
