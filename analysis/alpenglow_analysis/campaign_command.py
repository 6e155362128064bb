"""alpenglow plan campaign: a whole run as a chain of jobs, simulated thousands of times.

    alpenglow plan campaign --nodes 512 --tokens 1T --batch-tokens 4194304 --step-seconds 1.9
    alpenglow plan campaign --nodes 512 --tokens 1T --model 7b [--layout NAME] [--calibration FILE]
    alpenglow plan campaign ... --choice "published layout: --step-seconds 3.98" --output plans/7b

Prints days, node-hours, jobs, failures, where the node-hours go, and what each choice changes. With
`--output DIR` also DIR/index.html, campaign.md, campaign.json and figures/. A choice is any options
that are laid over the others.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from alpenglow.config import ConfigError
from alpenglow_analysis.campaign import Campaign, Hazards, Overheads, Work
from alpenglow_analysis.campaign_choices import Choice, Effect, choices, effects, waiting
from alpenglow_analysis.campaign_job import CampaignError, Job
from alpenglow_analysis.campaign_outcome import Outcome
from alpenglow_analysis.campaign_page import campaign_json, notes, page, text
from alpenglow_analysis.campaign_simulation import simulate
from alpenglow_analysis.campaign_sources import GIVEN, Source
from alpenglow_analysis.chosen_layout import Chosen, choose
from alpenglow_analysis.plan_ending import ended
from alpenglow_analysis.plan_writing import Picture, draw, write
from alpenglow_analysis.planned_run import PlanError, add_options, planned_run
from alpenglow_analysis.queue_wait import MEDIAN_S, SIGMA, QueueWait
from alpenglow_analysis.segment import RunError
from alpenglow_lsf.machine import Machine, current, load
from alpenglow_lsf.segment import read_segments

PREFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}


def amount(word: str) -> float:
    """A number, also as 4M, 800B or 1T."""
    factor = PREFIXES.get(word[-1:], 1.0)
    try:
        return factor * float(word[:-1] if factor != 1.0 else word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is no number (1e12, 4194304, 1T)") from None


def parser() -> argparse.ArgumentParser:
    """The options; times are in the unit that their name or help says."""
    made = argparse.ArgumentParser(
        prog="alpenglow plan campaign",
        description="A whole run as a chain of jobs: days, node-hours, and what choices change.",
    )
    need = made.add_argument_group("the run")
    need.add_argument("--nodes", type=int, required=True, help="asked for, spare ones included")
    need.add_argument("--tokens", type=amount, required=True)
    add_run_options(made)
    return made


def add_run_options(made: argparse.ArgumentParser) -> None:
    """Add all options of a campaign but its nodes and tokens."""
    add_options(made, gpus=False, required=False)
    need = made.add_argument_group("its steps, where no --model predicts them")
    need.add_argument(
        "--layout", metavar="NAME|DEGREES|FILE",
        help="of the model: a name in the recipe's [layouts], pipeline=12,tensor=2,..., or what "
        "alpenglow plan layout wrote; default: the recipe's own",
    )  # fmt: skip
    need.add_argument("--batch-tokens", type=amount, help="tokens of a step")
    need.add_argument("--step-seconds", type=float, help="measured, or predicted elsewhere")
    need.add_argument("--step-error", type=float, metavar="%", help="90 %% interval is +- so much")
    need.add_argument(
        "--ramp", metavar="BATCH:TOKENS[:SHARE]",
        help="the batch grows from BATCH tokens over TOKENS; SHARE of a step does not shrink (0.5)",
    )  # fmt: skip
    jobs = made.add_argument_group("its jobs")
    jobs.add_argument("--walltime", type=float, metavar="HOURS", help="default: the bin's longest")
    jobs.add_argument("--queue")
    jobs.add_argument("--spare", type=int, default=0, help="nodes among them that are spare")
    jobs.add_argument("--startup", type=float, metavar="S")
    jobs.add_argument("--read", type=float, metavar="S", help="reading a checkpoint")
    jobs.add_argument("--save", type=float, metavar="S", help="training stands still for a save")
    jobs.add_argument("--drain", type=float, metavar="S", help="from then until it is durable")
    jobs.add_argument("--leave", type=float, metavar="S")
    jobs.add_argument("--checkpoint-minutes", type=float, metavar="MIN", help="default: Daly's")
    jobs.add_argument("--reserve", type=float, metavar="S", help="kept before the walltime")
    jobs.add_argument("--evaluate-every", type=int, metavar="STEPS", help="0: never")
    jobs.add_argument("--evaluate-seconds", type=float, metavar="S")
    jobs.add_argument(
        "--measured", type=Path, metavar="RUN",
        help="a run whose jobs measured start-up, saves and drains",
    )  # fmt: skip
    queue = made.add_argument_group("the queue")
    queue.add_argument("--wait-hours", metavar="MEDIAN[:SIGMA]", help="lognormal, of time in line")
    queue.add_argument("--wait-file", type=Path, help="a wait in hours on each line")
    queue.add_argument("--wait-runs", type=Path, nargs="+", metavar="RUN", help="of their jobs")
    queue.add_argument("--no-wait", action="store_true", help="nodes of one's own")
    luck = made.add_argument_group("what nobody plans")
    luck.add_argument(
        "--failure-gpu-hours", metavar="HOURS",
        help="GPU-hours for one failure; none: never; default: the machine file's",
    )  # fmt: skip
    luck.add_argument("--weibull-shape", type=float, metavar="K", help="default 1: exponential")
    luck.add_argument("--detect", type=float, metavar="S", help="until a failure is noticed")
    luck.add_argument("--relaunch", action="store_true", help="on a spare node, within the job")
    luck.add_argument(
        "--slow", metavar="NODE_HOURS:FACTOR:HOURS",
        help="once in so many node-hours a node is slow by a factor for some hours",
    )  # fmt: skip
    cost = made.add_argument_group("cost")
    cost.add_argument("--price", type=float, help="dollars a node-hour; default: machine file's")
    cost.add_argument("--node-watts", type=float, help="mean power of a node")
    cost.add_argument("--power-from", type=Path, metavar="RUN", help="a run that was sampled")
    told = made.add_argument_group("what is told")
    told.add_argument("--campaigns", type=int, default=10_000)
    told.add_argument("--seed", type=int, default=1)
    told.add_argument(
        "--choice", action="append", default=[], metavar="'LABEL: OPTIONS'",
        help="set the same with other options beside it; may be repeated",
    )  # fmt: skip
    told.add_argument("--no-choices", action="store_true", help="leave the usual choices out")
    told.add_argument("--output", type=Path, metavar="DIR", help="write a page, JSON, figures")


def campaign_of(given: argparse.Namespace, machine: Machine) -> tuple[Campaign, dict[str, Source]]:
    """Build a campaign from options; the second is where its inputs are from.

    Raises:
        CampaignError: it cannot be.
        RunError: a run or a file of waits cannot be used.
    """
    job = Job.of(machine, given.nodes, hours=given.walltime, queue=given.queue, spare=given.spare)
    sources: dict[str, Source] = {}
    chosen = chosen_of(given, machine)

    def take(values: dict[str, Any], into: dict[str, Any], source: Source = GIVEN) -> None:
        for name, value in values.items():
            if value is not None:
                into[name] = value
                sources[name] = source

    take({"walltime_s": given.walltime, "queue": given.queue}, {})
    work: dict[str, Any] = {"tokens": given.tokens}
    if chosen is not None:
        take({"batch_tokens": chosen.run.batch_tokens}, work, f"model {chosen.run.name}")
    if chosen is not None and given.step_seconds is None:
        own = chosen.run.calibration
        sure = "assumed: as machine files alone" if own is None else f"calibration {own.source}"
        take({"step_s": chosen.cost.seconds}, work, f"predicted: {chosen.words}")
        take({"step_error": chosen.run.error}, work, sure)
    take({"batch_tokens": given.batch_tokens, "step_s": given.step_seconds}, work)
    take({"step_error": None if given.step_error is None else given.step_error / 100}, work)
    if given.ramp is not None:
        names = ("ramp_batch_tokens", "ramp_tokens", "ramp_fixed")
        take(dict(zip(names, _numbers("--ramp", given.ramp, 2, 3), strict=False)), work)

    own_times: dict[str, Any] = {}
    if given.measured is not None:
        take(_measured(given.measured), own_times, f"measured in {given.measured}")
    minutes = given.checkpoint_minutes
    take(
        {
            "startup_s": given.startup, "read_s": given.read, "save_s": given.save,
            "drain_s": given.drain, "leave_s": given.leave, "detect_s": given.detect,
            "interval_s": None if minutes is None else 60 * minutes,
            "reserve_s": given.reserve, "evaluate_every": given.evaluate_every,
            "evaluate_s": given.evaluate_seconds,
        },
        own_times,
    )  # fmt: skip

    hazards: dict[str, Any] = {}
    nodes_of = machine.of_queue(given.queue)
    if given.failure_gpu_hours is not None:
        sources["gpu_hours"] = GIVEN
        never = given.failure_gpu_hours == "none"
        hazards["gpu_hours"] = (
            None if never else _numbers("--failure-gpu-hours", given.failure_gpu_hours, 1, 1)[0]
        )
    elif nodes_of.failures is not None:
        take({"gpu_hours": nodes_of.failures.gpu_hours}, hazards, "machine file")
    take({"shape": given.weibull_shape, "relaunch": given.relaunch or None}, hazards)
    if given.slow is not None:
        names = ("slow_node_hours", "slow_factor", "slow_hours")
        take(dict(zip(names, _numbers("--slow", given.slow, 1, 3), strict=False)), hazards)

    rest: dict[str, Any] = {}
    take({"price": nodes_of.price_per_node_hour}, rest, "machine file")
    take({"price": given.price, "node_watts": given.node_watts}, rest)
    if given.power_from is not None and given.node_watts is None:
        take({"node_watts": _watts(given.power_from)}, rest, f"samples of {given.power_from}")
    made = Campaign(
        job=job,
        work=Work(**work),
        wait=_wait(given, machine, job),
        overheads=Overheads(**own_times),
        hazards=Hazards(**hazards),
        **rest,
    )
    return made, sources


def chosen_of(given: argparse.Namespace, machine: Machine) -> Chosen | None:
    """The layout of --model on the nodes that train; None without one.

    Raises:
        CampaignError: neither a model nor seconds and tokens of a step, or a layout that does not
            fit the GPUs' memory.
        PlanError, ConfigError, LayoutError: the model cannot be planned.
    """
    if given.model is None:
        missing = [
            name
            for name, value in (
                ("--step-seconds", given.step_seconds), ("--batch-tokens", given.batch_tokens),
            )
            if value is None
        ]  # fmt: skip
        if missing:
            raise CampaignError(
                f"{' and '.join(missing)} missing: give them, or a --model that predicts them"
            )
        return None
    nodes = argparse.Namespace(**{**vars(given), "nodes": given.nodes - given.spare, "gpus": None})
    chosen = choose(planned_run(nodes, machine.of_queue(given.queue)), given.layout)
    if chosen.excess is not None:
        raise CampaignError(chosen.excess)
    return chosen


def _numbers(option: str, word: str, least: int, most: int) -> list[float]:
    try:
        found = [amount(part) for part in word.split(":")]
    except argparse.ArgumentTypeError as error:
        raise CampaignError(f"{option} {word}: {error}") from None
    if not least <= len(found) <= most:
        many = str(least) if least == most else f"{least} to {most}"
        raise CampaignError(f"{option} {word}: {many} numbers with : between them")
    return found


def _wait(given: argparse.Namespace, machine: Machine, job: Job) -> QueueWait:
    said = {
        "--no-wait": given.no_wait, "--wait-hours": given.wait_hours is not None,
        "--wait-file": given.wait_file is not None, "--wait-runs": given.wait_runs is not None,
    }  # fmt: skip
    several = [name for name, there in said.items() if there]
    if len(several) > 1:
        raise CampaignError(f"{' and '.join(several)} exclude each other: keep one")
    if given.no_wait:
        return QueueWait.none()
    if given.wait_file is not None:
        return QueueWait.read(given.wait_file)
    if given.wait_runs is not None:
        return QueueWait.of_runs(given.wait_runs)
    middle, sigma = MEDIAN_S, SIGMA
    if given.wait_hours is not None:
        found = _numbers("--wait-hours", given.wait_hours, 1, 2)
        middle, sigma = 3600 * found[0], ([*found, SIGMA])[1]
    return waiting(QueueWait("assumed", True, median_s=middle, sigma=sigma), machine, job)


def _measured(run: Path) -> dict[str, float]:
    """Medians of what a run's jobs measured of themselves."""
    records = read_segments(run)
    if not records:
        raise RunError(f"{run}: not a run directory, or it has no segment record")
    found = {}
    for name in ("startup_s", "save_s", "drain_s"):
        values = [float(r[name]) for r in records if r.get(name) is not None]
        if values:
            found[name] = median(values)
    if not found:
        raise RunError(f"{run}: none of its jobs measured a start-up or a save")
    return found


