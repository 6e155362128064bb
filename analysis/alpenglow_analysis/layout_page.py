"""A search over layouts in words and tables: for the terminal, as a page, as JSON, as a recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from alpenglow.parallel.layout import stage_layers
from alpenglow_analysis.facts_table import moment
from alpenglow_analysis.page import Block, Card, Figure, Note, Page, Section, Sentences, Table
from alpenglow_analysis.planned_run import PlannedRun
from alpenglow_analysis.search import RESERVED, Choice, Search, room
from alpenglow_analysis.units import count, percent, seconds

FORMAT, VERSION = "alpenglow-layouts", 1


def row(choice: Choice) -> list[str]:
    """A layout's cells, in the order of `HEADS`."""
    layout, work, cost = choice.layout, choice.work, choice.cost
    return [
        f"PP{layout.pipeline} x TP{layout.tensor} x DP{layout.data}",
        f"{work.micro_batch_size} x {work.micro_batches}",
        work.schedule,
        f"{work.attention}, {work.recompute}" + (", seq. par." if work.sequence_parallel else ""),
        layout.order if layout.pipeline > 1 else "",
        seconds(cost.seconds),
        percent(cost.mfu),
        percent(cost.bubble / cost.seconds),
        f"{choice.memory.total / 1e9:.1f}",
    ]


HEADS = ["layout", "micro-batches", "schedule", "attention, recompute", "order", "step", "MFU",
         "bubble", "GB"]  # fmt: skip


def ranking(choices: Sequence[Choice]) -> Table:
    """The fastest layouts."""
    return Table(HEADS, [row(each) for each in choices], text=frozenset({2, 3, 4}))


def named_table(named: Sequence[tuple[str, Choice]]) -> Table:
    """A recipe's own layouts beside the best found."""
    best = named[-1][1]
    rows = [[name, *row(each), f"{each.seconds / best.seconds:.2f}"] for name, each in named]
    return Table(["", *HEADS, "of the best"], rows, text=frozenset({1, 3, 4, 5}))


def parts_table(named: Sequence[tuple[str, Choice]]) -> Table:
    """Seconds of a step part by part, a layout a column."""
    parts = [each.cost.parts() for _, each in named]
    rows = [[part, *(seconds(each[part]) for each in parts)] for part in parts[0]]
    rows.append(["step", *(seconds(each.seconds) for _, each in named)])
    return Table(["part", *(name for name, _ in named)], rows, sum=True)


def sizes_table(sizes: Sequence[tuple[PlannedRun, Choice | str]]) -> Table:
    """The best layout on several numbers of nodes."""
    rows = []
    for run, best in sizes:
        if isinstance(best, str):
            rows.append([f"{run.nodes:,}", f"{run.gpus:,}", "", "", "", "", best])
            continue
        rate = best.cost.tokens_per_second
        hours = best.seconds * run.nodes / 3600 / run.batch_tokens * 1e12
        rows.append([
            f"{run.nodes:,}", f"{run.gpus:,}", seconds(best.seconds), count(rate),
            percent(best.cost.mfu), f"{hours:,.0f}", str(best),
        ])  # fmt: skip
    heads = ["nodes", "GPUs", "step", "tokens/s", "MFU", "node-hours a trillion tokens", "layout"]
    return Table(heads, rows, text=frozenset({6}), wordy=True)


def headline(found: Search) -> str:
    """What was searched."""
    run = found.run
    return (
        f"{run.name} on {run.gpus:,} GPUs ({run.nodes:,} nodes) of {run.machine.name}, "
        f"{run.global_batch_size:,} sequences of {run.work.sequence_length:,} tokens a step, "
        f"{run.work.dtype}"
    )


def notes(found: Search) -> list[str]:
    """What a reader has to know."""
    run = found.run
    lines = [
        f"Predicted, nothing here was measured: a step is taken to be within "
        f"± {100 * run.error:.3g} % in nine of ten cases "
        + ("(machine file alone)." if run.calibration is None
           else f"(calibrated by {run.calibration.source})."),
        f"{percent(RESERVED)} of each GPU's memory is kept free for what the memory model leaves "
        f"out; {room(run) / 1e9:.1f} GB may be used.",
    ]  # fmt: skip
    lines += [f"{text}." for text in run.tuned[0].warnings]
    if found.found and not found.axes.any_trainer and not found.found[0].trained:
        lines.append(f"Another trainer could do better: {found.found[0]} (--any-trainer).")
    return lines


