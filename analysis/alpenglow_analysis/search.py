"""Every lawful layout of a planned run: what fits the memory, in the order of its step's seconds.

    found = search(run)
    found.best.cost.seconds, found.front, found.too_large

Lawful is what divides: pipeline x tensor the GPUs, the tensor degree the heads, the MLP and the
vocabulary, replicas x micro-batch the batch, an interleaved schedule its layers and micro-batches.
Memory comes from `alpenglow.parallel.memory` and decides first: it is a lower bound, so that a
share of each GPU is kept free. Seconds come from `PlannedRun.cost`. Nothing is left out by guess:
every lawful layout that fits is timed. Layouts that this trainer cannot run are marked, and never
win unless asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, get_args

from alpenglow.parallel.layout import Layout, LayoutError, Order
from alpenglow.parallel.memory import StageMemory, excess, stage_memory
from alpenglow.parallel.schedule import chunks, in_flight
from alpenglow.parallel.split import split
from alpenglow.parallel.step_cost import StepCost
from alpenglow.parallel.work import Attention, Recompute, Work
from alpenglow_analysis.planned_run import PlanError, PlannedRun

RESERVED = 0.06
"""Share of a GPU's memory that is kept free for what alpenglow.parallel.memory leaves out: the CUDA
context, NCCL's buffers, workspaces, fragmentation (about 1 GB of a V100's 16; assumed)."""
TRAINED = ("1f1b", "zb-h1")
"""Schedules that this project's trainer runs; gpipe is never faster than 1f1b and needs more."""
OTHERS = ("interleaved-2", "interleaved-4")
"""Schedules of other trainers."""
COMPUTED = (("sdpa", "none"), ("sdpa", "full"), ("plain", "none"), ("plain", "selective"),
            ("plain", "full"))  # fmt: skip
"""Attention and what is computed again; fused attention computes its core again by itself."""
LARGEST_MICRO_BATCH = 32


@dataclass(frozen=True)
class Axes:
    """What a search may choose; an empty tuple leaves an axis open.

    Args:
        pipeline, tensor, micro_batch: degrees and sequences of a micro-batch.
        schedule, attention, recompute, order: names as in a recipe.
        any_trainer: also what this project's trainer cannot run.

    Raises:
        PlanError: a name is none of its axis.
    """

    pipeline: tuple[int, ...] = ()
    tensor: tuple[int, ...] = ()
    micro_batch: tuple[int, ...] = ()
    schedule: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()
    recompute: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    any_trainer: bool = False

    def __post_init__(self) -> None:
        for axis, known in (("attention", Attention), ("recompute", Recompute), ("order", Order)):
            for each in getattr(self, axis):
                if each not in get_args(known):
                    raise PlanError(f"{axis} = {each!r}; choose from {', '.join(get_args(known))}")
        for each in self.schedule:
            try:
                chunks(each)
            except ValueError as error:
                raise PlanError(str(error)) from None


@dataclass(frozen=True)
class Choice:
    """A layout that fits, and what its step takes."""

    layout: Layout
    work: Work
    cost: StepCost
    memory: StageMemory
    """Of the stage that needs most."""

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.cost.seconds

    @property
    def trained(self) -> bool:
        """Whether this project's trainer runs it."""
        return self.work.schedule in TRAINED and not self.work.sequence_parallel

    def __str__(self) -> str:
        return name(self.layout, self.work)


@dataclass(frozen=True)
class Search:
    """All of it; `found` is in the order of seconds, then of memory."""

    run: PlannedRun
    axes: Axes
    found: tuple[Choice, ...]
    lawful: int
    """Layouts that divide, memory aside; both axis orders count."""
    closest: tuple[Layout, Work, StageMemory] | None
    """Of those that do not fit, the one that needs least."""

    @property
    def too_large(self) -> int:
        """Lawful layouts that do not fit the memory."""
        return self.lawful - len(self.found)

    @cached_property
    def best(self) -> Choice:
        """The fastest, of those that may win.

        Raises:
            PlanError: none fits, or none is lawful; says what is closest.
        """
        able = (each for each in self.found if each.trained or self.axes.any_trainer)
        winner = next(able, None)
        if winner is None:
            raise PlanError(self._none())
        return winner

    @cached_property
    def front(self) -> list[Choice]:
        """Choices that no other one beats in both seconds and memory, the fastest first."""
        kept: list[Choice] = []
        for each in self.found:
            if (each.trained or self.axes.any_trainer) and (
                not kept or each.memory.total < kept[-1].memory.total
            ):
                kept.append(each)
        return kept

    def _none(self) -> str:
        run = self.run
        if not self.lawful:
            return (
                f"no layout of {run.name} on {run.gpus:,} GPUs with a batch of "
                f"{run.global_batch_size:,} divides: {cure(run)}"
            )
        if self.found or self.closest is None:
            return f"every layout that fits needs another trainer: {self.found[0]} (--any-trainer)"
        layout, work, memory = self.closest
        return (
            f"no layout of {run.name} fits {run.gpus:,} GPUs of {run.machine.name}: the closest, "
            f"{name(layout, work)}: {excess(memory, room(run))}; more GPUs, a shorter sequence or "
            "a smaller model would"
        )


