"""Sizes of a scaling study: nodes, batches and steps, in which order, and on which jsrun line."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from alpenglow.config import ConfigError
from alpenglow.parallel.layout import LayoutError
from alpenglow.train.recipe import PretrainRecipe
from alpenglow_lsf.machine import Machine
from alpenglow_lsf.step import JobStep

Kind = Literal["strong", "weak"]


class ScalingError(RuntimeError):
    """A study that cannot be made; the message is one sentence."""


@dataclass(frozen=True)
class ScalingRecipe:
    """What a study runs."""

    series: tuple[Kind, ...] = ("strong", "weak")
    nodes: tuple[int, ...] = ()
    """Nodes of each size; empty: those of a replica, doubled up to the allocation."""
    ranks: tuple[int, ...] = ()
    """Ranks of each size instead, where a node is more than the smallest of them."""
    repeats: int = 3
    """Runs of each size."""
    steps: int = 25
    """Steps of the largest size; smaller ones of a strong series take longer and do fewer."""
    least_steps: int = 10
    warm_up: int = 5
    """First steps that are discarded: allocation, kernels that are chosen, caches that are cold."""
    micro_batches: int = 0
    """Of a replica in the weak series; 0: those of the strong series at its largest size."""
    seed: int = 1
    """Of the order within each round."""
    overrides: tuple[str, ...] = ()
    """Of the trained recipe, as on its command line."""

    def __post_init__(self) -> None:
        if not self.series or len(set(self.series)) != len(self.series):
            raise ValueError("series should name strong, weak or both, once")
        if self.nodes and self.ranks:
            raise ValueError("nodes and ranks exclude each other: keep one")
        for name in ("nodes", "ranks"):
            sizes = getattr(self, name)
            if sizes and (min(sizes) < 1 or len(set(sizes)) != len(sizes)):
                raise ValueError(f"{name} = {list(sizes)}: different numbers from 1")
        if self.repeats < 1 or self.micro_batches < 0:
            raise ValueError("repeats should be 1 or more, micro_batches 0 or more")
        if not 0 <= self.warm_up < self.least_steps <= self.steps:
            raise ValueError(
                f"warm_up = {self.warm_up}, least_steps = {self.least_steps}, steps = {self.steps}:"
                " each should be less than the next"
            )


@dataclass(frozen=True)
class Size:
    """One point of a study: the same for all its repeats."""

    series: tuple[Kind, ...]
    """Both where the two series meet."""
    nodes: int
    ranks: int
    pipeline: int
    tensor: int
    data: int
    micro_batch_size: int
    micro_batches: int
    global_batch_size: int
    sequence_length: int
    schedule: str
    steps: int
    warm_up: int
    runs: tuple[str, ...] = field(default=())
    """Run directories, relative to the study's, one a repeat."""

    @property
    def name(self) -> str:
        """Of its run directories."""
        return f"{'-'.join(self.series)}-{self.ranks:05d}"


def sizes(recipe: ScalingRecipe, trained: PretrainRecipe, counts: Sequence[tuple[int, int]],
          machine: Machine) -> list[Size]:  # fmt: skip
    """The points of a study.

    Args:
        recipe: of the study.
        trained: what each run trains.
        counts: (nodes, ranks) of each size, ascending.
        machine: its links decide the layout where the recipe leaves that open.

    Raises:
        ScalingError: a size on which the recipe cannot be laid out.
    """
    degrees = trained.parallel.pipeline * trained.parallel.tensor
    size, batch = trained.batch.micro_batch_size, trained.batch.global_batch_size
    most = counts[-1][1] // degrees
    if not most or batch % (size * most):
        raise ScalingError(
            f"{counts[-1][1]} ranks hold {most} replicas of {degrees}, over which a batch of "
            f"{batch:,} in micro-batches of {size} does not divide"
        )
    each = batch // (size * most)
    found: dict[tuple[int, int], Size] = {}
    for kind in recipe.series:
        for nodes, ranks in counts:
            replicas = ranks // degrees
            whole = batch if kind == "strong" else size * (recipe.micro_batches or each) * replicas
            changed = replace(trained, batch=replace(trained.batch, global_batch_size=whole))
            try:
                if ranks % degrees:
                    raise ScalingError(f"{degrees} ranks of a replica do not divide {ranks}")
                layout = changed.layout(ranks, machine)
            except (ConfigError, LayoutError, ScalingError) as error:
                raise ScalingError(f"{kind} scaling on {ranks} ranks: {error}") from None
            many = changed.micro_batches(layout)
            share = each / many if kind == "strong" else 1.0
            steps = max(recipe.least_steps, round(recipe.steps * share))
            before = found.get((ranks, whole))
            series = (*(before.series if before else ()), kind)
            found[ranks, whole] = Size(
                series, nodes, ranks, layout.pipeline, layout.tensor, layout.data, size, many,
                whole, trained.batch.sequence_length, trained.parallel.schedule, steps,
                recipe.warm_up,
            )  # fmt: skip
    return [
        replace(s, runs=tuple(f"runs/{s.name}-{n + 1}" for n in range(recipe.repeats)))
        for s in found.values()
    ]


def counts(
    recipe: ScalingRecipe, step: JobStep, trained: PretrainRecipe, machine: Machine, held: int
) -> list[tuple[int, int]]:
    """(nodes, ranks) of each size.

    Raises:
        ScalingError: a size that the allocation does not hold.
    """
    nodes, ranks = held, len(step.places(machine, held))
    if machine.stand_in is not None:
        nodes = min(held, machine.stand_in.nodes)
    each = ranks // nodes
    if recipe.ranks:
        found = [(-(-r // each), r) for r in sorted(recipe.ranks)]
        if any(r > each and r % each for _, r in found):
            raise ScalingError(f"ranks = {list(recipe.ranks)}: above {each}, whole nodes of {each}")
    elif recipe.nodes:
        found = [(n, n * each) for n in sorted(recipe.nodes)]
    else:
        degrees = trained.parallel.pipeline * trained.parallel.tensor
        least = next(n for n in range(1, degrees + 1) if n * each % degrees == 0)
        found = []
        while least <= nodes:
            found.append((least, least * each))
            least *= 2
    if not found or found[-1][0] > nodes:
        wanted = f"{found[-1][0]} nodes" if found else "a replica"
        raise ScalingError(f"{wanted} do not fit the {nodes} nodes of this job; ask for more")
    return found


def on(step: JobStep, nodes: int, ranks: int) -> JobStep:
    """The step on some of the nodes, its first ones."""
    request = step.request
    if ranks % nodes:
        raise ScalingError(f"{ranks} ranks do not divide over {nodes} nodes")
    each = min(request.tasks, ranks // nodes)
    per_host = ranks // nodes // each
    return replace(
        step, request=replace(request, sets=nodes * per_host, per_host=per_host, tasks=each)
    )


def rounds(found: Sequence[Size], repeats: int, seed: int) -> list[tuple[int, int]]:
    """(size, repeat) of every run, in the order in which they are started."""
    shuffled = random.Random(seed)
    order = []
    for repeat in range(repeats):
        turn = list(range(len(found)))
        shuffled.shuffle(turn)
        order += [(index, repeat) for index in turn]
    return order
