"""The share of a step that a run's schedule idles by itself: equal stages, free messages."""

from __future__ import annotations

from alpenglow.parallel.schedule import SCHEDULES, bubble_fraction
from alpenglow.parallel.timeline import Durations, bubble
from alpenglow_analysis.run import Run
from alpenglow_profiling.events import Kind

MOST_MICRO_BATCHES = 512
"""Beyond so many the bubble of a schedule that has no formula is left out: it is all but none."""


def schedule_name(run: Run) -> str:
    """Name the schedule of a run, by its recipe; 1F1B where that says nothing this code knows."""
    name = run.facts.recipe.get("parallel", {}).get("schedule", "1f1b")
    return name if name in SCHEDULES else "1f1b"


def ideal_bubble(run: Run, micro_batches: int) -> float:
    """Bubble of the run's schedule with so many micro-batches a step.

    1F1B has a formula. Others are placed in time with passes as long as this run's are in the mean.
    """
    stages, name = run.facts.layout.pipeline, schedule_name(run)
    took = mean_passes(run)
    lengths = None
    if all(took.get(kind) for kind in (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT_GRAD)):
        lengths = Durations(took[Kind.FORWARD], took[Kind.BACKWARD], took[Kind.WEIGHT_GRAD])
    return schedule_bubble(name, stages, micro_batches, lengths)


def schedule_bubble(
    schedule: str, stages: int, micro_batches: int, lengths: Durations | None = None
) -> float:
    """Bubble of a schedule by itself; `lengths` of its passes, where they are not all equal.

    1F1B and GPipe have a formula, (p - 1) / (m + p - 1). Others are placed in time.
    """
    if schedule in ("1f1b", "gpipe") or stages == 1:
        return bubble_fraction(stages, micro_batches)
    if micro_batches > MOST_MICRO_BATCHES:
        return 0.0
    return bubble(schedule, stages, micro_batches, lengths, rendezvous=False)


def mean_passes(run: Run) -> dict[Kind, float]:
    """Mean ns of a pass of each kind over all steps: no collectives, but recomputation."""
    own, count = dict.fromkeys(Kind, 0), dict.fromkeys(Kind, 0)
    for events in run.events.values():
        for column, kind in enumerate(events.sums.kinds):
            own[kind] += int(events.sums.own_ns[:, :, column].sum())
            count[kind] += int(events.sums.count[:, :, column].sum())
    own[Kind.BACKWARD] += own[Kind.RECOMPUTE]
    passes = (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT_GRAD)
    return {kind: own[kind] / count[kind] if count[kind] else 0.0 for kind in passes}


def in_words(run: Run, micro_batches: int) -> str:
    """The bubble as a term: a formula with its value, or how it was found."""
    p, m = run.facts.layout.pipeline, micro_batches
    share = f"{100 * ideal_bubble(run, m):.1f} %"
    if schedule_name(run) in ("1f1b", "gpipe"):
        return f"(p - 1) / (m + p - 1) = {p - 1}/{m + p - 1} = {share}"
    return f"{share} (placed in time, with passes as long as this run's)"