def recipe_lines(choice: Choice, run: PlannedRun) -> str:
    """The tables of a recipe that choose a layout, as TOML."""
    layout, work = choice.layout, choice.work
    even = tuple(stage_layers(run.model.num_layers, layout.pipeline))
    lines = [
        "[parallel]",
        f"pipeline = {layout.pipeline}",
        f"tensor = {layout.tensor}",
        f'schedule = "{work.schedule}"',
        f'order = "{layout.order}"',
        f'split = "{"even" if layout.layers in ((), even) else "balanced"}"',
        "",
        "[batch]",
        f"global_batch_size = {run.global_batch_size}",
        f"micro_batch_size = {work.micro_batch_size}",
        f"sequence_length = {work.sequence_length}",
        "",
        "[train]",
        f'attention = "{work.attention}"',
        f'recompute = "{work.recompute}"',
        f'loss = "{work.loss}"',
    ]
    return "\n".join(lines) + "\n"


def _plain(choice: Choice, run: PlannedRun) -> dict[str, Any]:
    layout, work, cost = choice.layout, choice.work, choice.cost
    even = tuple(stage_layers(run.model.num_layers, layout.pipeline))
    return {
        "pipeline": layout.pipeline,
        "tensor": layout.tensor,
        "data": layout.data,
        "order": layout.order,
        "layers": list(layout.layers_of(run.model.num_layers)),
        "split": "even" if layout.layers in ((), even) else "balanced",
        "micro_batch_size": work.micro_batch_size,
        "micro_batches": work.micro_batches,
        "schedule": work.schedule,
        "attention": work.attention,
        "recompute": work.recompute,
        "loss": work.loss,
        "sequence_parallel": work.sequence_parallel,
        "this_trainer": choice.trained,
        "seconds": cost.seconds,
        "tokens_per_second": cost.tokens_per_second,
        "mfu": cost.mfu,
        "hfu": cost.hfu,
        "parts": cost.parts(),
        "memory_bytes": choice.memory.total,
        "memory_parts": choice.memory.parts,
    }


def layouts_json(
    found: Search, named: Sequence[tuple[str, Choice]], told: Sequence[str], top: int
) -> str:
    """The same as JSON; `layouts` begins with the best."""
    run = found.run
    ranked = [found.best, *(each for each in found.found if each is not found.best)][:top]
    value = {
        "format": FORMAT,
        "version": VERSION,
        "predicted": True,
        "model": run.name,
        "machine": run.machine.name,
        "gpus": run.gpus,
        "nodes": run.nodes,
        "global_batch_size": run.global_batch_size,
        "sequence_length": run.work.sequence_length,
        "error": run.error,
        "lawful": found.lawful,
        "fit": len(found.found),
        "layouts": [_plain(each, run) for each in ranked],
        "pareto": [_plain(each, run) for each in found.front],
        "named": {name: _plain(each, run) for name, each in named},
        "reasons": list(told),
        "notes": notes(found),
    }
    return json.dumps(value, indent=1) + "\n"


def page(
    found: Search,
    named: Sequence[tuple[str, Choice]],
    sizes: Sequence[tuple[PlannedRun, Choice | str]],
    told: Sequence[str],
    figures: Sequence[Figure],
    top: int,
    now: float,
) -> Page:
    """All of it as a page.

    Args:
        found: the search.
        named: a recipe's layouts, the best found last.
        sizes: the best on other numbers of nodes.
        told: why the best is.
        figures: time against memory, then parts.
        top: layouts of the ranking.
        now: unix time.
    """
    best = found.best
    cards = [
        Card("Step", seconds(best.seconds), f"± {100 * found.run.error:.3g} %, predicted"),
        Card("Rate", f"{count(best.cost.tokens_per_second)} tokens/s",
             f"{best.cost.tokens_per_second / found.run.gpus:,.0f} a GPU"),
        Card("MFU", percent(best.cost.mfu), f"bubble {percent(best.cost.bubble / best.seconds)}"),
        Card("Memory", f"{best.memory.total / 1e9:.1f} GB",
             f"stage {best.memory.stage}, of {room(found.run) / 1e9:.1f} GB"),
    ]  # fmt: skip
    first: list[Block] = [named_table(named), *figures[:1]]
    first.append(Sentences(notes(found)))
    sections = [
        Section("best", "The best layout beside the recipe's own", first),
        Section("why", "Why it wins", [Sentences(list(told))]),
        Section("parts", "Where a step's time goes", [parts_table(named), *figures[1:]]),
        Section("ranking", f"The fastest of {len(found.found):,} layouts that fit",
                [ranking(found.found[:top])]),
        Section("front", "Less memory for more time",
                [ranking(found.front), Note("No other layout needs less of both.")]),
    ]  # fmt: skip
    if len(sizes) > 1:
        sections.append(Section("sizes", "On other numbers of nodes", [sizes_table(sizes)]))
    return Page(
        title="Layout",
        about="which layout is fastest, and why",
        subtitle=headline(found),
        cards=cards,
        losses=[],
        sections=sections,
        made=moment(now),
        source="All numbers are predictions of alpenglow.parallel.step_cost and memory from the "
        f"machine file of {found.run.machine.name}.",
    )
