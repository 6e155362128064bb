"""Where each input of a campaign is from: given, machine file, measured, published or assumed."""

from __future__ import annotations

from collections.abc import Mapping

from alpenglow_analysis.campaign import Campaign
from alpenglow_analysis.units import billions, count, hours, seconds

Source = str

GIVEN: Source = "given"
DEFAULTS: dict[str, Source] = {
    "step_error": "assumed: the step is taken as exact",
    "ramp_fixed": "assumed",
    "startup_s": "assumed",
    "read_s": "assumed",
    "save_s": "published: torch's asynchronous checkpoint, 7B (PyTorch blog, 2024)",
    "drain_s": "published: the same checkpoint when it was not asynchronous",
    "leave_s": "assumed",
    "detect_s": "this project: guard.hang_s, the watchdog's patience",
    "interval_s": "computed: Daly 2006, a drain at most a tenth (the trainer's rule)",
    "reserve_s": "computed: the trainer's rule",
    "evaluate_every": "this project: train.validate_every of jobs/pretrain_7b.toml",
    "evaluate_s": "computed: a third of a step, the forward pass of one batch",
    "gpu_hours": "published: Llama 3 405B, 419 stops in 54 days of 16,384 GPUs (arXiv 2407.21783)",
    "shape": "assumed: exponential",
    "relaunch": "this project: a chain goes on in the next job",
    "slow_node_hours": "none is sourced",
    "slow_factor": "assumed",
    "slow_hours": "assumed",
    "walltime_s": "machine file: the longest of the bin",
    "queue": "machine file: the default queue",
    "bin": "machine file",
}
"""Field -> source of what it is where nobody gave it."""


def inputs(plan: Campaign, sources: Mapping[str, Source]) -> list[tuple[str, str, str]]:
    """Label, value and source of every input.

    Args:
        plan: the campaign.
        sources: field -> source, where that is not the default's.
    """
    job, work, own, hazards = plan.job, plan.work, plan.overheads, plan.hazards
    mean = plan.mean_time_s

    def of(name: str) -> str:
        return sources.get(name, DEFAULTS.get(name, GIVEN))

    rows = [
        ("nodes of a job", f"{job.nodes:,}", of("nodes")),
        ("of them spare", f"{job.spare:,}", of("spare")),
        ("queue", f"{job.queue} of {job.machine}", of("queue")),
    ]
    if job.bin is not None:
        low, high = job.bin.nodes
        boost = f", {job.bin.boost_days:g} days of aging boost" if job.bin.boost_days else ""
        text = f"{low:,} to {high:,} nodes: at most {job.bin.hours:g} h{boost}"
        rows.append(("bin", text, of("bin")))
    rows += [
        ("walltime", seconds(job.walltime_s), of("walltime_s")),
        ("queue waits", plan.wait.words, "assumed" if plan.wait.assumed else of("wait")),
        ("tokens", billions(work.tokens), of("tokens")),
        ("tokens a step", f"{work.batch_tokens:,.0f}", of("batch_tokens")),
        ("seconds of a step", f"{work.step_s:.4g}", of("step_s")),
        ("90 % interval of it", f"± {100 * work.step_error:g} %", of("step_error")),
    ]
    if work.ramp_batch_tokens:
        text = f"from {work.ramp_batch_tokens:,.0f} tokens, over {billions(work.ramp_tokens)}"
        rows.append(("batch ramp", text, of("ramp_tokens")))
        rows.append(("fixed share of a step in it", f"{work.ramp_fixed:g}", of("ramp_fixed")))
    rows += [
        ("start-up", seconds(own.startup_s), of("startup_s")),
        ("reading a checkpoint", seconds(own.read_s), of("read_s")),
        ("stall of a save", seconds(own.save_s), of("save_s")),
        ("until it is durable", seconds(own.drain_s), of("drain_s")),
        ("leaving", seconds(own.leave_s), of("leave_s")),
        ("checkpoint interval", seconds(plan.interval_s), of("interval_s")),
        ("reserve before the walltime", seconds(plan.reserve_s), of("reserve_s")),
    ]
    if own.evaluate_every:
        rows.append(("evaluation every", f"{own.evaluate_every:,} steps", of("evaluate_every")))
        rows.append(("an evaluation", seconds(plan.evaluate_s), of("evaluate_s")))
    if mean is None or hazards.gpu_hours is None:
        rows.append(("failures", "none", of("gpu_hours")))
    else:
        rows += [
            ("GPU-hours for a failure", count(hazards.gpu_hours), of("gpu_hours")),
            ("a failure of the job every", f"{hours(mean / 3600)} h", "computed"),
            ("Weibull shape of the gaps", f"{hazards.shape:g}", of("shape")),
            ("until it is noticed", seconds(own.detect_s), of("detect_s")),
            ("relaunch within the job", "yes" if hazards.relaunch else "no", of("relaunch")),
        ]
    if hazards.slow_node_hours is None:
        rows.append(("slow nodes", "none", of("slow_node_hours")))
    else:
        text = (
            f"once in {count(hazards.slow_node_hours)} node-hours, steps x "
            f"{hazards.slow_factor:g}, {hazards.slow_hours:g} h in the mean"
        )
        rows.append(("slow nodes", text, of("slow_node_hours")))
    if plan.price is not None:
        rows.append(("dollars a node-hour", f"{plan.price:g}", of("price")))
    if plan.node_watts is not None:
        rows.append(("power of a node", f"{plan.node_watts:,.0f} W", of("node_watts")))
    return rows
