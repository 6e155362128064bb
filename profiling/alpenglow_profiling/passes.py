"""Forward, backward and weight passes of a step: how long, and how idle the stages between them."""

from __future__ import annotations

import numpy as np

from alpenglow_profiling.kind import Kind, Rows

PASSES = (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT_GRAD)
"""Kinds in which a stage works on a micro-batch."""


def idle(rows: Rows, stages: int) -> tuple[float, float]:
    """Measure the bubble of one step.

    Args:
        rows: spans of one step, one rank a stage (or one kind of clock, at least).
        stages: number of stages.

    Returns:
        The share of the stages' time, from the first pass to the last of them all, that lies in no
        pass; and that time in seconds. (0, 0) without a pass.
    """
    passes = rows[np.isin(rows["kind"], PASSES)]
    if not len(passes):
        return 0.0, 0.0
    length = int(passes["end_ns"].max() - passes["begin_ns"].min())
    busy = int((passes["end_ns"] - passes["begin_ns"]).sum())
    return 1 - busy / (stages * length), length / 1e9


def mean_lengths(rows: Rows) -> dict[Kind, float]:
    """Mean seconds of a pass of each kind; 0 of a kind that does not occur."""
    lengths = (rows["end_ns"] - rows["begin_ns"]) / 1e9
    return {
        kind: float(lengths[rows["kind"] == kind].mean()) if (rows["kind"] == kind).any() else 0.0
        for kind in PASSES
    }
