"""Rehearsals predicted: what a message costs is learnt from one case, the others follow from it.

Torch-free. In a rehearsal a pass only waits, so it needs no core; what needs one is the message,
at both ends, and ranks whose messages meet share the computer's cores. That is played event by
event (alpenglow.parallel.shared_cores) along the schedule's own lists. One number is free: seconds
of a core that each end of a message needs. It is set so that one case takes as long as it did: the
first under ZB-H1, whose short bubble hangs on it most, else the first. No other case is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.replay import program
from alpenglow.parallel.shared_cores import Meet, Task, Wait, play
from alpenglow.parallel.timeline import Durations
from alpenglow.train.rehearsal_outcome import Outcome

LARGEST_S = 0.1
"""A message needs no more of a core than that."""
HALVINGS = 30


@dataclass(frozen=True)
class Played:
    """A step of a rehearsal, as it was played."""

    seconds: float
    """From the first pass to the last."""
    idle: float
    """Share of all ranks' time in which no pass is under way."""


def play_rehearsal(
    schedule: str, layout: Layout, micro_batches: int, took: Durations, message_s: float, cores: int
) -> Played:
    """Play one step.

    Args:
        schedule: its name.
        layout: pipeline and data degrees.
        micro_batches: a replica's.
        took: lengths of the passes; its `transfer` is not used.
        message_s: seconds of a core that each end of a message needs.
        cores: that all ranks share.
    """
    ranks: list[list[Task]] = [[] for _ in range(layout.world)]
    busy, begins, ends = 0.0, [], []
    for event in program(schedule, layout.pipeline, micro_batches):
        for data in range(layout.data):
            own = layout.rank(event.stage, data, 0)
            if event.other < 0:
                length = took.of(event.action, event.stage)
                ranks[own].append(Wait(length, "pass"))
                busy += length
            else:
                pair = (own, layout.rank(event.other, data, 0))
                for rank in pair:
                    ranks[rank].append(Meet((event, data), pair, message_s))

    def noted(rank: int, task: Task, came: float, began: float, end: float) -> None:
        if task.label is not None:
            begins.append(began)
            ends.append(end)

    play(ranks, cores, noted=noted)
    seconds = max(ends) - min(begins)
    return Played(seconds, 1 - busy / (layout.world * seconds))


def message_seconds(outcome: Outcome, took: Durations, cores: int) -> float:
    """Seconds of a core with which a case takes as long as it was measured; 0 where none do."""
    low, high = 0.0, LARGEST_S
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        played = play_rehearsal(
            outcome.schedule, outcome.layout, outcome.micro_batches, took, middle, cores
        )
        if played.seconds < outcome.measured_s:
            low = middle
        else:
            high = middle
    return low


def learnt_from(outcomes: Sequence[Outcome]) -> Outcome:
    """The case that says what a message costs."""
    return next((each for each in outcomes if each.schedule == "zb-h1"), outcomes[0])


def prediction_table(outcomes: Sequence[Outcome], took: Durations, cores: int | None = None) -> str:
    """Every case predicted from one, beside what it measured, as lines of markdown.

    Args:
        outcomes: of all cases.
        took: lengths of their passes.
        cores: that the ranks shared; None: those of this process.
    """
    cores = cores or len(os.sched_getaffinity(0))
    source = learnt_from(outcomes)
    message_s = message_seconds(source, took, cores)
    lines = [
        f"Each end of a message needs {1e3 * message_s:.2f} ms of one of {cores} cores, by "
        f"{source.schedule} on {source.layout.pipeline} x {source.layout.data} ranks with "
        f"{source.micro_batches} micro-batches; every other row is predicted from that.",
        "",
        "| schedule | p | d | m | step, predicted (s) | measured (s) | error | idle, predicted "
        "| measured | error |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        played = play_rehearsal(
            each.schedule, each.layout, each.micro_batches, took, message_s, cores
        )
        mark = " (learnt from)" if each is source else ""
        lines.append(
            f"| {each.schedule}{mark} | {each.layout.pipeline} | {each.layout.data} "
            f"| {each.micro_batches} | {played.seconds:.3f} | {each.measured_s:.3f} "
            f"| {played.seconds / each.measured_s - 1:+.1%} | {played.idle:.1%} "
            f"| {each.measured:.1%} | {played.idle / each.measured - 1:+.1%} |"
        )
    return "\n".join(lines) + "\n"