def _watts(run: Path) -> float:
    """Mean power of a charged node of a run."""
    from alpenglow_analysis.power import power
    from alpenglow_analysis.run import Run

    loaded = Run.load(run)
    found = power(loaded, write=False)
    if found is not None:
        known = [s for s in loaded.segments if found.joules.get(s.name) is not None]
        node_hours = sum(segment.node_hours for segment in known)
        if node_hours:
            return 1e6 * found.mwh / node_hours
    raise RunError(f"{run}: no energy was sampled: give --node-watts")


def _choices(
    given: argparse.Namespace, words: Sequence[str], plan: Campaign, machine: Machine
) -> tuple[list[Choice], list[str]]:
    """The user's own choices, then the usual ones."""
    own = []
    for said in given.choice:
        label, colon, options = said.partition(":")
        if not (colon and label.strip() and options.strip()):
            raise CampaignError(
                f"--choice {said!r}: a label, a colon, and options, as "
                '"published layout: --step-seconds 3.98"'
            )
        try:
            over = parser().parse_args([*words, *shlex.split(options)])
        except ValueError as error:
            raise CampaignError(f"--choice {said!r}: {error}") from None
        other = machine if over.machine == given.machine else _machine(over.machine)
        try:
            changed, _ = campaign_of(over, other)
        except (CampaignError, PlanError, ConfigError) as error:
            raise CampaignError(f"--choice {label.strip()!r}: {error}") from None
        own.append(Choice(label.strip(), label.strip(), changed, options.strip()))
    if given.no_choices:
        return own, []
    usual, impossible = choices(plan, machine, chosen_of(given, machine))
    return [*own, *usual], impossible


