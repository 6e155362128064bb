"""Seconds of a core for a simulated step: `python -m alpenglow.parallel.bench_simulation`.

The 7B model on Summit, on one core: undisturbed, where replicas are alike, and with every
disturbance, where each of 3,072 or 12,288 GPUs differs in every pass. Interleaved chunks need
stages of like layers and micro-batches in multiples of them: PP8 there, else PP12.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from alpenglow.parallel import job_lengths, replay, schedule
from alpenglow.parallel.disturbance import (
    Disturbance,
    Hiccups,
    Jitter,
    SlowLinks,
    SlowRanks,
    Spread,
)
from alpenglow.parallel.hardware import Hardware
from alpenglow.parallel.job_lengths import JobLengths
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.published_runs import Gpt
from alpenglow.parallel.simulation import simulate
from alpenglow.parallel.step_cost import step_cost
from alpenglow.parallel.work import Work
from alpenglow_lsf.machine import load

SCHEDULES = ("1f1b", "gpipe", "zb-h1", "interleaved-2")
DISTURBANCES: tuple[Disturbance, ...] = (
    SlowRanks(0.005, Spread((1.15,))),
    Jitter(0.02),
    SlowLinks(0.005, Spread((2.0,))),
    Hiccups(0.1, Spread((0.1, 1.0))),
)
MODEL = Gpt(32, 4096, 32, 50432, tie_word_embeddings=False)
"""RedPajama-INCITE 7B."""


def _middle(run: Callable[[], object], times: int) -> float:
    took = []
    for _ in range(times):
        begin = time.process_time()
        run()
        took.append(time.process_time() - begin)
    return statistics.median(took)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each size, schedule and number of micro-batches."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.parallel.bench_simulation")
    parser.add_argument("--times", type=int, default=5, help="the middle of so many is told")
    times = parser.parse_args(arguments).times
    print(
        "ms of a core a step: alike, first (schedule laid out) and again; disturbed, one, of 32; S"
    )
    print(" GPUs  schedule       layout    m |  first  again |    one  of 32 |     S")
    for world in (3072, 12288):
        machine = Hardware.of(load("summit"), world)
        for name in SCHEDULES:
            pipeline = 8 if name.startswith("interleaved") else 12
            for m in (8, 16, 64):
                layout = Layout.of(world, pipeline, 2, "data-major")
                work = Work(1, m, 2048, schedule=name)
                job = JobLengths.of(step_cost(MODEL, layout, work, machine))
                first = _first(job)
                again = _middle(lambda job=job: simulate(job, steps=1), times)  # type: ignore[misc]
                one = _middle(
                    lambda job=job: simulate(job, DISTURBANCES, steps=1),  # type: ignore[misc]
                    times,
                )
                begin = time.process_time()
                got = simulate(job, DISTURBANCES, steps=32)
                many = (time.process_time() - begin) / 32
                print(
                    f"{world:6,} {name:13} PP{pipeline}xTP2 {m:4} |"
                    f"{1e3 * first:7.1f}{1e3 * again:7.1f} |{1e3 * one:7.1f}{1e3 * many:7.1f} |"
                    f"{got.slowdown:7.3f}"
                )
    return 0


def _first(job: JobLengths) -> float:
    """Seconds of a step whose schedule has to be laid out and ordered first."""
    for module in (schedule, replay, job_lengths):
        for known in vars(module).values():
            if hasattr(known, "cache_clear"):
                known.cache_clear()
    begin = time.process_time()
    simulate(job, steps=1)
    return time.process_time() - begin


if __name__ == "__main__":
    sys.exit(main())
