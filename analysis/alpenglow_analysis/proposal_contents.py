"""Which sections a proposal has, and what stands in each."""

from __future__ import annotations

import time

import numpy as np

from alpenglow_analysis.campaign_outcome import DEFINITIONS, percentiles
from alpenglow_analysis.campaign_sources import inputs
from alpenglow_analysis.document import Block, Document, Grid, Items, Paragraph, Part, Picture
from alpenglow_analysis.facts_table import moment
from alpenglow_analysis.marked import MARKS, Blank, Line, Name, Value, line, say
from alpenglow_analysis.proposal import Proposal
from alpenglow_analysis.proposal_calendar import calendar_blocks
from alpenglow_analysis.proposal_needs import memory_blocks, size, storage_blocks
from alpenglow_analysis.proposal_performance import (
    performance_blocks,
    series_grid,
    step_error,
    step_source,
    validation_blocks,
)
from alpenglow_analysis.proposal_queue import queue_blocks
from alpenglow_analysis.proposal_readiness import (
    application,
    faults,
    input_output,
    mark_of,
    node_use,
    recipe_words,
    source_words,
    state,
    study_words,
)
from alpenglow_analysis.proposal_request import PERCENTILE
from alpenglow_analysis.proposal_risk import risk_blocks
from alpenglow_analysis.units import billions


def contents(own: Proposal, figures: set[str]) -> Document:
    """Put a proposal into words.

    Args:
        own: what is known.
        figures: names of those that were drawn.
    """
    readiness = [
        Part("application", "Application and its parallelism", application(own), sub=True),
        Part("nodes", "Use of the nodes", node_use(own), sub=True),
        Part("performance", "Performance", performance_blocks(own.chosen), sub=True),
        Part("scaling", "Strong and weak scaling", scaling(own), sub=True),
        Part("validation", "How sure the predictions are", validation_blocks(), sub=True),
        Part("io", "Input, output and checkpoints", input_output(own), sub=True),
        Part("faults", "Fault tolerance", faults(own), sub=True),
        Part("state", "Development state", state(own), sub=True),
    ]
    parts = [
        Part("summary", "Summary", summary(own)),
        Part("significance", "Significance", [Paragraph(line(Blank(
            "the scientific question, why it takes a model of this size, and who uses it")))]),
        Part("readiness", "Computational readiness", [Paragraph(line(
            "This part is put together from files, predictions and simulations. Brackets mark what "
            "a person has to write."))]),
        *readiness,
        Part("request", "Request", request(own)),
        Part("memory", "Memory", memory_blocks(own.chosen)),
        Part("storage", "Storage", storage_blocks(own.chosen, own.outcome, own.storage)),
        Part("queue", "Fit to the queue",
             queue_blocks(own.machine, own.outcome, own.request, own.effects)),
        Part("risks", "Risks", risk_blocks(own.chosen, own.outcomes, own.request,
                                           own.effects, step_error(own.chosen))),
        Part("calendar", "Calendar", calendar_blocks(own.calendar, own.program)),
        Part("inputs", "Inputs of the campaign simulation", campaign_inputs(own)),
    ]  # fmt: skip
    drawn = [
        Part(p.key, p.title,
             [b for b in p.blocks if not isinstance(b, Picture) or b.name in figures], p.sub)
        for p in parts
    ]  # fmt: skip
    return Document(
        title=own.title,
        subtitle=say(
            "Proposal for an allocation of {hours} node-hours on {machine}.",
            hours=_total(own),
            machine=own.machine.name.capitalize(),
        ),
        parts=drawn,
        made=moment(time.time()),
        banner=own.banner,
    )


def _total(own: Proposal) -> Value:
    return Value(f"{own.request.total:,.1f}", "P", "computed: the lines of the request added up",
                 own.request.total)  # fmt: skip


