"""Simulated steps in words and tables: for the terminal, as a page, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from alpenglow.parallel.disturbance import ASSUMED, Jitter
from alpenglow.parallel.slowdown import Cost, Slowdown
from alpenglow.parallel.step_cost import StepCost
from alpenglow_analysis.columns import laid
from alpenglow_analysis.facts_table import moment
from alpenglow_analysis.page import (
    Block,
    Card,
    Figure,
    Note,
    Page,
    Section,
    Sentences,
    Table,
    Terms,
)
from alpenglow_analysis.planned_run import PlannedRun
from alpenglow_analysis.quantity import plain
from alpenglow_analysis.simulate_figure import word
from alpenglow_analysis.units import amount, count, percent, seconds

FORMAT, VERSION = "alpenglow-simulation", 1
PERCENTILES = (5, 50, 95)
WORDS = [
    ("S", "mean simulated step over the undisturbed one; 1 - 1/S of the GPUs' time is lost"),
    ("GPUs lost", "N x (1 - undisturbed / simulated): so many fewer undisturbed GPUs would do"),
    ("alone", "nothing else disturbs"),
    ("one replica", "of `alone`, what a replica loses by itself, the mean over replicas"),
    ("meeting", "the rest of `alone`: all wait for the slowest replica, stage and rank"),
    ("added", "on top of the disturbances above it; these sum to the whole"),
    ("if cured", "what the step would gain without this one, all others there"),
    ("idle", "share of the time in which a GPU is neither in a pass, its tensor collectives "
             "included, nor in the optimizer"),
    ("allocation", "slow nodes, GPUs and links stay the same in all steps of one"),
]  # fmt: skip


def headline(run: PlannedRun, cost: StepCost) -> str:
    """What was simulated, in one line."""
    layout, work = cost.layout, cost.work
    return (
        f"{run.name} on {run.gpus:,} GPUs of {run.machine.name}: PP{layout.pipeline} x "
        f"TP{layout.tensor} x DP{layout.data} ({layout.order}), {work.micro_batches} micro-batches "
        f"of {work.micro_batch_size}, {work.schedule}, recompute {work.recompute}, {work.dtype}"
    )


def results(cost: StepCost, found: Slowdown) -> Table:
    """The step as predicted, undisturbed and simulated."""
    got, world = found.together, cost.layout.world
    spans = [seconds(value) for value in got.percentiles(PERCENTILES)]
    rows = [
        ["predicted (cost of a step)", seconds(cost.seconds)],
        ["undisturbed", seconds(got.undisturbed)],
        ["simulated, mean", seconds(got.mean)],
        [f"{', '.join(map(str, PERCENTILES))} % of steps within", ", ".join(spans)],
        ["mean of an allocation, 5 to 95 %", " to ".join(map(seconds, _allocations(found)))],
        ["S", f"{got.slowdown:.4f}"],
        ["lost", f"{amount(got.equivalents)} of {world:,} GPUs, {percent(got.lost)}"],
        ["tokens/s, undisturbed and simulated",
         f"{count(cost.tokens / got.undisturbed)}, {count(cost.tokens / got.mean)}"],
        ["idle, undisturbed and simulated", f"{percent(found.plain.idle)}, {percent(got.idle)}"],
    ]  # fmt: skip
    return Table(["simulated", ""], rows, text=frozenset({1}))


def _allocations(found: Slowdown) -> tuple[float, float]:
    got = found.together
    means = [
        float(got.seconds[got.allocation == a].mean()) for a in np.unique(got.allocation).tolist()
    ]
    low, high = np.percentile(means, [5, 95]).tolist()
    return low, high


def disturbances(found: Slowdown) -> Table:
    """What each costs."""
    heads = [
        "disturbance", "alone", "GPUs", "one replica", "meeting", "added", "GPUs", "if cured",
        "source",
    ]  # fmt: skip
    rows = [
        [
            str(cost.disturbance), _part(cost.alone, found.plain.mean), amount(found.alone(cost)),
            _part(cost.of_one, found.plain.mean), _part(cost.of_meeting, found.plain.mean),
            _part(cost.added, found.plain.mean), amount(found.equivalents(cost.added)),
            _part(-cost.cured, found.together.mean), cost.disturbance.source,
        ]
        for cost in found.costs
    ]  # fmt: skip
    total = found.together.mean - found.plain.mean
    rows.append(
        ["together", "", "", "", "", _part(total, found.plain.mean),
         amount(found.together.equivalents), "", ""]
    )  # fmt: skip
    return Table(heads, rows, sum=True, text=frozenset({8}))


def _part(value: float, of: float) -> str:
    sign = "" if value < 0 else "+"
    return sign + percent(value / of) if abs(value) > 1e-9 * of else "0"


def stages(found: Slowdown) -> Table:
    """Idle share by stage."""
    rows = [
        [str(stage), percent(before), percent(after)]
        for stage, (before, after) in enumerate(
            zip(
                found.plain.idle_by_stage.tolist(),
                found.together.idle_by_stage.tolist(),
                strict=True,
            )
        )
    ]
    return Table(["stage", "idle, undisturbed", "idle, simulated"], rows)


def notes(run: PlannedRun, cost: StepCost, found: Slowdown) -> list[str]:
    """What a reader has to know, in sentences; the weightiest first."""
    got = found.together
    lines = [line for each in found.costs for line in _expected(found, each)]
    if not found.costs:
        lines.append(
            "Nothing disturbs this job: name what does by --jitter, --slow-nodes, --slow-gpus, "
            "--slow-links, --hiccups, or take it from a measured run by --from."
        )
    off = got.undisturbed / cost.seconds - 1
    if abs(off) > 1e-6:
        lines.append(
            f"The undisturbed step is {percent(abs(off))} {'longer' if off > 0 else 'shorter'} "
            "than the predicted one, which takes a closed form for so deep a pipeline; S is "
            "against the simulated one."
        )
    if any(one.disturbance.source == ASSUMED for one in found.costs):
        lines.append(
            "Strengths that are assumed are no measurement: --from RUN takes them from a run."
        )
    lines.append(
        f"The predicted step is +-{percent(run.error)} in nine of ten; S does not need it."
    )
    if not cost.fits:
        lines.append("This layout does not fit the GPUs' memory: see alpenglow plan step.")
    return [*lines, *(f"{warning}." for warning in cost.warnings)]


def _expected(found: Slowdown, cost: Cost) -> list[str]:
    """Why jitter costs what it costs."""
    if not isinstance(cost.disturbance, Jitter) or cost.alone <= 0:
        return []
    job, base = found.together.job, found.plain.mean
    passes = job.layout.pipeline * job.turns * job.actions
    return [
        f"Why {percent(cost.disturbance.cv)} of jitter on a pass cost {percent(cost.alone / base)} "
        f"of a step: a replica by itself, in which {passes:,} passes of "
        f"{'tensor groups' if job.layout.tensor > 1 else 'ranks'} wait for one another, loses "
        f"{percent(cost.of_one / base)}; that all {job.layout.data:,} replicas wait for the "
        f"slowest adds {percent(cost.of_meeting / base)}."
    ]


def text(run: PlannedRun, cost: StepCost, found: Slowdown) -> str:
    """All of it for a terminal."""
    parts = [headline(run, cost), "", laid(results(cost, found)), ""]
    if found.costs:
        parts += [laid(disturbances(found)), ""]
    parts += [laid(stages(found)), ""]
    return "\n".join([*parts, *notes(run, cost, found)]) + "\n"


def page(
    run: PlannedRun, cost: StepCost, found: Slowdown, figures: Sequence[Figure], now: float
) -> Page:
    """All of it as a page.

    Args:
        run: what was planned.
        cost: the predicted step.
        found: the simulated one.
        figures: as drawn.
        now: unix time.
    """
    got = found.together
    low, _, high = got.percentiles(PERCENTILES)
    cards = [
        Card("Step", seconds(got.mean), f"{seconds(low)} to {seconds(high)} in 90 % of steps"),
        Card(
            "Slowdown S", f"{got.slowdown:.3f}", f"against {seconds(got.undisturbed)} undisturbed"
        ),
        Card("GPUs lost", amount(got.equivalents), f"of {got.job.layout.world:,} to disturbances"),
        Card("Idle", percent(got.idle), f"{percent(found.plain.idle)} undisturbed"),
    ]
    first: list[Block] = [results(cost, found), *figures, Sentences(notes(run, cost, found))]
    sections = [Section("results", f"{len(got.seconds):,} simulated steps", first)]
    if found.costs:
        note = Note("Shares of the undisturbed step; `if cured` of the simulated one.")
        sections.append(
            Section("disturbances", "What each disturbance costs", [disturbances(found), note])
        )
    sections.append(Section("stages", "Idle time by stage", [stages(found)]))
    sections.append(Section("words", "Words", [Terms(WORDS)]))
    return Page(
        title="Simulated steps",
        about="what unequal ranks cost",
        subtitle=headline(run, cost),
        cards=cards,
        losses=[],
        sections=sections,
        made=moment(now),
        source="All numbers are predictions; nothing here was measured but what its source says.",
    )


def simulation_json(run: PlannedRun, cost: StepCost, found: Slowdown, seed: int) -> str:
    """The same as JSON; times in seconds."""
    got = found.together
    value: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "predicted": True,
        "what": headline(run, cost),
        "seed": seed,
        "steps": len(got.seconds),
        "gpus": got.job.layout.world,
        "predicted_s": plain(cost.seconds),
        "undisturbed_s": plain(got.undisturbed),
        "mean_s": plain(got.mean),
        **{f"p{p}_s": v for p, v in zip(PERCENTILES, got.percentiles(PERCENTILES), strict=True)},
        "slowdown": plain(got.slowdown),
        "gpus_lost": plain(got.equivalents),
        "idle": {"undisturbed": plain(found.plain.idle), "simulated": plain(got.idle)},
        "idle_by_stage": {
            "undisturbed": found.plain.idle_by_stage.tolist(),
            "simulated": got.idle_by_stage.tolist(),
        },
        "disturbances": [
            {
                "key": each.disturbance.key,
                "name": word(each),
                "what": str(each.disturbance),
                "source": each.disturbance.source,
                "alone_s": plain(each.alone),
                "of_one_replica_s": plain(each.of_one),
                "of_meeting_s": plain(each.of_meeting),
                "added_s": plain(each.added),
                "cured_s": plain(each.cured),
                "gpus_alone": plain(found.alone(each)),
                "gpus_added": plain(found.equivalents(each.added)),
            }
            for each in found.costs
        ],
        "seconds": got.seconds.tolist(),
        "definitions": dict(WORDS),
        "notes": notes(run, cost, found),
    }
    return json.dumps(value, indent=1) + "\n"
