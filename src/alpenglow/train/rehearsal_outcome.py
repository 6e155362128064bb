"""What a rehearsal measured, beside what the computed timeline says, and the table of both."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.timeline import Durations, bubble, timeline
from alpenglow_profiling.events import Rows
from alpenglow_profiling.passes import idle

if TYPE_CHECKING:
    from alpenglow.train.pacing import Case


@dataclass(frozen=True)
class Outcome:
    """What a rehearsal measured, beside what was computed."""

    schedule: str
    layout: Layout
    micro_batches: int
    message_s: float
    computed: float
    """Bubble of the schedule with the lengths asked for and the measured time of a message."""
    measured: float
    """Median over steps and replicas."""
    spread: tuple[float, float]
    computed_s: float
    measured_s: float
    """From the first pass to the last of a step, median."""


def measured_bubbles(rows: Rows, layout: Layout, first_step: int) -> list[tuple[float, float]]:
    """Bubble and length in seconds of each step from `first_step` on, replica by replica."""
    rows = rows[rows["step"] >= first_step]
    replica = np.array([layout.coordinates(rank)[1] for rank in range(layout.world)])
    return [
        idle(rows[(rows["step"] == step) & (replica[rows["rank"]] == data)], layout.pipeline)
        for step in np.unique(rows["step"])
        for data in range(layout.data)
    ]


def outcome(case: Case, rows: Rows, message_s: float) -> Outcome:
    """Compare a rehearsal that has been played with the computed timeline.

    Args:
        case: what was played.
        rows: its spans.
        message_s: the measured time of a message.
    """
    layout, count = case.layout, case.recipe.micro_batches(case.layout)
    took = dataclasses.replace(case.took, transfer=message_s)
    # The first step allocates buffers and exchanges shapes.
    steps = measured_bubbles(rows, layout, 2)
    slots = timeline(case.schedule, layout.pipeline, count, took)
    bubbles = [each for each, _ in steps]
    return Outcome(
        schedule=case.schedule,
        layout=layout,
        micro_batches=count,
        message_s=message_s,
        computed=bubble(case.schedule, layout.pipeline, count, took),
        measured=statistics.median(bubbles),
        spread=(min(bubbles), max(bubbles)),
        computed_s=max(slot.end for slot in slots),
        measured_s=statistics.median(length for _, length in steps),
    )


def table(outcomes: Sequence[Outcome], took: Durations) -> str:
    """The outcomes as lines of markdown."""
    lengths = (took.forward, took.backward_input, took.backward_weight)
    passes = ":".join(_milliseconds(each) for each in lengths)
    lines = [
        "| schedule | p | m | F:B:W (ms) | message (ms) | computed | measured | step, computed (s) "
        "| step, measured (s) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {o.schedule} | {o.layout.pipeline} | {o.micro_batches} | {passes} "
        f"| {1e3 * o.message_s:.2f} | {100 * o.computed:.1f} % "
        f"| {100 * o.measured:.1f} % ({100 * o.spread[0]:.1f} to {100 * o.spread[1]:.1f}) "
        f"| {o.computed_s:.3f} | {o.measured_s:.3f} |"
        for o in outcomes
    ]
    return "\n".join(lines) + "\n"


def _milliseconds(value: float | Sequence[float]) -> str:
    each = value if isinstance(value, Sequence) else [value]
    return ",".join(f"{1e3 * one:g}" for one in each)