def _machine(name: str | None) -> Machine:
    found = current() if name is None else load(name)
    return found.target


def _write(
    folder: Path, outcome: Outcome, beside: Sequence[Effect], sources: dict[str, Source],
    told: Sequence[str], seed: int,
) -> None:  # fmt: skip
    from alpenglow_analysis import style
    from alpenglow_analysis.campaign_figure import campaign_figure, choices_figure

    with style.settings():
        pictures = [Picture(
            "campaign", campaign_figure(outcome), "Days and node-hours of simulated campaigns",
            "Left: share of campaigns that are over by a day. Right: mean share of node-hours.",
        )]  # fmt: skip
        changes = choices_figure(beside)
        if changes is not None:
            pictures.append(Picture(
                "choices", changes, "What each choice changes, as bars",
                "One thing is changed at a time. A bar that ends in dots is longer than the axis.",
            ))  # fmt: skip
        drawn = draw(folder, pictures)
    made = page(outcome, beside, sources, told, drawn, time.time())
    write(folder, "campaign", made, campaign_json(outcome, beside, sources, told, seed))


def run(words: Sequence[str]) -> None:
    """Simulate, print, and write what was asked for.

    Raises:
        CampaignError, RunError, MachineError: one sentence on what cannot be.
        OSError: the output cannot be written.
    """
    given = parser().parse_args(list(words))
    machine = _machine(given.machine)
    plan, sources = campaign_of(given, machine)
    chosen, impossible = _choices(given, words, plan, machine)
    outcome = simulate(plan, given.campaigns, given.seed)
    beside = effects(outcome, chosen, given.campaigns, given.seed)
    told = notes(outcome, impossible)
    sys.stdout.write(text(outcome, beside, sources, told) + "\n")
    if given.output is not None:
        _write(given.output, outcome, beside, sources, told, given.seed)
        sys.stdout.write(f"plan: {given.output / 'index.html'}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0, or 1 after one sentence on stderr, 2 for wrong usage."""
    return ended("campaign", run, arguments)


if __name__ == "__main__":
    sys.exit(main())