def summary(own: Proposal) -> list[Block]:
    """The first table, and what the marks mean."""
    chosen, plan, outcome = own.chosen, own.plan, own.outcome
    cost, recipe = chosen.cost, recipe_words(own)
    many = f"{len(outcome):,} simulated campaigns, seed {own.seed}"

    def spread(values: object, unit: str) -> Value:
        low, middle, high = percentiles(np.asarray(values))
        word = unit.removesuffix("s") if middle == 1 else unit
        text = f"{middle:,.3g} {word} ({low:,.3g} to {high:,.3g})"
        return Value(text, "P", f"median, 10 and 90 % of {many}", middle)

    model = Value(billions(chosen.run.model.parameters()), "P",
                  "computed: alpenglow.model.config, from the sizes")  # fmt: skip
    rows = [
        ("Model", say("{name}: {many} parameters", name=_named(own), many=model)),
        ("Training", say("{tokens} tokens in {steps} steps of {batch} tokens",
                         tokens=Value(billions(plan.work.tokens), "S", "--tokens"),
                         steps=Value(f"{plan.work.steps:,}", "P", "computed: tokens over a step's"),
                         batch=Value(f"{chosen.run.batch_tokens:,}", "S", recipe))),
        ("Machine", say("{nodes} nodes and {gpus} GPUs of {machine}",
                        nodes=Value(f"{plan.job.nodes:,}", "S", "--nodes"),
                        gpus=Value(f"{plan.job.gpus:,}", "P", "computed: nodes x GPUs of a node"),
                        machine=own.machine.name.capitalize())),
        ("A step", say("{step} {error}, {rate} tokens/s, MFU {mfu}",
                       step=Value(f"{cost.seconds:.3g} s", "P", step_source(chosen), cost.seconds),
                       error=step_error(chosen),
                       rate=Value(f"{cost.tokens_per_second:,.0f}", "P", step_source(chosen)),
                       mfu=Value(f"{100 * cost.mfu:.3g} %", "P", step_source(chosen), cost.mfu))),
        ("Calendar", say("{days}, of them {queue} in the queue",
                         days=spread(outcome.days, "days"),
                         queue=spread(outcome.queue_days, "days"))),
        ("Jobs", say("{jobs}, with {failures}", jobs=spread(outcome.segments, "jobs"),
                     failures=spread(outcome.failures, "failures"))),
        ("Effective training time", line(Value(
            f"{100 * float(np.median(outcome.effective_training_time)):.1f} %", "P",
            f"median of {many}; {DEFINITIONS['effective_training_time'][1]}"))),
        ("Request", say("{base} node-hours and {more} of contingency: {total}",
                        base=Value(f"{own.request.base:,.1f}", "P",
                                   "computed: lines of the request"),
                        more=Value(f"{own.request.contingency:,.1f}", "P",
                                   "computed: contingency of the request"),
                        total=_total(own))),
        ("Storage", say("{bytes} in {files} files",
                        bytes=Value(size(own.storage.total), "P", "computed: table of storage",
                                    own.storage.total),
                        files=Value(f"{own.storage.files:,}", "P", "computed: table of storage"))),
    ]  # fmt: skip
    if outcome.dollars is not None and plan.price is not None:
        value = own.request.total * plan.price
        rows.append(("Cost", say("{dollars} dollars", dollars=Value(
            f"{value:,.0f}", "P", f"computed: the request x {plan.price:g} dollars a node-hour "
            f"({own.sources.get('price', 'given')})", value))))  # fmt: skip
    grid = Grid(say("The proposal in short."), ["", ""],
                [[line(what), cells] for what, cells in rows], wide={0: 0.22, 1: 0.7})  # fmt: skip
    legend = joined_marks()
    people = Blank("principal investigator, institutions, program and period")
    return [Paragraph(line(people)), grid, Paragraph(legend)]


def joined_marks() -> Line:
    """What the letters behind numbers mean."""
    words = "; ".join(f"{mark} {text}" for mark, text in MARKS.items())
    return say("The letter behind a number says what it is: {words}. Its note names the source.",
               words=words)  # fmt: skip


