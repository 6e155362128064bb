"""The options of a layout, and what its step takes: for plans that start from one layout."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, get_args

from alpenglow.parallel.layout import Layout, LayoutError, Order
from alpenglow.parallel.schedule import find
from alpenglow.parallel.split import Split, split
from alpenglow.parallel.step_cost import StepCost
from alpenglow.parallel.work import Recompute
from alpenglow_analysis.planned_run import PlanError, PlannedRun


def add_layout_options(made: argparse.ArgumentParser) -> None:
    """Add degrees and what else a layout is."""
    group = made.add_argument_group("the layout")
    group.add_argument("--pipeline", type=int, default=1)
    group.add_argument("--tensor", type=int, default=1)
    group.add_argument("--micro-batch", type=int, default=1, help="sequences")
    group.add_argument(
        "--schedule", default="1f1b", help="1f1b, gpipe, zb-h1, interleaved-V (default 1f1b)"
    )
    group.add_argument("--recompute", choices=get_args(Recompute), default="none")
    group.add_argument("--order", choices=get_args(Order), default="pipe-major")
    group.add_argument("--split", choices=get_args(Split), default="balanced")
    group.add_argument("--sequence-parallel", action="store_true")
    group.add_argument("--loss", choices=("plain", "fused"))
    group.add_argument(
        "--no-overlap", action="store_true", help="gradients are reduced after the last pass"
    )
    group.add_argument("--fp32-gradients", action="store_true", help="summed in fp32")


def predicted(run: PlannedRun, given: argparse.Namespace) -> StepCost:
    """Predict a step of the layout that the options say.

    Raises:
        PlanError: it cannot be; says which constraint fails and the nearest that fits.
    """
    _fits(run, given.pipeline, given.tensor, given.micro_batch, given.schedule)
    layers = tuple(split(run.model, given.pipeline, given.split, run.work.sequence_length))
    data = run.gpus // (given.pipeline * given.tensor)
    layout = Layout(given.pipeline, given.tensor, data, given.order, layers=layers)
    changes: dict[str, Any] = {
        "schedule": given.schedule,
        "recompute": given.recompute,
        "sequence_parallel": given.sequence_parallel,
    }
    if given.loss is not None:
        changes["loss"] = given.loss
    if given.no_overlap:
        changes["overlapped"] = False
    if given.fp32_gradients:
        changes["fp32_gradients"] = True
    work = run.work_of(layout, given.micro_batch, **changes)
    try:
        return run.cost(layout, work)
    except (LayoutError, ValueError) as error:
        raise PlanError(str(error)) from None


def _fits(run: PlannedRun, pipeline: int, tensor: int, size: int, schedule: str) -> None:
    """Refuse what does not divide, with the nearest that does."""
    model = run.model
    if min(pipeline, tensor, size) < 1:
        raise PlanError("pipeline, tensor and micro-batch are at least 1")
    if pipeline > model.num_layers:
        raise PlanError(
            f"pipeline {pipeline}: {run.name} has {model.num_layers} layers, and every stage needs "
            f"one; the nearest that fits is {model.num_layers}"
        )
    for field in ("num_attention_heads", "intermediate_size", "vocab_size"):
        if getattr(model, field) % tensor:
            fit = [t for t in range(1, 65) if not any(
                getattr(model, f) % t
                for f in ("num_attention_heads", "intermediate_size", "vocab_size")
            )]  # fmt: skip
            raise PlanError(
                f"tensor {tensor} does not divide {field} = {getattr(model, field):,}; "
                f"{_nearest(tensor, fit)}"
            )
    if run.gpus % (pipeline * tensor):
        fit = [p for p in range(1, model.num_layers + 1) if run.gpus % (p * tensor) == 0]
        raise PlanError(
            f"pipeline {pipeline} x tensor {tensor} does not divide {run.gpus:,} GPUs; "
            f"with tensor {tensor}, {_nearest(pipeline, fit)}"
        )
    share = run.gpus // (pipeline * tensor)
    if run.global_batch_size % (share * size):
        each = run.global_batch_size // share
        fit = [s for s in range(1, each + 1) if run.global_batch_size % (share * s) == 0]
        whole = share * size
        batch = whole * max(1, round(run.global_batch_size / whole))
        near = f"the nearest batch that fits is {batch:,}"
        raise PlanError(
            f"a batch of {run.global_batch_size:,} sequences does not divide over {share:,} "
            f"replicas x micro-batches of {size}; "
            + (f"micro-batches: {_nearest(size, fit)}" if fit else near)
        )
    try:
        find(schedule)
    except ValueError as error:
        raise PlanError(str(error)) from None


def _nearest(wanted: int, fit: Sequence[int]) -> str:
    below = max((n for n in fit if n < wanted), default=None)
    above = min((n for n in fit if n > wanted), default=None)
    found = [str(n) for n in (below, above) if n is not None]
    return "nothing fits" if not found else f"the nearest that fits is {' or '.join(found)}"