def room(run: PlannedRun) -> float:
    """Bytes of a GPU that a layout may use."""
    return (1 - RESERVED) * run.tuned[0].memory_bytes


def search(run: PlannedRun, axes: Axes | None = None) -> Search:
    """Find, fit and time every lawful layout.

    Raises:
        MachineError: the machine file lacks what a cost needs.
    """
    wanted = axes or Axes()
    limit, found, lawful = room(run), list[Choice](), 0
    closest: tuple[Layout, Work, StageMemory] | None = None
    for layout, work in space(run, wanted):
        orders = _orders(layout, wanted)
        lawful += len(orders)
        memory = _worst(run, layout, work, limit)
        if memory.total > limit:
            if closest is None or memory.total < closest[2].total:
                closest = (layout, work, memory)
            continue
        for order in orders:
            placed = replace(layout, order=order)
            found.append(Choice(placed, work, run.cost(placed, work), memory))
    if closest is not None:  # it was measured up to its first stage that is too large
        layout, work, _ = closest
        closest = (layout, work, _worst(run, layout, work, float("inf")))
    found.sort(key=lambda each: (each.seconds, each.memory.total))
    return Search(run, wanted, tuple(found), lawful, closest)


def space(run: PlannedRun, axes: Axes) -> Iterator[tuple[Layout, Work]]:
    """Yield every layout that divides, in the axis order of a default, and its work."""
    model, gpus, batch = run.model, run.gpus, run.global_batch_size
    schedules = axes.schedule or (TRAINED + OTHERS if axes.any_trainer else TRAINED)
    tensors = axes.tensor or tuple(_tensors(run))
    pipelines = axes.pipeline or tuple(range(1, model.num_layers + 1))
    for tensor, pipeline in itertools.product(tensors, pipelines):
        if gpus % (tensor * pipeline) or pipeline > model.num_layers or _indivisible(run, tensor):
            continue
        data = gpus // (tensor * pipeline)
        if batch % data:
            continue
        sizes = axes.micro_batch or tuple(_divisors(batch // data, LARGEST_MICRO_BATCH))
        layers = _splits(run, pipeline)
        for size, schedule in itertools.product(sizes, schedules):
            if batch % (data * size) or not _goes(run, pipeline, batch // (data * size), schedule):
                continue
            for work in _works(run, axes, tensor, size, batch // (data * size), schedule):
                for counts in layers:
                    if not any(n % chunks(schedule) for n in counts):
                        yield Layout(pipeline, tensor, data, layers=counts), work


def _works(
    run: PlannedRun, axes: Axes, tensor: int, size: int, many: int, schedule: str
) -> Iterator[Work]:
    shared = (False, True) if axes.any_trainer and tensor > 1 else (False,)
    for (attention, recompute), sequence in itertools.product(COMPUTED, shared):
        if axes.attention and attention not in axes.attention:
            continue
        if axes.recompute and recompute not in axes.recompute:
            continue
        changes: dict[str, Any] = {"attention": attention, "recompute": recompute}
        yield replace(
            run.work,
            micro_batch_size=size,
            micro_batches=many,
            schedule=schedule,
            sequence_parallel=sequence,
            **changes,
        )


def _orders(layout: Layout, axes: Axes) -> tuple[Any, ...]:
    if layout.pipeline == 1 or layout.data == 1:
        return (axes.order or ("pipe-major",))[:1]
    return axes.order or ("pipe-major", "data-major")


def _tensors(run: PlannedRun) -> Iterator[int]:
    """Degrees within a node, and the next power of two."""
    each = max(1, run.machine.target.compute.gpus)
    most = max(each, 1 << (each - 1).bit_length())
    return (t for t in range(1, most + 1) if not _indivisible(run, t))


def _indivisible(run: PlannedRun, tensor: int) -> str | None:
    for size in ("num_attention_heads", "intermediate_size", "vocab_size"):
        if getattr(run.model, size) % tensor:
            return size
    return None


def _splits(run: PlannedRun, pipeline: int) -> list[tuple[int, ...]]:
    counts = [
        tuple(split(run.model, pipeline, how, run.work.sequence_length))
        for how in ("even", "balanced")
    ]
    return list(dict.fromkeys(counts))


def _goes(run: PlannedRun, pipeline: int, many: int, schedule: str) -> bool:
    """Whether a schedule goes with so many stages and micro-batches."""
    count = chunks(schedule)
    if pipeline == 1:
        return schedule == "1f1b"
    return count == 1 or (many % pipeline == 0 and run.model.num_layers % (count * pipeline) == 0)


def _worst(run: PlannedRun, layout: Layout, work: Work, limit: float) -> StageMemory:
    """The stage that needs most, or the first one found above the limit."""
    worst: StageMemory | None = None
    for stage in _suspects(layout.layers, layout.pipeline, work.schedule, work.micro_batches):
        memory = stage_memory(run.model, layout, stage, work)
        if worst is None or memory.total > worst.total:
            worst = memory
        if worst.total > limit:
            break
    if worst is None:
        raise LayoutError(f"{layout} has no stage")
    return worst


@lru_cache(maxsize=4096)
def _suspects(layers: tuple[int, ...], pipeline: int, schedule: str, many: int) -> tuple[int, ...]:
    """Stages of which one needs most memory, the likeliest first.

    Among inner stages of equal layers the one with most micro-batches in flight needs most: the
    first of them under every schedule here.
    """
    first: dict[int, int] = {}
    for stage in range(1, pipeline - 1):
        before = first.setdefault(layers[stage], stage)
        alive = (in_flight(pipeline, many, s, schedule) for s in (before, stage))
        if next(alive) < next(alive):
            first[layers[stage]] = stage
    return tuple(dict.fromkeys((0, pipeline - 1, *first.values())))


def _divisors(number: int, most: int) -> Iterator[int]:
    return (d for d in range(1, min(number, most) + 1) if number % d == 0)


def name(layout: Layout, work: Work) -> str:
    """A layout in a few words: PP12 x TP2 x DP128, micro-batch 1 x 16, zb-h1, ..."""
    parts = [
        f"PP{layout.pipeline} x TP{layout.tensor} x DP{layout.data}",
        f"micro-batch {work.micro_batch_size} x {work.micro_batches}",
        work.schedule,
        f"attention {work.attention}",
        f"recompute {work.recompute}",
    ]
    if layout.pipeline > 1:
        parts.append(layout.order)
    if work.sequence_parallel:
        parts.append("sequence parallel")
    return ", ".join(parts)


def cure(run: PlannedRun) -> str:
    """The nearest numbers of nodes, and the nearest batch, with which something divides."""
    each = max(1, run.machine.target.compute.gpus)
    most, here = run.machine.target.compute.nodes, run.nodes
    near = [n for n in range(1, most + 1) if divides(run, n * each, run.global_batch_size)]
    below = max((n for n in near if n < here), default=None)
    above = min((n for n in near if n > here), default=None)
    words = " or ".join(f"{n:,}" for n in (below, above) if n is not None)
    found = [f"the nearest that do are {words} nodes"] if words else []
    counts = divides(run, run.gpus, None)
    if counts:
        batch = min(
            (c * max(1, round(run.global_batch_size / c)) for c in counts),
            key=lambda b: abs(b - run.global_batch_size),
        )
        found.append(f"a batch of {batch:,} sequences does on these")
    return "; ".join(found) or "no pipeline and tensor degree of this model divides any"


def divides(run: PlannedRun, gpus: int, batch: int | None) -> list[int]:
    """Numbers of replicas that so many GPUs can hold, and that divide the batch if there is one."""
    return [
        gpus // (p * t)
        for p in range(1, run.model.num_layers + 1)
        for t in _tensors(run)
        if gpus % (p * t) == 0 and (batch is None or batch % (gpus // (p * t)) == 0)
    ]
