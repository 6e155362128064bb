"""The recipe behind a jsrun line: its layout on the line's ranks, and whether it fits the GPUs.

for plan in plans(script, spec, machine, base): plan.layout, plan.memory, plan.findings
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from alpenglow.config import ConfigError, load
from alpenglow.parallel.layout import Layout, LayoutError
from alpenglow.parallel.links import Site
from alpenglow.parallel.memory import StageMemory, excess, worst_stage
from alpenglow.train.recipe import PretrainRecipe
from alpenglow_lsf.body import literal
from alpenglow_lsf.geometry import GeometryError
from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.machine import Machine, names
from alpenglow_lsf.picture import seat, straddles
from alpenglow_lsf.script import Script
from alpenglow_lsf.step import JobStep
from alpenglow_lsf.validate import Finding
from alpenglow_profiling.order import Order, OrderError

RULES = {
    "recipe": "a recipe that does not load, or that is not TOML",
    "layout": "pipeline x tensor does not divide the ranks of the jsrun line",
    "batch": "the global batch does not divide over micro-batches and replicas",
    "memory": "a rank needs more memory than the machine's GPU has",
    "preflight": "its options, or as many spare nodes as there are",
    "placement": "tensor-parallel ranks that do not share a socket (a note)",
}
"""Name of each rule here -> what breaks it."""

TRAIN = "alpenglow.train"
PREPARE = "alpenglow.data.pipeline"


@dataclass
class Plan:
    """What a jsrun line and its recipe come to; fields stay None behind the first error."""

    line: int
    step: JobStep
    nodes: int | None = None
    """Nodes that train: those of the step less the spare ones of its pre-flight."""
    spare: int = 0
    recipe: PretrainRecipe | None = None
    layout: Layout | None = None
    memory: StageMemory | None = None
    """Of the stage that needs most."""
    room: float | None = None
    """Bytes of a rank's GPU."""
    site: Site | None = None
    findings: list[Finding] = field(default_factory=list)


def plans(script: Script, spec: JobSpec, machine: Machine, base: Path) -> list[Plan]:
    """Read the recipe of each jsrun line that has one and exists.

    Args:
        script: whose steps can be read.
        spec: its options with those of a command line laid over.
        machine: its target's node, and the overlay of that name in the recipe.
        base: folder that the job is submitted from.
    """
    found = []
    for line, step in script.steps():
        plan = Plan(line, step)
        found.append(plan)
        where = f"{script.name}:{line}"
        paths = [p for w in step.command if w.endswith(".toml") and (p := literal(w)) is not None]
        if not paths or not (base / paths[0]).is_file():
            continue  # alpenglow_lsf.review names a missing one
        path = base / paths[0]
        try:
            _read(plan, path, machine)
        except ConfigError as error:
            text = str(error).replace(str(path), paths[0])
            plan.findings.append(Finding("recipe", where, text, ""))
            continue
        if plan.recipe is not None and spec.nodes is not None:
            _lay_out(plan, plan.recipe, spec, machine, where)
    return found


def _module(command: Sequence[str]) -> str:
    words = list(command)
    modules = [after for word, after in pairwise(words) if word == "-m"]
    return modules[-1] if modules else ""


def _read(plan: Plan, path: Path, machine: Machine) -> None:
    module = _module(plan.step.command)
    overrides = [w for w in plan.step.command if "=" in w and not w.startswith("-")]
    overrides = [w for w in overrides if "$" not in w]
    name, known = machine.target.name, {*names(), machine.target.name}
    if module == TRAIN:
        plan.recipe = load(path, PretrainRecipe, machine=name, machines=known, overrides=overrides)
    elif module == PREPARE:
        from alpenglow.data.recipe import PrepareRecipe

        load(path, PrepareRecipe, machine=name, machines=known, overrides=overrides)
    else:  # schemas of other programs need torch or matplotlib; they check their own
        try:
            tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _lay_out(
    plan: Plan, recipe: PretrainRecipe, spec: JobSpec, machine: Machine, where: str
) -> None:
    node = machine.compute
    request = plan.step.request
    try:
        held, all_ranks = plan.step.asked(machine, spec.nodes or 1)
        seats = seat(request, node, spec.smt)
    except GeometryError:
        return  # alpenglow_lsf.validate names it
    try:
        words = [word for word in plan.step.command if "$" not in word]
        order = Order.find(words) or Order()
        if order.spare >= held:
            raise OrderError(f"--spare {order.spare} leaves none of {held} nodes")
    except OrderError as error:
        plan.findings.append(Finding("preflight", where, f"pre-flight: {error}", ""))
        return
    plan.spare, plan.nodes = order.spare, held - order.spare
    sizes = (plan.nodes, *(n for n in order.shrink if n < plan.nodes))
    for nodes in sizes:
        why = "recipe: " if nodes == plan.nodes else f"recipe, --shrink {nodes}: "
        layout = _layout(recipe, nodes * all_ranks // held, why, where)
        if isinstance(layout, Finding):
            plan.findings.append(layout)
            return
        plan.layout = plan.layout or layout
    if plan.layout is None:
        return
    ranks, target = plan.layout.world, machine.target
    plan.layout, plan.site = recipe.layout(ranks, target), recipe.site(target, ranks)
    if request.gpus:
        plan.room = node.gpu_memory_bytes * request.gpus / max(request.gpus, request.tasks)
        plan.memory = worst_stage(recipe.model, plan.layout, recipe.work(plan.layout))
        if (message := excess(plan.memory, plan.room)) is not None:
            cure = _cure(recipe, plan.layout, plan.room)
            plan.findings.append(Finding("memory", where, f"recipe: {message}", cure))
        plan.findings += [
            Finding("placement", where, text, "", refuses=False)
            for text in straddles(seats, node, recipe.parallel.tensor)
            if "tensor" in text
        ]


def _layout(recipe: PretrainRecipe, ranks: int, why: str, where: str) -> Layout | Finding:
    """Lay the recipe out on so many ranks, or say why it cannot be."""
    parallel, batch = recipe.parallel, recipe.batch
    try:
        layout = Layout.of(ranks, parallel.pipeline, parallel.tensor)
    except LayoutError as error:
        message, _, cure = str(error).partition("; ")
        return Finding("layout", where, why + message, cure)
    share = batch.micro_batch_size * layout.data
    if batch.global_batch_size % share == 0:
        return layout
    return Finding(
        "batch",
        where,
        f"{why}batch.global_batch_size = {batch.global_batch_size} is no multiple of "
        f"{share} = micro_batch_size {batch.micro_batch_size} x {layout.data} replicas on "
        f"{ranks:,} ranks",
        f"use {math.ceil(batch.global_batch_size / share) * share}, or other nodes",
    )


def _cure(recipe: PretrainRecipe, layout: Layout, room: float) -> str:
    """What would make the recipe fit; the first that does."""
    cures: tuple[tuple[dict[str, Any], str], ...] = (
        ({"attention": "sdpa"}, 'train.attention = "sdpa" would fit'),
        ({"recompute": "full"}, 'train.recompute = "full" would fit'),
        (
            {"recompute": "full", "attention": "sdpa"},
            'train.recompute = "full" with train.attention = "sdpa" would fit',
        ),
    )
    work = recipe.work(layout)
    for change, text in cures:
        if worst_stage(recipe.model, layout, replace(work, **change)).total <= room:
            return text
    return "more pipeline or tensor parallelism, or a smaller micro-batch"
