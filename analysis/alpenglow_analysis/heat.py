"""How long every rank computed in every step, beside the ranks that do the same work.

Ranks of one pipeline stage do the same work in a step; what they compute, without what they wait
for, differs only where a device, a host or the sharing of one differs. Sums of every step say so,
so this needs no sampled spans, and nothing is said of who waits for whom: that is `stragglers.py`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.messages import coordinates
from alpenglow_analysis.run import Run
from alpenglow_profiling.events import Kind, StepSums

COMPUTE = (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT_GRAD, Kind.RECOMPUTE)


@dataclass(frozen=True)
class Heat:
    """Compute of each rank in each step, relative to its peers."""

    step: npt.NDArray[np.int64]
    """[steps]: those that count, ascending; of a step that was trained twice the last one."""
    ratio: npt.NDArray[np.float32]
    """[steps, ranks]: own compute / median of the peers; nan where nothing is known."""
    nodes: tuple[str, ...]
    """[ranks]: host of each rank in the last segment that has it."""
    against: str
    """What a rank is compared with, in words."""


def heat(run: Run) -> Heat | None:
    """Compare the compute of ranks; None where no step of the run's layout was recorded.

    A stage with a single rank has no peers: it is compared with its own median over the steps of
    the segment, which shows when it was slow and not whether it always was.
    """
    layout = run.facts.layout
    stage = coordinates(layout)[0]
    found: dict[int, npt.NDArray[np.float32]] = {}
    nodes = ["unknown"] * layout.world
    alone = layout.data * layout.tensor == 1
    for segment in run.segments:
        events = run.events.get(segment.name)
        if events is None or events.world_size != layout.world:
            continue
        for rank, node in events.nodes.items():
            nodes[rank] = node
        ratio = _ratio(_computed(events.sums), stage, alone=alone)
        lost_from = run.lost_from(segment)
        for step, row in zip(events.sums.step.tolist(), ratio, strict=True):
            if step > 0 and not (lost_from is not None and step >= lost_from):
                found[step] = row
    found = {step: row for step, row in found.items() if not np.isnan(row).all()}
    if not found:
        return None
    steps = sorted(found)
    against = (
        "its own median over the steps of the job, as its stage has no other rank"
        if alone
        else "the median of the ranks of its stage in the same step, of an even number the quicker"
    )
    table = np.array([found[step] for step in steps], dtype=np.float32)
    return Heat(np.array(steps, np.int64), table, tuple(nodes), against)


def _computed(sums: StepSums) -> npt.NDArray[np.float64]:
    """[steps, ranks]: ns of compute, nan where a rank told nothing of a step."""
    own = np.zeros(sums.own_ns.shape[:2], np.float64)
    for kind in COMPUTE:
        own += sums.own(kind)
    return np.where(own > 0, own, np.nan)


def _lower_median(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[steps]: of an even number the quicker of the two in the middle, so that half may be slow."""
    known = np.maximum(1, (~np.isnan(values)).sum(axis=1))
    middle = np.sort(values, axis=1)[np.arange(len(values)), (known - 1) // 2]
    return np.asarray(middle)


def _ratio(
    computed: npt.NDArray[np.float64], stage: npt.NDArray[np.int64], *, alone: bool
) -> npt.NDArray[np.float32]:
    """[steps, ranks]: relative to the peers, or to the rank's own median."""
    ratio = np.full(computed.shape, np.nan, np.float32)
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a median of nothing is nan, and meant
        if alone:
            ratio[:] = computed / np.nanmedian(computed, axis=0)
            return ratio
        for number in np.unique(stage):
            mine = stage == number
            beside = computed[:, mine] / _lower_median(computed[:, mine])[:, None]
            # Of a few ranks with noise the quicker middle one is below the usual; the usual rank,
            # in the mean over steps, is what counts as 1.
            usual = np.nanmean(beside, axis=0, keepdims=True)
            ratio[:, mine] = beside / _lower_median(usual)[:, None]
    return ratio
