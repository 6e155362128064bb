"""How long it takes to simulate campaigns.

    python -m alpenglow_analysis.bench_campaign [--campaigns 10000]

A 7B run of 1 T tokens on Summit by the queue's bins, on one core; then the lost work and the best
checkpoint interval beside Daly's formulas.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence

import numpy as np

from alpenglow.train.save_interval import daly_interval
from alpenglow_analysis.campaign import Campaign, Hazards, Overheads, Work
from alpenglow_analysis.campaign_choices import choices, effects
from alpenglow_analysis.campaign_job import Job
from alpenglow_analysis.campaign_outcome import percentiles
from alpenglow_analysis.campaign_simulation import simulate
from alpenglow_analysis.queue_wait import QueueWait
from alpenglow_lsf.machine import load

PLANS = ((512, 1.66), (512, 3.98), (922, 1.05), (91, 9.3), (45, 18.9))
"""Nodes, and seconds of a step: the first two as in jobs/pretrain_7b.toml, the others assumed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow_analysis.bench_campaign")
    parser.add_argument("--campaigns", type=int, default=10_000)
    count = parser.parse_args(arguments).campaigns
    machine = load("summit")
    total = machine.compute.nodes
    print(f"{count:,} campaigns of 1.001 T tokens")
    print("nodes  step s |     s  jobs  failures |  days 10 / 50 / 90 %   node-hours  effective")
    plans = []
    for nodes, step in PLANS:
        plan = Campaign(
            Job.of(machine, nodes),
            Work(1.001e12, 4_194_304, step, step_error=0.1),
            QueueWait.default(machine.target.queues[0], nodes, total),
        )
        plans.append(plan)
        begin = time.perf_counter()
        got = simulate(plan, count)
        took = time.perf_counter() - begin
        days = " / ".join(f"{day:.3g}" for day in percentiles(got.days))
        print(
            f"{nodes:5} {step:7.2f} | {took:5.2f} {np.median(got.segments):5.0f} "
            f"{np.median(got.failures):9.0f} | {days:>21} {np.median(got.node_hours):12,.0f} "
            f"{100 * np.median(got.effective_training_time):8.1f} %"
        )
    begin = time.perf_counter()
    base = simulate(plans[0], count)
    found, _ = choices(plans[0], machine)
    effects(base, found)
    print(f"the first with {len(found)} choices beside it: {time.perf_counter() - begin:.1f} s\n")
    _daly(count)
    return 0


def _daly(count: int) -> None:
    """One endless job, durable saves at once: the ground of Daly's formulas."""
    save, restart = 60.0, 360.0
    hazards = Hazards()
    job = Job(512, 1e9, 6, "none", "none")
    mean = 3600 * (hazards.gpu_hours or 0.0) / job.gpus
    best = daly_interval(save, mean)
    print(
        f"Daly: a save {save:g} s, a failure every {mean / 3600:.1f} h, restart {restart:g} s; "
        "hours of a run of 1,000 h of steps"
    )
    print("interval s, of Daly's | hours simulated   computed    off   standard error")
    for factor in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0):
        interval = float(round(factor * best))
        steps = round(200 * interval)  # whole intervals of steps of a second
        plan = Campaign(
            job,
            Work(float(steps), 1.0, 1.0),
            QueueWait.none(),
            Overheads(
                startup_s=restart, read_s=0.0, save_s=save, drain_s=0.0, leave_s=0.0, detect_s=0.0,
                interval_s=interval, evaluate_every=0,
            ),
            hazards,
        )  # fmt: skip
        hours = simulate(plan, count).elapsed_ns / 3.6e12
        wanted = 200 * mean * math.exp(restart / mean) * math.expm1((interval + save) / mean)
        wanted = (wanted + mean * math.expm1(restart / mean)) / 3600
        # Hours of a run of the same length, whatever the interval.
        scale = 1000 / (steps / 3600)
        got = float(hours.mean())
        error = float(hours.std()) / math.sqrt(count) / got
        print(
            f"{interval:10.0f} {factor:10.2f} | {scale * got:15.2f} {scale * wanted:10.2f} "
            f"{100 * (got / wanted - 1):+6.3f} % {100 * error:10.3f} %"
        )


if __name__ == "__main__":
    sys.exit(main())
