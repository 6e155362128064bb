"""Synthetic runs by name, and the command that makes one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.schedule import SCHEDULES
from alpenglow_analysis.planted import (
    ALWAYS,
    Clocks,
    DataHiccups,
    HeavyStage,
    Jitter,
    LongCheckpoint,
    SlowLink,
    SlowNode,
    SlowRank,
)
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_analysis.synthetic_work import Fault


def three_jobs(steps: int, every: int) -> tuple[Segment, ...]:
    """A run in three jobs: one whole, one killed within a step, one that goes on from behind it.

    Args:
        steps: of the run.
        every: steps between two checkpoints.
    """
    first, second = steps * 2 // 5, steps * 7 // 10
    resumed = second - 1 - (second - 1) % every
    return (
        Segment(1, first, reason="more to do"),
        Segment(first + 1, second, killed=True, cut=0.6, queued_s=5400),
        Segment(resumed + 1, steps, queued_s=2700),
    )


def summit(pipeline: int, data: int, steps: int) -> Synthetic:
    """A run on Summit's nodes, of the size of the published ones.

    Layouts are RedPajama-INCITE's (12 x 2 x 128 for 7B on 512 nodes, 6 x 2 x 128 for 3B on 256).
    Lengths are what 42 TF a GPU would give for 4.31e10 FLOPs a token, messages of 2 x 2048 x 4096
    halves over NVLink (50 GB/s) and over a sixth of a node's 23 GB/s, a ring reduction of 1/24 of
    the gradients at that rate: a plausible machine, not a measured one.
    """
    every = max(1, steps // 8)
    return Synthetic(
        Layout(pipeline, 2, data, "data-major"),
        8,
        three_jobs(steps, every),
        ranks_per_node=6,
        gpus_per_node=6,
        peak_flops_per_rank=125e12,
        machine="summit",
        forward=56_000_000,
        backward=112_000_000,
        tensor_reduce=5_000_000,
        message=700_000,
        message_far=8_800_000,
        load=400_000,
        data_wait=0,
        gradient_reduce=300_000_000,
        optimizer=60_000_000,
        rest=1_500_000,
        startup=75_000_000_000,
        restart=40_000_000_000,
        launch=20_000_000_000,
        shutdown=5_000_000_000,
        checkpoint=12_000_000_000,
        checkpoint_every=every,
        sample_every=10,
        form="nodes",
        spare_nodes=2,
    )


def planted(spec: Synthetic) -> tuple[Fault, ...]:
    """The faults that the bench plants in a run, by its size."""
    steps = max(segment.last_step for segment in spec.segments)
    return (
        HeavyStage(-1, 1.2),
        SlowNode(spec.nodes // 3, 1.15, first=steps // 5, last=steps * 4 // 5),
        Jitter(0.02),
        SlowLink(spec.nodes // 2, 2.0, first=steps // 2),
        DataHiccups(2, 50, 400_000_000),
        LongCheckpoint(spec.checkpoint_every * 2, 90_000_000_000),
        Clocks(1_000_000, 1e-6),
    )


PRESETS: dict[str, Callable[[], Synthetic]] = {
    "48": lambda: summit(12, 2, 60),
    "384": lambda: summit(12, 16, 1000),
    "1536": lambda: summit(12, 64, 1000),
    "1536-pp6": lambda: summit(6, 128, 1000),
    "3072": lambda: summit(12, 128, 1000),
    "12288": lambda: summit(12, 512, 250),
}
"""By number of ranks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a run: three jobs, one of them killed, with jitter and whatever else is asked for."""
    options = _parser().parse_args(arguments)
    if options.run.exists():
        sys.stderr.write(f"{options.run} exists: name a directory that can be made\n")
        return 1
    try:
        spec = _spec(options)
        spec.check()
    except ValueError as error:
        sys.stderr.write(f"alpenglow synthetic: {error}\n")
        return 1
    spec.write(options.run)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alpenglow_analysis.synthetic")
    parser.add_argument("run", type=Path, help="the directory to be made")
    parser.add_argument("--preset", choices=list(PRESETS), help="a run of Summit's size, by ranks")
    parser.add_argument("--pipeline", type=int, default=2)
    parser.add_argument("--tensor", type=int, default=2)
    parser.add_argument("--data", type=int, default=2)
    parser.add_argument("--micro-batches", type=int)
    parser.add_argument("--schedule", choices=list(SCHEDULES))
    parser.add_argument("--ranks-per-node", type=int)
    parser.add_argument("--gpus-per-node", type=int)
    parser.add_argument("--peak-flops", type=float, help="FLOP/s of a rank")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--sample-every", type=int, help="full spans of each so manieth step")
    parser.add_argument("--recompute", type=int, help="ns of a backward pass")
    parser.add_argument("--seed", type=int)
    faults = parser.add_argument_group("faults (none named: those of the preset, or a slow rank)")
    faults.add_argument("--none", action="store_true", help="no fault at all")
    faults.add_argument("--jitter", type=float, metavar="SD")
    for name, (form, _) in _FAULTS.items():
        faults.add_argument(f"--{name}", action="append", metavar=form, default=[])
    return parser


def _spec(options: argparse.Namespace) -> Synthetic:
    fields = {
        name: getattr(options, name)
        for name in ("micro_batches", "schedule", "ranks_per_node", "gpus_per_node", "sample_every",
                     "seed")
        if getattr(options, name) is not None
    }  # fmt: skip
    if options.peak_flops is not None:
        fields["peak_flops_per_rank"] = options.peak_flops
    if options.recompute is not None:
        fields["recompute"] = options.recompute
    if options.preset:
        spec = replace(PRESETS[options.preset](), **fields)
        faults = planted(spec)
    else:
        layout = Layout(options.pipeline, options.tensor, options.data)
        spec = replace(Synthetic(layout, 8, ()), **fields)
        faults = (Jitter(0.04), SlowRank(layout.world - 1, 1.08))
    if options.steps is not None and options.steps < 3:
        raise ValueError(f"steps = {options.steps}: three jobs need 3")
    if options.steps or not options.preset:
        steps = options.steps or 200
        every = max(1, steps // 8)
        spec = replace(spec, segments=three_jobs(steps, every), checkpoint_every=every)
        faults = planted(spec) if options.preset else faults
    asked = _asked(options)
    return replace(spec, faults=() if options.none else asked or faults)


def _asked(options: argparse.Namespace) -> tuple[Fault, ...]:
    found: list[Fault] = [] if options.jitter is None else [Jitter(options.jitter)]
    for name, (form, make) in _FAULTS.items():
        for text in getattr(options, name.replace("-", "_")):
            try:
                found.append(make(*map(float, text.split(":"))))
            except (TypeError, ValueError):
                raise ValueError(f"--{name} {text}: give {form}") from None
    return tuple(found)


def _for_a_time(
    kind: type[SlowNode | SlowLink], node: float, factor: float, *steps: float
) -> SlowNode | SlowLink:
    first, last = map(int, steps or (0, ALWAYS))
    return kind(int(node), factor, first=first, last=last)


_FAULTS: dict[str, tuple[str, Callable[..., Fault]]] = {
    "slow-node": ("NODE:FACTOR[:FIRST:LAST]", partial(_for_a_time, SlowNode)),
    "slow-link": ("NODE:FACTOR[:FIRST:LAST]", partial(_for_a_time, SlowLink)),
    "heavy-stage": ("STAGE:FACTOR", lambda stage, factor: HeavyStage(int(stage), factor)),
    "long-checkpoint": (
        "STEP:SECONDS",
        lambda step, extra: LongCheckpoint(int(step), round(extra * 1e9)),
    ),
    "hiccups": (
        "REPLICAS:EVERY:SECONDS",
        lambda replicas, every, wait: DataHiccups(int(replicas), int(every), round(wait * 1e9)),
    ),
    "clocks": ("OFFSET_S:DRIFT", lambda offset, drift: Clocks(round(offset * 1e9), drift)),
}
