"""The layout of a planned run: a recipe's own, one of its named ones, or degrees that are given.

    chosen = choose(planned_run(given), given.layout)
    chosen.cost.seconds                     # of a step
    chosen.on(1024).cost.seconds            # the same batch on other nodes
    chosen.compressed(GRADIENT_BITS)        # gradients reduced in fewer bits

`--layout` is a name in the recipe's `[layouts]`, or degrees as
`pipeline=12,tensor=2,micro_batch_size=1,schedule=zb-h1,recompute=none`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from alpenglow.config import ConfigError
from alpenglow.parallel.layout import Layout, LayoutError, Order
from alpenglow.parallel.links import Site
from alpenglow.parallel.memory import excess
from alpenglow.parallel.placement import place
from alpenglow.parallel.split import Split
from alpenglow.parallel.step_cost import StepCost
from alpenglow.parallel.work import Attention, Loss, Recompute, Work
from alpenglow.train.recipe import PretrainRecipe
from alpenglow_analysis.bubble import schedule_bubble
from alpenglow_analysis.planned_run import PlanError, PlannedRun

MASK_SHARE, TOP_SHARE, BITS, BUCKET = 0.1, 0.2, 4, 128
GRADIENT_BITS = MASK_SHARE * (1 + TOP_SHARE * (BITS + 16 / BUCKET))
"""Bits that CocktailSGD sends for a gradient, each way (Wang et al., ICML 2023, PMLR v202
36058-36076), as released for fine-tuning (p 0.1, k 0.2, 4 bits, an fp16 scale for each 128):
0.1825, 87.7 times fewer than fp16. One bit for each element of the mask says which are sent."""
DEGREES = ("pipeline", "tensor", "micro_batch_size")
WORDS: dict[str, tuple[str, ...]] = {
    "schedule": (),  # alpenglow.parallel.schedule knows which there are
    "recompute": get_args(Recompute),
    "attention": get_args(Attention),
    "loss": get_args(Loss),
    "order": ("auto", *get_args(Order)),
    "split": get_args(Split),
}
"""What else a layout may say, and its words."""


@dataclass(frozen=True)
class Chosen:
    """A planned run with its layout."""

    run: PlannedRun
    layout: Layout
    work: Work
    order: str
    """What chose the axes: a name, or `auto`."""
    split: str
    """What chose the layers of each stage."""
    source: str
    """Where the layout is from."""

    @cached_property
    def cost(self) -> StepCost:
        """The predicted step.

        Raises:
            PlanError: it cannot be; one sentence.
        """
        try:
            return self.run.cost(self.layout, self.work)
        except (LayoutError, ValueError) as error:
            raise PlanError(str(error)) from None

    @property
    def nodes(self) -> int:
        """Nodes that train."""
        return self.run.nodes

    @property
    def replica_nodes(self) -> int:
        """Nodes of the smallest job of whole replicas that fills its nodes."""
        each = self.run.machine.compute.gpus
        gpus = self.layout.pipeline * self.layout.tensor
        return next(n for n in range(1, gpus + 1) if n * each % gpus == 0)

    @property
    def bubble(self) -> float:
        """Share of a step that its schedule idles by itself: equal passes, free messages."""
        return schedule_bubble(self.work.schedule, self.layout.pipeline, self.work.micro_batches)

    @property
    def words(self) -> str:
        """The layout in a sentence's part."""
        own, work = self.layout, self.work
        return (
            f"pipeline {own.pipeline} x tensor {own.tensor} x data {own.data}, micro-batches of "
            f"{work.micro_batch_size} ({work.micro_batches} a step), {work.schedule}, "
            f"recompute {work.recompute}, {own.order}"
        )

    @property
    def excess(self) -> str | None:
        """One sentence where a stage does not fit the GPU's memory; else None."""
        worst = max(self.cost.memory, key=lambda stage: stage.total)
        return excess(worst, self.cost.hardware.memory_bytes)

    def on(self, nodes: int, batch: int | None = None) -> Chosen:
        """The same degrees of pipeline and tensor on other nodes.

        Args:
            nodes: that train, all of their GPUs.
            batch: sequences of a step; None keeps them.

        Raises:
            PlanError: the replicas do not fill the nodes, or the batch does not divide over them.
        """
        run = replace(
            self.run,
            gpus=nodes * self.run.machine.compute.gpus,
            global_batch_size=self.run.global_batch_size if batch is None else batch,
        )
        return _laid_out(run, self.layout.pipeline, self.layout.tensor, self)

    def fits(self, nodes: int) -> bool:
        """Whether whole replicas fill so many nodes and the batch divides over them."""
        gpus, replica = nodes * self.run.machine.compute.gpus, self.layout.world // self.layout.data
        share = self.work.micro_batch_size * (gpus // replica)
        return gpus % replica == 0 and share > 0 and self.run.global_batch_size % share == 0

    def nearest(self, nodes: int, low: int, high: int) -> int | None:
        """The number of nodes that `fits` nearest to `nodes`, from `low` to `high`; None: none."""
        step = self.replica_nodes
        fit = [n for n in range(-(-low // step) * step, high + 1, step) if n and self.fits(n)]
        return min(fit, key=lambda n: abs(n - nodes), default=None)

    def scheduled(self, schedule: str) -> Chosen:
        """The same under another schedule."""
        return replace(self, work=replace(self.work, schedule=schedule))

    def compressed(self, bits: float) -> Chosen:
        """The same with gradients that are reduced in so many bits each."""
        return replace(self, work=replace(self.work, travels=bits / 8))


def choose(run: PlannedRun, word: str | None = None) -> Chosen:
    """Lay a planned run out.

    Args:
        run: as `planned_run` read it, with the same --layout.
        word: a name in the recipe's [layouts], degrees, or None for the recipe's own.

    Raises:
        PlanError: no such layout, or it cannot be on these GPUs.
    """
    if word is not None and "=" in word:
        return _given(run, word)
    if word is not None and word.endswith(".json"):
        return _found(run, Path(word))
    if run.recipe is None:
        raise PlanError(
            f"--model {run.name} is no recipe and has no layout: give --layout "
            "pipeline=12,tensor=2,micro_batch_size=1"
        )
    recipe = _as_planned(run, run.recipe)
    own = recipe.parallel
    try:
        layout = recipe.layout(run.gpus, run.machine)
    except (ConfigError, LayoutError, ValueError) as error:
        near = _nearest(run, own.pipeline * own.tensor, recipe.batch.micro_batch_size)
        raise PlanError(f"layout of {run.name} on {run.nodes:,} nodes: {error}; {near}") from None
    work = run.work_of(layout, recipe.batch.micro_batch_size)
    source = "the recipe's own" if word is None else f"the recipe's [layouts.{word}]"
    return Chosen(run, layout, work, own.order, own.split, source)


def _nearest(run: PlannedRun, replica: int, micro_batch_size: int) -> str:
    """Nodes nearest to the run's that whole replicas fill and the batch divides over."""
    each = run.machine.compute.gpus
    fit = [
        n
        for n in range(1, run.machine.compute.nodes + 1)
        if n * each % replica == 0
        and run.global_batch_size % (micro_batch_size * (n * each // replica)) == 0
    ]
    if not fit:
        return f"no number of nodes fits {replica} GPUs a replica with this batch"
    best = min(fit, key=lambda n: abs(n - run.nodes))
    return f"the nearest number of nodes that fits is {best:,}"


def _as_planned(run: PlannedRun, recipe: PretrainRecipe) -> PretrainRecipe:
    """The recipe with the batch that is planned."""
    batch = replace(
        recipe.batch,
        global_batch_size=run.global_batch_size,
        sequence_length=run.work.sequence_length,
    )
    return replace(recipe, batch=batch)


def _laid_out(run: PlannedRun, pipeline: int, tensor: int, like: Chosen) -> Chosen:
    try:
        bare = Layout.of(run.gpus, pipeline, tensor)
        work = replace(run, work=like.work).work_of(bare, like.work.micro_batch_size)
        site = Site.of(run.machine, run.gpus, work.dtype)
        layout = place(
            run.model, bare, work, site, order=like.order, how=like.split  # type: ignore[arg-type]
        )  # fmt: skip
    except (LayoutError, ValueError) as error:
        near = _nearest(run, pipeline * tensor, like.work.micro_batch_size)
        raise PlanError(f"{run.nodes:,} nodes: {error}; {near}") from None
    return replace(like, run=run, layout=layout, work=work)


def _given(run: PlannedRun, word: str) -> Chosen:
    """Degrees in words: pipeline=12,tensor=2,schedule=zb-h1."""
    told: dict[str, Any] = {}
    for part in word.split(","):
        key, _, text = (piece.strip() for piece in part.partition("="))
        if key not in (*DEGREES, *WORDS):
            raise PlanError(f"--layout {word}: no {key!r}; it has {', '.join((*DEGREES, *WORDS))}")
        if key in DEGREES and not (text.isdigit() and int(text)):
            raise PlanError(f"--layout {word}: {key} = {text!r} should be a number from 1")
        told[key] = int(text) if key in DEGREES else text
    return _told(run, told, f"given: {word}")


def _found(run: PlannedRun, path: Path) -> Chosen:
    """The first layout of a file that `alpenglow plan layout` wrote."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(f"--layout {path}: not a readable list of layouts: {error}") from None
    ranked = value.get("layouts") if isinstance(value, dict) else None
    told = ranked[0] if isinstance(ranked, list) and ranked else None
    told = told if isinstance(told, dict) else {}
    missing = [key for key in DEGREES if not isinstance(told.get(key), int) or told[key] < 1]
    if missing:
        raise PlanError(f"--layout {path}: its first layout does not say {' or '.join(missing)}")
    kept = {key: told[key] for key in (*DEGREES, *WORDS, "sequence_parallel") if key in told}
    return _told(run, kept, f"search result {path}")


def _told(run: PlannedRun, told: Mapping[str, Any], source: str) -> Chosen:
    for key, words in WORDS.items():
        if words and told.get(key, words[0]) not in words:
            raise PlanError(f"layout: {key} = {told[key]!r}; choose from {', '.join(words)}")
    names = ("schedule", "recompute", "attention", "loss", "sequence_parallel")
    changes = {key: told[key] for key in names if key in told}
    work = replace(run.work, micro_batch_size=told.get("micro_batch_size", 1), **changes)
    like = Chosen(
        run, Layout(), work, told.get("order", "auto"), told.get("split", "balanced"), source
    )
    made = _laid_out(run, told.get("pipeline", 1), told.get("tensor", 1), like)
    # What is no lawful schedule, order or degree is refused before anything hangs on it.
    _ = made.cost
    return made
