"""Risks of a proposal: what may happen, how likely, what it costs in node-hours, what is done."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alpenglow_analysis.campaign_choices import Effect
from alpenglow_analysis.chosen_layout import Chosen
from alpenglow_analysis.document import Block, Grid, Paragraph
from alpenglow_analysis.marked import Line, Mark, Name, Value, line, say
from alpenglow_analysis.proposal_request import Outcomes, Request
from alpenglow_analysis.units import seconds
from alpenglow_lsf.chain import RESTARTS

Cells = tuple[str, Line, Line, Line]


def risk_blocks(
    chosen: Chosen,
    outcomes: Outcomes,
    request: Request,
    effects: Sequence[Effect],
    error: Value,
) -> list[Block]:
    """The table of risks.

    Args:
        chosen: model and layout.
        outcomes: of the production run.
        request: whose contingency covers some of it.
        effects: the usual choices, simulated.
        error: of the predicted step.
    """
    rows = [
        _failures(outcomes, request),
        _slower(outcomes, request, error),
        *_from_choices(effects),
        _spike(chosen, outcomes),
        *_memory(chosen, effects),
        _purge(),
    ]
    caption = say("Risks. Costs are of the median campaign beside the plan; what lies within the "
                  "contingency of the request says so.")  # fmt: skip
    grid = Grid(
        caption, ["what", "how likely", "costs", "what is done"],
        [[line(what), likely, cost, done] for what, likely, cost, done in rows],
        wide={0: 0.17, 1: 0.24, 2: 0.2, 3: 0.3},
    )  # fmt: skip
    return [
        Paragraph(say("No row is from this application on this machine unless it is marked as "
                      "measured.")),
        grid,
    ]  # fmt: skip


def _node_hours(value: float, source: str, mark: Mark = "P") -> Value:
    text = f"{value:+,.0f} node-hours".replace("-", "−", 1) if value < 0 else ""
    return Value(text or f"{value:,.0f} node-hours", mark, source, value)


def _failures(outcomes: Outcomes, request: Request) -> Cells:
    full, plan = outcomes.full, outcomes.full.campaign
    mean = plan.mean_time_s
    many = f"{len(full):,} simulated campaigns"
    if mean is None:
        return ("A node or GPU fails", line("left out by --failure-gpu-hours none"),
                line("not estimated"), _chain(outcomes))  # fmt: skip
    rate = Value(f"one in {mean / 3600:.3g} h", "P",
                 "computed: GPU-hours for a failure over the GPUs")  # fmt: skip
    count = Value(f"{np.median(full.failures):.0f}", "P", f"median of {many}")
    return (
        "A node or GPU fails",
        say("{rate} of the running job; {count} in the run", rate=rate, count=count),
        say("{cost}, in the contingency",
            cost=_covered(request, "failures", "Failures and lost work")),
        _chain(outcomes),
    )  # fmt: skip


def _chain(outcomes: Outcomes) -> Line:
    plan = outcomes.full.campaign
    most = int(np.percentile(outcomes.full.failed_jobs, 95))
    every = Value(seconds(plan.interval_s), "P", "computed: Daly 2006, by the trainer's rule")
    text = "The next job is in the queue before a job starts; checkpoints every {every}"
    named = {"every": every}
    if most > RESTARTS:
        text += "; {option} {many}, as a chain forgives {few} by itself"
        named["many"] = Value(f"{most}", "P", "95 % of simulated campaigns")
        named["few"] = Value(f"{RESTARTS}", "S", "alpenglow_lsf.chain: RESTARTS")
        return say(text, option=Name("--restarts"), **named)
    return say(text, **named)


def _covered(request: Request, key: str, line: str) -> Value:
    """What the contingency has for a risk."""
    found = [row.node_hours for row in request.rows if row.key == key]
    return _node_hours(sum(found), f"computed: the request's line '{line}'")


def _slower(outcomes: Outcomes, request: Request, error: Value) -> Cells:
    plan = outcomes.full.campaign
    cost = plan.work.step_error * float(outcomes.calm.node_hours[0])
    return (
        "Steps are slower than predicted",
        say("within {error} in nine of ten cases", error=error),
        say("{cost} at the end of that interval; the contingency has {line}",
            cost=_node_hours(cost, "computed: that share of the run without failures"),
            line=_covered(request, "spread", "Step error and bad luck")),
        say("Calibration and scaling study come first; the plan is made again with {option}",
            option=Name("--calibration")),
    )  # fmt: skip


CHOICES = {
    "Queue": ("x 2", "The queue is twice as long",
              "no site's waits are published: the plan's are assumed", "Jobs chain; no waiting is "
              "charged; waits of past jobs replace the assumption by"),
    "Failures": ("x 2", "Failures come twice as often",
                 "the rate is another machine's", "As for failures; segment records give the rate "
                 "after a few days"),
    "Clustered failures": ("", "Failures come in clusters",
                           "seen on other systems (Schroeder and Gibson)", "A pre-flight of every "
                           "node at job start leaves failing ones out"),
    "Slow nodes": ("", "A node is slow for hours", "no rate is published; assumed in the choice",
                   "Slow ranks are named while the job runs; the pre-flight leaves slow nodes out"),
}  # fmt: skip
"""Group of a choice -> which of it, what, how likely, what is done."""


def _from_choices(effects: Sequence[Effect]) -> list[Cells]:
    rows = []
    for group, (end, what, likely, done) in CHOICES.items():
        found = [e for e in effects if e.choice.group == group and e.choice.label.endswith(end)]
        if not found:
            continue
        each = found[0]
        source = f"campaign simulation, choice '{each.choice.label}'"
        if each.choice.note:
            source += f" ({each.choice.note})"
        days = Value(f"{each.days:.2g} days", "P", source, each.days)
        cost = say("{more} and {days}", more=_node_hours(each.node_hours, source), days=days)
        told = (
            say(done + " {option}", option=Name("--wait-runs")) if group == "Queue" else say(done)
        )
        rows.append((what, say(likely), cost, told))
    return rows


def _spike(chosen: Chosen, outcomes: Outcomes) -> Cells:
    plan, recipe = outcomes.full.campaign, chosen.run.recipe
    every = recipe.train.keep_every if recipe and recipe.train.keep_every else 0
    steps = min(every, plan.work.steps) if every else 0
    cost = line("not estimated")
    if steps:
        value = steps * plan.work.step_s * plan.job.nodes / 3600
        source = f"computed: {steps:,} steps (train.keep_every)"
        cost = say("{cost} to go back to the kept checkpoint before",
                   cost=_node_hours(value, source))  # fmt: skip
    return (
        "The loss spikes or diverges",
        say("published runs of this kind report spikes; no rate is taken from them"),
        cost,
        say("Spikes and non-finite gradients are told as they happen; batches can be skipped, "
            "and going back is a person's decision"),
    )  # fmt: skip


def _memory(chosen: Chosen, effects: Sequence[Effect]) -> list[Cells]:
    worst = max(chosen.cost.memory, key=lambda stage: stage.total)
    room = chosen.cost.hardware.memory_bytes
    left = Value(f"{100 * (1 - worst.total / room):.0f} %", "P",
                 "alpenglow.parallel.memory: what the fullest stage leaves free")  # fmt: skip
    found = [e for e in effects if e.choice.group == "Schedule"]
    cost = line("not estimated")
    if found:
        source = f"campaign simulation, choice '{found[0].choice.label}'"
        cost = say("{cost} with {name} instead", cost=_node_hours(found[0].node_hours, source),
                   name=Name(found[0].choice.label))  # fmt: skip
    return [(
        "The layout does not fit a GPU after all",
        say("{left} of the fullest GPU are free by a model that is a lower bound", left=left),
        cost,
        say("The calibration runs a replica; other schedules and recomputation need less"),
    )]  # fmt: skip


def _purge() -> Cells:
    return (
        "A purge takes shards or checkpoints",
        say("where a chain waits longer than unread files may stay"),
        say("the data preparation once more, at most; in the contingency"),
        say("Archives as files are made; checksums tell whether they came back whole"),
    )
