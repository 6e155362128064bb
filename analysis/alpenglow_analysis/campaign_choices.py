"""What each choice changes: a campaign beside others that differ in one thing.

    for effect in effects(campaign, outcome, choices(campaign, machine)): ...

All are simulated with the same seed, so they meet the same failures and the same queue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from alpenglow_analysis.campaign import Campaign
from alpenglow_analysis.campaign_job import CampaignError, Job
from alpenglow_analysis.campaign_outcome import Outcome, percentiles
from alpenglow_analysis.campaign_simulation import simulate
from alpenglow_analysis.chosen_layout import GRADIENT_BITS, Chosen
from alpenglow_analysis.planned_run import PlanError
from alpenglow_analysis.queue_wait import QueueWait
from alpenglow_analysis.units import seconds
from alpenglow_lsf.machine import Machine

SLOW_NODE_HOURS = 20_000.0
"""assumed, for the row of slow nodes: node-hours for one episode."""
INFANT_SHAPE = 0.7
"""Weibull shape of LANL's systems: Schroeder and Gibson, DSN 2006."""
STEP_ERROR = 0.1
"""How much longer or shorter a step is in its row, where no interval is given."""
SPARE = 2
"""Spare nodes in the row of relaunches."""
SCHEDULES = ("1f1b", "zb-h1")
"""What the trainer has."""


@dataclass(frozen=True)
class Choice:
    """A campaign that differs from the planned one in one thing."""

    group: str
    """What differs: choices of one group share a row of the figure."""
    label: str
    campaign: Campaign
    note: str = ""
    """What was assumed for it."""


@dataclass(frozen=True)
class Effect:
    """What a choice changes."""

    choice: Choice
    outcome: Outcome
    base: Outcome

    @property
    def days(self) -> float:
        """Median calendar days, beyond those of the plan."""
        return percentiles(self.outcome.days)[1] - percentiles(self.base.days)[1]

    @property
    def node_hours(self) -> float:
        """Median node-hours, beyond those of the plan."""
        return percentiles(self.outcome.node_hours)[1] - percentiles(self.base.node_hours)[1]


def effects(
    base: Outcome, chosen: Sequence[Choice], count: int | None = None, seed: int = 1
) -> list[Effect]:
    """Simulate every choice.

    Args:
        base: the plan's own outcome.
        chosen: what to set beside it.
        count: campaigns of each; the plan's own if None.
        seed: the plan's own, so that all meet the same luck.

    Raises:
        CampaignError: one of them does not finish.
    """
    many = len(base) if count is None else count
    return [Effect(each, simulate(each.campaign, many, seed), base) for each in chosen]


def on_nodes(
    campaign: Campaign, machine: Machine, nodes: int, step_s: float | None = None
) -> Campaign:
    """The same run on other nodes, with the longest walltime there.

    Args:
        campaign: the run.
        machine: its machine.
        nodes: asked for.
        step_s: seconds of a step there; None: shorter in proportion, which strong scaling never is.
    """
    before = campaign.job
    job = Job.of(machine, nodes, queue=before.queue, spare=before.spare)
    ideal = campaign.work.step_s * before.training / job.training
    return campaign.changed(
        {
            "job": job,
            "wait": waiting(campaign.wait, machine, job),
            "step_s": ideal if step_s is None else step_s,
        }
    )


def waiting(wait: QueueWait, machine: Machine, job: Job) -> QueueWait:
    """The queue of another job: what was assumed is assumed anew, what was observed stays."""
    queue = machine.queue(job.queue)
    if not wait.assumed or queue is None:
        return wait
    total = machine.of_queue(job.queue).compute.nodes
    return QueueWait.default(queue, job.nodes, total, wait.median_s, wait.sigma).scaled(wait.factor)


