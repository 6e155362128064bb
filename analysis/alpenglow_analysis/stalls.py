"""Checkpoints and evaluations that took much longer than the others of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alpenglow_analysis.run import Run
from alpenglow_profiling.events import Kind

KINDS = (Kind.CHECKPOINT, Kind.EVALUATE)
UNUSUAL = 2.0
"""Times the median length."""
LEAST_NS = 10**9
"""An excess below a second is not worth a name."""


@dataclass(frozen=True)
class Stall:
    """One that stood out."""

    kind: Kind
    step: int
    segment: str
    ns: int
    """Length, the mean over ranks."""
    excess_ns: int
    """ns of all ranks beyond the median of its kind."""


def stalls(run: Run) -> list[Stall]:
    """Find them, the one that cost most first. Of a kind that occurs once nothing is unusual."""
    seen: dict[Kind, list[tuple[str, int, float, int]]] = {kind: [] for kind in KINDS}
    for segment in run.segments:
        events = run.events.get(segment.name)
        if events is None:
            continue
        for kind in KINDS:
            rows = events.outer[events.outer["kind"] == kind]
            steps, place, ranks = np.unique(rows["step"], return_inverse=True, return_counts=True)
            total = np.bincount(place, rows["end_ns"] - rows["begin_ns"], minlength=len(steps))
            for step, ns, count in zip(steps.tolist(), total.tolist(), ranks.tolist(), strict=True):
                seen[kind].append((segment.name, step, ns / count, count))
    found = []
    for kind, all_of_it in seen.items():
        if len(all_of_it) < 2:
            continue
        usual = float(np.median([ns for _, _, ns, _ in all_of_it]))
        for name, step, ns, count in all_of_it:
            if ns > UNUSUAL * usual and ns - usual > LEAST_NS:
                found.append(Stall(kind, step, name, round(ns), round((ns - usual) * count)))
    return sorted(found, key=lambda stall: -stall.excess_ns)
