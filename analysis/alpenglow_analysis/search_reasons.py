"""Why a layout wins: beside each neighbour that differs in one axis, in sentences with numbers.

A neighbour has another pipeline, tensor or micro-batch size (data parallelism and micro-batches
follow), schedule, attention, recompute or axis order, and all else equal. Where it fits, what it
gains and loses part by part is told; where it does not, how much memory is missing and for what.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.memory import StageMemory, worst_stage
from alpenglow.parallel.step_cost import StepCost
from alpenglow.parallel.work import Work
from alpenglow_analysis.planned_run import PlannedRun
from alpenglow_analysis.search import Axes, Choice, Search, room, space
from alpenglow_analysis.units import percent, seconds

AXES = ("pipeline", "tensor", "micro-batch", "schedule", "attention", "recompute", "order", "split")
CLOSE = 0.02
"""Layouts of which one is better by less are not told apart: repeats of one layout differ by as
much, and rows of one published table by more (alpenglow.parallel.validation)."""
SHARE = 0.002
"""Parts that change by less than this share of the step are not told."""


@dataclass(frozen=True)
class Neighbour:
    """A layout that differs from the winner in one axis."""

    axis: str
    value: str
    cost: StepCost
    memory: StageMemory
    fits: bool


def axes_of(layout: Layout, work: Work) -> dict[str, Any]:
    """Value of each axis."""
    return {
        "pipeline": layout.pipeline,
        "tensor": layout.tensor,
        "micro-batch": work.micro_batch_size,
        "schedule": work.schedule,
        "attention": work.attention,
        "recompute": work.recompute,
        "order": layout.order,
        "split": layout.layers,
    }


def neighbours(found: Search, of: Choice | None = None) -> list[Neighbour]:
    """One for each other value of each axis, the fastest of each; also those that do not fit."""
    best = of or found.best
    mine = axes_of(best.layout, best.work)
    rows: dict[tuple[str, Any], Neighbour] = {}
    for layout, work in _candidates(found.run, best, found.axes.any_trainer):
        theirs = axes_of(layout, work)
        differ = [a for a in AXES if theirs[a] != mine[a]]
        # Another pipeline has other splits; its best one stands for it.
        if "pipeline" in differ:
            differ = [a for a in differ if a != "split"]
        if len(differ) != 1:
            continue
        (axis,) = differ
        memory = worst_stage(found.run.model, layout, work)
        fits = memory.total <= room(found.run)
        cost = found.run.cost(layout, work)
        before = rows.get((axis, theirs[axis]))
        if before is None or (fits, -cost.seconds) > (before.fits, -before.cost.seconds):
            rows[axis, theirs[axis]] = Neighbour(
                axis, _word(axis, theirs[axis]), cost, memory, fits
            )
    order = {axis: i for i, axis in enumerate(AXES)}
    return sorted(rows.values(), key=lambda n: (order[n.axis], n.cost.seconds))


def _candidates(run: PlannedRun, best: Choice, any_trainer: bool) -> Iterator[tuple[Layout, Work]]:
    mine = axes_of(best.layout, best.work)
    fixed = {
        "pipeline": (mine["pipeline"],), "tensor": (mine["tensor"],),
        "micro_batch": (mine["micro-batch"],), "schedule": (mine["schedule"],),
        "attention": (mine["attention"],), "recompute": (mine["recompute"],),
    }  # fmt: skip
    for name in fixed:
        axes = Axes(any_trainer=any_trainer, **{k: v for k, v in fixed.items() if k != name})
        for layout, work in space(run, axes):
            yield replace(layout, order=best.layout.order), work
    other = "data-major" if best.layout.order == "pipe-major" else "pipe-major"
    if best.layout.pipeline > 1 and best.layout.data > 1:
        yield replace(best.layout, order=other), best.work  # type: ignore[arg-type]


def _word(axis: str, value: Any) -> str:
    if axis == "split":
        return f"layers {' '.join(map(str, value))}"
    if axis in ("pipeline", "tensor"):
        return f"{axis} {value}"
    if axis == "micro-batch":
        return f"micro-batches of {value}"
    if axis == "recompute":
        return {"none": "nothing computed again", "selective": "the attention core computed again",
                "full": "whole layers computed again"}[value]  # fmt: skip
    return f"{value} attention" if axis == "attention" else str(value)


def sentences(found: Search, of: Choice | None = None) -> list[str]:
    """Why the winner wins, the closest rivals first."""
    best = of or found.best
    lines = [_summary(found, best)]
    near = neighbours(found, best)
    for each in sorted((n for n in near if n.fits), key=lambda n: n.cost.seconds):
        lines.append(_beside(best, each))
    for each in sorted((n for n in near if not n.fits), key=lambda n: n.cost.seconds):
        if each.cost.seconds < best.seconds:
            lines.append(_too_large(found, best, each))
    return lines


def _summary(found: Search, best: Choice) -> str:
    parts = best.cost.parts()
    most = sorted(parts.items(), key=lambda item: -item[1])[:3]
    told = ", ".join(f"{name} {percent(value / best.seconds)}" for name, value in most)
    close = sum(each.seconds <= (1 + CLOSE) * best.seconds for each in found.found) - 1
    alike = f" {close} more are within {percent(CLOSE)}: too close to tell apart." if close else ""
    return (
        f"{best} takes {seconds(best.seconds)} a step, the least of {len(found.found):,} layouts "
        f"that fit ({found.lawful:,} are lawful): {told} of it.{alike}"
    )


def _beside(best: Choice, other: Neighbour) -> str:
    gap = other.cost.seconds - best.seconds
    mine, theirs = best.cost.parts(), other.cost.parts()
    moves = {name: theirs[name] - mine[name] for name in mine}
    told = [
        f"{name} {_signed(value)}"
        for name, value in sorted(moves.items(), key=lambda item: -abs(item[1]))[:3]
        if abs(value) > SHARE * best.seconds
    ]
    memory = (other.memory.total - best.memory.total) / 1e9
    if abs(memory) >= 0.1:
        told.append(f"memory {memory:+.1f} GB".replace("-", "−"))
    word = "longer" if gap >= 0 else "shorter"
    return (
        f"With {other.value} a step is {seconds(abs(gap))} {word} "
        f"({percent(abs(gap) / best.seconds)})" + (f": {', '.join(told)}." if told else ".")
    )


def _too_large(found: Search, best: Choice, other: Neighbour) -> str:
    limit = room(found.run)
    part, size = max(other.memory.parts.items(), key=lambda item: item[1])
    return (
        f"With {other.value} it would be {seconds(best.seconds - other.cost.seconds)} shorter, but "
        f"stage {other.memory.stage} needs {other.memory.total / 1e9:.1f} GB of the "
        f"{limit / 1e9:.1f} that may be used, {size / 1e9:.1f} of them {part}."
    )


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "−") + seconds(abs(value))