def choices(
    campaign: Campaign, machine: Machine, chosen: Chosen | None = None
) -> tuple[list[Choice], list[str]]:
    """The choices that every plan is set beside, and a sentence for each that cannot be.

    Args:
        campaign: the plan.
        machine: its machine.
        chosen: the model's layout, where seconds of a step are predicted from it.
    """
    found: list[Choice] = []
    impossible: list[str] = []

    def add(group: str, label: str, make: Callable[[], Campaign], note: str = "") -> None:
        try:
            found.append(Choice(group, label, make(), note))
        except (CampaignError, PlanError) as error:
            impossible.append(f"{label}: {error}")

    def change(group: str, label: str, note: str = "", **changes: Any) -> None:
        add(group, label, lambda: campaign.changed(changes), note)

    own, hazards, work, job = campaign.overheads, campaign.hazards, campaign.work, campaign.job
    if chosen is not None:
        _predicted(campaign, machine, chosen, add)
    for nodes in _other_nodes(job, machine) if chosen is None else []:
        at = f"{nodes:,} nodes, ideal scaling"
        add(
            "Nodes", at, lambda nodes=nodes: on_nodes(campaign, machine, nodes),  # type: ignore[misc]
            "assumed: steps in proportion to nodes; the walltime of that bin"
            + (", its assumed queue" if campaign.wait.assumed else ""),
        )  # fmt: skip
    change("Walltime", f"walltime {seconds(job.walltime_s / 2)}", walltime_s=job.walltime_s / 2)
    error = work.step_error or STEP_ERROR
    for sign, word in ((-1, "shorter"), (1, "longer")):
        change("Step", f"steps {100 * error:g} % {word}", step_s=work.step_s * (1 + sign * error))
    for factor in (0.5, 2.0):
        interval = max(own.drain_s, factor * campaign.interval_s)
        change("Checkpoint interval", f"a checkpoint every {seconds(interval)}",
               interval_s=interval)  # fmt: skip
    for factor in (0.5, 2.0):
        change("Start-up", f"start-up and reading x {factor:g}",
               startup_s=factor * own.startup_s, read_s=factor * own.read_s)  # fmt: skip
    for factor in (0.5, 2.0):
        change("Queue", f"queue waits x {factor:g}", wait=campaign.wait.scaled(factor))
    if hazards.gpu_hours is not None:
        for factor in (0.5, 2.0):
            change("Failures", f"failures x {factor:g}", gpu_hours=hazards.gpu_hours / factor)
    if own.reserve_s is None:
        change("Reserve", "no reserve before the walltime", reserve_s=0.0)
    if hazards.gpu_hours is not None and not hazards.relaunch:
        add(
            "Spare nodes", f"{SPARE} spare nodes, relaunch within the job",
            lambda: _spare(campaign, machine), "nodes are asked for beside those that train",
        )  # fmt: skip
    if hazards.gpu_hours is not None and hazards.shape == 1:
        change("Clustered failures", f"failures in clusters (Weibull {INFANT_SHAPE:g})",
               "shape of LANL's systems, same mean", shape=INFANT_SHAPE)  # fmt: skip
    if hazards.slow_node_hours is None:
        change("Slow nodes", "a slow node now and then",
               f"assumed: once in {SLOW_NODE_HOURS:,.0f} node-hours, steps x "
               f"{hazards.slow_factor:g} for {hazards.slow_hours:g} h in the mean",
               slow_node_hours=SLOW_NODE_HOURS)  # fmt: skip
    return found, impossible


def _predicted(
    campaign: Campaign, machine: Machine, chosen: Chosen, add: Callable[..., None]
) -> None:
    """Choices that change the predicted step: other nodes, schedules, gradients in fewer bits.

    A step that was given and not predicted changes by the ratio of the two predictions.
    """
    job = campaign.job
    scale = campaign.work.step_s / chosen.cost.seconds

    def changed(other: Chosen) -> Campaign:
        if other.excess is not None:
            raise PlanError(other.excess)
        step_s = scale * other.cost.seconds
        if other.nodes == chosen.nodes:
            return campaign.changed({"step_s": step_s})
        return on_nodes(campaign, machine, other.nodes + job.spare, step_s)

    for nodes in _predicted_nodes(job, machine, chosen):
        other = chosen.on(nodes)
        add(
            "Nodes", f"{nodes + job.spare:,} nodes, steps of {seconds(scale * other.cost.seconds)}",
            lambda other=other: changed(other),
            "predicted; the same batch and degrees, the walltime of that bin"
            + (", its assumed queue" if campaign.wait.assumed else ""),
        )  # fmt: skip
    for name in SCHEDULES:
        if name != chosen.work.schedule and chosen.layout.pipeline > 1:
            other = chosen.scheduled(name)
            add("Schedule", f"schedule {name}", lambda other=other: changed(other), "predicted")
    if chosen.layout.data > 1:
        other = chosen.compressed(GRADIENT_BITS)
        less = 8 * (chosen.work.travels or chosen.work.gradient_size) / GRADIENT_BITS
        add(
            "Compressed gradients", f"gradients in 1/{less:.3g} of the bytes",
            lambda: changed(other),
            f"predicted; CocktailSGD as released (ICML 2023): {GRADIENT_BITS:.4g} bits a gradient; "
            "assumed: packing takes no time, as many steps are needed",
        )  # fmt: skip


def _predicted_nodes(job: Job, machine: Machine, chosen: Chosen) -> list[int]:
    """Nodes that train: as `_other_nodes`, moved within their bin to where replicas fill them."""
    queue = machine.queue(job.queue)
    found = []
    for wanted in _other_nodes(job, machine):
        held = None if queue is None else queue.bin(wanted)
        if held is not None:
            low, high = (max(1, end - job.spare) for end in held.nodes)
            nodes = chosen.nearest(wanted - job.spare, low, high)
            if nodes not in (None, job.training):
                found.append(nodes)
    return [n for n in dict.fromkeys(found) if n is not None]


def _spare(campaign: Campaign, machine: Machine) -> Campaign:
    before = campaign.job
    hours = before.walltime_s / 3600
    spare = before.spare + SPARE
    job = Job.of(machine, before.nodes + SPARE, hours=hours, queue=before.queue, spare=spare)
    return campaign.changed({"job": job, "relaunch": True})


def _other_nodes(job: Job, machine: Machine) -> list[int]:
    """Half the nodes, and the nearest ends of the bins beside this one."""
    queue = machine.queue(job.queue)
    if queue is None or job.bin is None:
        return []
    low, high = job.bin.nodes
    above = [b.nodes[0] for b in queue.bins if b.nodes[0] > high]
    below = [b.nodes[1] for b in queue.bins if b.nodes[1] < low]
    wanted = [*([max(below)] if below else []), job.nodes // 2, *([min(above)] if above else [])]
    return [n for n in dict.fromkeys(sorted(wanted)) if n > job.spare and n != job.nodes]
