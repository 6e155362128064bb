"""The options of a layout, and what its step takes: for plans that start from one layout."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from alpenglow.parallel.layout import Layout, LayoutError, Order
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
    group.add_argument(
        "--no-overlap", action="store_true", help="gradients are reduced after the last pass"
    )


def predicted(run: PlannedRun, given: argparse.Namespace) -> StepCost:
    """Predict a step of the layout.

    Raises:
        PlanError: it does not go with the model, the GPUs or the batch.
    """
    changes: dict[str, Any] = {"schedule": given.schedule, "recompute": given.recompute}
    if given.no_overlap:
        changes["overlapped"] = False
    try:
        Layout(given.pipeline, given.tensor)  # degrees below 1 are refused by name
        if given.micro_batch < 1:
            raise PlanError(f"--micro-batch {given.micro_batch}: at least 1 sequence")
        layers = tuple(split(run.model, given.pipeline, given.split, run.work.sequence_length))
        bare = Layout.of(run.gpus, given.pipeline, given.tensor)
        layout = Layout(bare.pipeline, bare.tensor, bare.data, given.order, layers=layers)
        return run.cost(layout, run.work_of(layout, given.micro_batch, **changes))
    except PlanError:
        raise
    except (LayoutError, ValueError) as error:
        raise PlanError(str(error)) from None
