"""alpenglow plan simulate: steps of a layout with ranks that are not alike.

    alpenglow plan simulate --model 7b --machine summit --nodes 512 --pipeline 12 --tensor 2 \
        --schedule zb-h1 --order data-major --jitter 2% --slow-nodes 0.5%:1.1
    alpenglow plan simulate ... --from runs/measured --output plans/steps

Prints how long steps take, S against the undisturbed step, what each disturbance costs alone, on
top of the others and if it were cured, and idle time by stage. With `--output DIR` also
DIR/index.html, simulation.md, simulation.json and figures/. Strengths are assumed unless a run's
are taken by --from.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from alpenglow.parallel.disturbance import (
    Disturbance,
    Hiccups,
    Jitter,
    SlowLinks,
    SlowRanks,
    Spread,
)
from alpenglow.parallel.job_lengths import JobLengths
from alpenglow.parallel.slowdown import Slowdown, slowdown
from alpenglow.parallel.step_cost import StepCost
from alpenglow_analysis.layout_options import add_layout_options, predicted
from alpenglow_analysis.plan_ending import ended
from alpenglow_analysis.plan_writing import Picture, draw, write
from alpenglow_analysis.planned_run import PlanError, PlannedRun, add_options, planned_run
from alpenglow_analysis.simulate_page import page, simulation_json, text


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="alpenglow plan simulate",
        description="Steps of a layout with jitter, slow ranks, slow links, pauses.",
    )
    add_options(made)
    add_layout_options(made)
    luck = made.add_argument_group("what disturbs it")
    luck.add_argument(
        "--jitter", metavar="CV", help="standard deviation of a pass over its mean: 0.02 or 2%%"
    )
    luck.add_argument("--jitter-law", choices=("lognormal", "gamma"), default="lognormal")
    for name, who in (("nodes", "of a node's GPUs"), ("gpus", "of a GPU")):
        luck.add_argument(
            f"--slow-{name}", metavar="SHARE:FACTOR[-FACTOR]",
            help=f"share of {name} that compute slower, and how much longer passes {who} take: "
            "0.5%%:1.1, which MegaScale (NSDI'24) reports of machines, or 1%%:1.05-1.3",
        )  # fmt: skip
    luck.add_argument(
        "--slow-links", metavar="SHARE:FACTOR[-FACTOR]",
        help="share of nodes whose adapters are slow, and how much longer transfers take",
    )  # fmt: skip
    luck.add_argument("--hiccups", metavar="PER_HOUR:SECONDS[-SECONDS]", help="pauses of each rank")
    luck.add_argument(
        "--from", dest="run", type=Path, metavar="RUN",
        help="jitter, slow nodes, GPUs, links as a run measured them, where no option names them",
    )  # fmt: skip
    told = made.add_argument_group("what is told")
    told.add_argument("--steps", type=int, default=200)
    told.add_argument("--allocations", type=int, default=20, help="draws of slow nodes and links")
    told.add_argument("--seed", type=int, default=1)
    told.add_argument("--output", type=Path, metavar="DIR", help="write a page, JSON, figures")
    return made


def _number(option: str, word: str) -> float:
    try:
        return float(word[:-1]) / 100 if word.endswith("%") else float(word)
    except ValueError:
        raise PlanError(f"{option}: {word!r} is no number (0.02 or 2%)") from None


def _pair(option: str, word: str) -> tuple[float, Spread]:
    first, colon, rest = word.partition(":")
    if not (first and colon and rest):
        raise PlanError(f"{option} {word}: two parts with : between them, as in its help")
    points = tuple(_number(option, part) for part in rest.split("-"))
    if len(points) > 2 or points[0] > points[-1]:
        raise PlanError(f"{option} {word}: one value, or the lower and the higher with - between")
    return _number(option, first), Spread(points)


def disturbances(given: argparse.Namespace) -> list[Disturbance]:
    """Read what disturbs the job: options, and what they do not name from a measured run.

    Raises:
        PlanError, DisturbanceError: an option cannot be read, or its strength cannot be.
        RunError: the run cannot be read.
    """
    made: list[Disturbance] = []
    if given.slow_nodes is not None:
        made.append(SlowRanks(*_pair("--slow-nodes", given.slow_nodes)))
    if given.slow_gpus is not None:
        made.append(SlowRanks(*_pair("--slow-gpus", given.slow_gpus), per="gpu"))
    if given.jitter is not None:
        made.append(Jitter(_number("--jitter", given.jitter), given.jitter_law))
    if given.slow_links is not None:
        made.append(SlowLinks(*_pair("--slow-links", given.slow_links)))
    if given.hiccups is not None:
        made.append(Hiccups(*_pair("--hiccups", given.hiccups)))
    if given.run is not None:
        from alpenglow_analysis.measured_disturbances import measured
        from alpenglow_analysis.run import Run
        from alpenglow_analysis.study import study

        said = {_sort(one) for one in made}
        run = Run.load(given.run)
        made += [one for one in measured(run, study(run)) if _sort(one) not in said]
    return made


def _sort(one: Disturbance) -> tuple[str, str]:
    return one.key, getattr(one, "per", "")


def _write(folder: Path, run: PlannedRun, cost: StepCost, found: Slowdown, seed: int) -> None:
    from alpenglow_analysis import style
    from alpenglow_analysis.simulate_figure import simulate_figure

    with style.settings():
        pictures = [Picture(
            "simulation", simulate_figure(found),
            "Histogram of simulated steps, and GPUs lost by disturbance",
            "Left: lengths of simulated steps. Right: GPUs that are lost, all together in the "
            "order of the table, and by each where nothing else disturbs.",
        )] if found.costs else []  # fmt: skip
        drawn = draw(folder, pictures)
    made = page(run, cost, found, drawn, time.time())
    write(folder, "simulation", made, simulation_json(run, cost, found, seed))


def run(words: Sequence[str]) -> None:
    """Simulate, print, and write what was asked for.

    Raises:
        PlanError, ConfigError, MachineError, RunError, DisturbanceError: one sentence on what
            cannot be.
        OSError: the output cannot be written.
    """
    given = parser().parse_args(list(words))
    if given.steps < 1 or given.allocations < 1 or given.seed < 0:
        raise PlanError("--steps and --allocations are at least 1, --seed is 0 or more")
    some = disturbances(given)
    plan = planned_run(given)
    cost = predicted(plan, given)
    found = slowdown(
        JobLengths.of(cost), some, steps=given.steps, seed=given.seed, allocations=given.allocations
    )
    sys.stdout.write(text(plan, cost, found))
    if given.output is not None:
        _write(given.output, plan, cost, found, given.seed)
        sys.stdout.write(f"plan: {given.output / 'index.html'}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0, or 1 after one sentence on stderr, 2 for wrong usage."""
    return ended("simulate", run, arguments)


if __name__ == "__main__":
    sys.exit(main())