def _named(own: Proposal) -> Line:
    name = own.chosen.run.name
    return line(Name(name)) if "=" in name else line(name)


def scaling(own: Proposal) -> list[Block]:
    """Both series in OLCF's form."""
    told = line("No scaling study was given: strong and weak series are predicted.")
    if own.study is not None:
        told = study_words(own, own.study)
    blocks: list[Block] = [Paragraph(told)]
    for kind, title in (("strong", "Strong scaling"), ("weak", "Weak scaling")):
        found = [each for each in own.series if each.kind == kind]
        blocks.append(
            Picture(kind, f"{title}: time to solution and efficiency over ranks", say(
                f"{title}: time to solution, actual and ideal, and parallel efficiency. "
                "Filled: the study. Open: predicted. Dotted: ideal of the first point."))
        )  # fmt: skip
        blocks += [series_grid(each, title) for each in found]
    return blocks


def request(own: Proposal) -> list[Block]:
    """The lines, their sum, and what the contingency is."""
    asked = own.request
    rows = []
    for row in sorted(asked.rows, key=lambda each: each.contingency):
        source = "computed: runs x nodes x hours of the line"
        rows.append([
            line(row.what), line(row.runs), line(row.nodes), line(row.hours),
            line(Value(f"{row.node_hours:,.1f}", "P", source, row.node_hours)), row.why,
        ])  # fmt: skip
    split = sum(not row.contingency for row in asked.rows)
    summed = "computed: the lines above added up"

    def total(what: str, value: float) -> list[Line]:
        return [line(what), Line(), Line(), Line(),
                line(Value(f"{value:,.1f}", "P", summed, value)), Line()]  # fmt: skip

    rows.insert(split, total("Without contingency", asked.base))
    rows.append(total("Contingency", asked.contingency))
    rows.append(total("Request", asked.total))
    sums = frozenset({split, len(rows) - 2, len(rows) - 1})
    kinds = Value(f"{PERCENTILE} %", "A", "this project's choice: what nine of ten campaigns need")
    return [
        Paragraph(say("Node-hours are nodes asked for x elapsed time, idle and failed time "
                      "included. Hours are whole tenths, rounded up, so each line is its product "
                      "and the sum is exact.")),
        Grid(say("Request."), ["what", "runs", "nodes", "hours", "node-hours", "why"], rows,
             wide={0: 0.19, 5: 0.36}, sums=sums),
        Picture("request", "Lines of the request as bars", say("The request by lines.")),
        Paragraph(say("Contingency is no share on top. Waiting in the queue is not charged and has "
                      "no line. The production run and its two lines of contingency together are "
                      "what {share} of simulated campaigns stay within.", share=kinds)),
        Picture("campaign", "Days and node-hours of simulated campaigns",
                say("Left: share of simulated campaigns that are over by a day. Right: mean share "
                    "of node-hours that is no step that counts.")),
        Picture("choices", "What each choice changes, as bars",
                say("The production run with one thing changed at a time, simulated with the same "
                    "failures and the same queue.")),
    ]  # fmt: skip


def campaign_inputs(own: Proposal) -> list[Block]:
    """What the simulation was given."""
    rows = [
        [
            line(label.replace("90 %", "nine-in-ten")),
            line(Value(text, mark_of(source), source_words(own, source))),
        ]
        for label, text, source in inputs(own.plan, own.sources)
    ]
    blocks: list[Block] = [
        Grid(say("Inputs; the note of each is its source."), ["input", "value"], rows,
             wide={0: 0.35, 1: 0.55})
    ]  # fmt: skip
    if own.impossible:
        left = [say("Not simulated: {text}", text=Value(text, "P", "the rules of the plan"))
                for text in own.impossible]  # fmt: skip
        blocks.append(Items(left))
    return blocks
