"""A whole training run as a chain of jobs: what it asks for, what its jobs cost, what may go wrong.

    campaign = Campaign(
        job=Job.of(machine, nodes=512),
        work=Work(tokens=1e12, batch_tokens=4194304, step_s=1.9),
        wait=QueueWait.default(queue, 512, 4608),
    )
    simulate(campaign).days                      # alpenglow_analysis.campaign_simulation

All times are in seconds, rates a node-hour or GPU-hour. Seconds of a step come from outside: from
`alpenglow.parallel.step_cost`, from a measured run, or from a guess with its interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from alpenglow.train.deadline import reserve
from alpenglow.train.guard_policy import GuardRecipe
from alpenglow.train.save_interval import SaveInterval
from alpenglow_analysis.campaign_job import CampaignError, Job
from alpenglow_analysis.queue_wait import QueueWait
from alpenglow_analysis.units import billions, seconds

PUBLISHED_GPU_HOURS = 50.7e3
"""GPU-hours for an unexpected stop where the machine file has none: Llama 3 405B, 16,384 H100 for
54 days, 419 unexpected stops (arXiv 2407.21783, section 3.3.4)."""
MOST_JOBS = 5_000
"""A longer chain is no plan: 5,000 jobs of Summit's shortest bin are more than a year."""
PATIENCE = 100.0
"""More attempts than this for one durable checkpoint is a run that never finishes."""


@dataclass(frozen=True)
class Work:
    """What is to be trained."""

    tokens: float
    batch_tokens: float
    """Tokens of a step."""
    step_s: float
    step_error: float = 0.0
    """Half of the 90 % interval of `step_s`, as a share of it; a run is off by one factor."""
    ramp_batch_tokens: float = 0.0
    """Tokens of the first step, where the batch grows; 0: it does not."""
    ramp_tokens: float = 0.0
    """Tokens over which it grows, in proportion to the tokens trained (as GPT-3's)."""
    ramp_fixed: float = 0.5
    """assumed: share of a full step that a step with a small batch takes too (fill of the pipeline,
    reduction, optimizer); (p-1)/(m+p-1) of 1F1B alone is 0.41 to 0.58 for the 7B layouts."""

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_tokens", "step_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise CampaignError(f"{name} = {value:g}: it must be above 0")
        if self.tokens < self.batch_tokens:
            raise CampaignError(
                f"tokens = {self.tokens:g} are less than one step of {self.batch_tokens:g}"
            )
        if not 0 <= self.step_error < 1:
            raise CampaignError(
                f"step_error = {100 * self.step_error:g} %: it must be 0 or more and below 100 %"
            )
        if not 0 <= self.ramp_fixed <= 1:
            raise CampaignError(f"ramp_fixed = {self.ramp_fixed:g}: a share is 0 to 1")
        if self.ramp_batch_tokens and not (
            0 < self.ramp_batch_tokens < self.batch_tokens and 0 < self.ramp_tokens <= self.tokens
        ):
            raise CampaignError(
                "a ramp goes from fewer tokens a step to the full batch, within the tokens"
            )

    @property
    def sigma(self) -> float:
        """Standard deviation of the logarithm of a run's factor: 5 to 95 % are `step_error` off."""
        return math.log1p(self.step_error) / 1.6448536269514722

    @property
    def steps(self) -> int:
        """Optimizer steps; those of a ramp are smaller and more."""
        return math.ceil((self.tokens - self.ramp_tokens) / self.batch_tokens + self._ramp_steps)

    @property
    def full_steps(self) -> int:
        """Full steps that take as long as all `steps`: what the simulation counts in."""
        in_full = self.tokens / self.batch_tokens
        more = self.ramp_fixed * (self._ramp_steps - self.ramp_tokens / self.batch_tokens)
        return math.ceil(in_full + (more if self.ramp_batch_tokens else 0.0) - 1e-9)

    @property
    def _ramp_steps(self) -> float:
        """Steps of the ramp: the integral of tokens over a batch that grows linearly with them."""
        if not self.ramp_batch_tokens:
            return self.ramp_tokens / self.batch_tokens
        low, high = self.ramp_batch_tokens, self.batch_tokens
        return self.ramp_tokens / (high - low) * math.log(high / low)


@dataclass(frozen=True)
class Overheads:
    """What a job does besides steps, and how long it takes."""

    startup_s: float = 300.0
    """assumed: from the job's start to the first step or the reading of a checkpoint."""
    read_s: float = 60.0
    """assumed: reading a checkpoint."""
    save_s: float = 6.3
    """Training stands still for a save: torch's asynchronous distributed checkpoint, 7B (PyTorch
    blog, "Reducing checkpointing times by over 10x", 2024)."""
    drain_s: float = 148.8
    """From then until it is durable: what the same checkpoint took when it was not asynchronous."""
    leave_s: float = 30.0
    """assumed: from the last durable checkpoint to the job's end."""
    detect_s: float = GuardRecipe.hang_s
    """From a failure to the job's end: `guard.hang_s`, the watchdog's patience with a hang; a rank
    that dies is noticed at once."""
    interval_s: float | None = None
    """Training time between two saves; None: Daly's (2006), as the trainer does."""
    reserve_s: float | None = None
    """Time kept before the walltime; None: the trainer's rule."""
    evaluate_every: int = 1000
    """Steps; 0: never. jobs/pretrain_7b.toml: train.validate_every."""
    evaluate_s: float | None = None
    """None: a third of a step, the forward pass of one batch (validation_samples is one batch)."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise CampaignError(f"{spec.name} = {value:g}: it must be 0 or more")
        if self.interval_s is not None and self.interval_s <= 0:
            raise CampaignError("interval_s = 0: a checkpoint interval must be above 0")


@dataclass(frozen=True)
class Hazards:
    """What nobody planned."""

    gpu_hours: float | None = PUBLISHED_GPU_HOURS
    """GPU-hours of training nodes for one failure; None: never."""
    shape: float = 1.0
    """Weibull shape of the time between failures; 1: exponential. Schroeder and Gibson (DSN 2006)
    fitted 0.7 to 0.8 to LANL's systems. The mean stays as it is."""
    relaunch: bool = False
    """Whether a failed job starts again within its allocation while it has spare nodes, which
    alpenglow_lsf does not do: its chain goes on in the next job."""
    slow_node_hours: float | None = None
    """Node-hours for one episode of a slow node; None: never (no sourced rate)."""
    slow_factor: float = 1.15
    """assumed: how many times as long a step takes then; it waits for the slowest node."""
    slow_hours: float = 6.0
    """assumed: mean length of an episode; a new job's pre-flight leaves slow nodes out."""

    def __post_init__(self) -> None:
        for name in ("gpu_hours", "slow_node_hours"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise CampaignError(f"{name} = {value:g}: it must be above 0")
        if not (0.2 <= self.shape <= 5 and self.slow_factor >= 1 and self.slow_hours > 0):
            raise CampaignError(
                f"shape = {self.shape:g}, slow_factor = {self.slow_factor:g}, slow_hours = "
                f"{self.slow_hours:g}: should be 0.2 to 5, 1 or more, above 0"
            )


@dataclass(frozen=True)
class Campaign:
    """A run, whole."""

    job: Job
    work: Work
    wait: QueueWait
    overheads: Overheads = field(default_factory=Overheads)
    hazards: Hazards = field(default_factory=Hazards)
    price: float | None = None
    """Dollars a node-hour; None: unknown."""
    node_watts: float | None = None
    """Mean power of a node of a running job; None: unknown."""

    def __post_init__(self) -> None:
        for name in ("price", "node_watts"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise CampaignError(f"{name} = {value:g}: it must be 0 or more")
        self._check()

    @property
    def mean_time_s(self) -> float | None:
        """Mean time between failures of the job in seconds; None: none."""
        rate = self.hazards.gpu_hours
        return None if rate is None else 3600 * rate / self.job.gpus

    @property
    def interval_s(self) -> float:
        """Training time between two saves."""
        given = self.overheads.interval_s
        return self.best_interval_s if given is None else given

    @property
    def best_interval_s(self) -> float:
        """Daly's interval, by the trainer's rule."""
        return self._best(self.mean_time_s)

    def _best(self, mean_time_s: float | None) -> float:
        rule = SaveInterval(None, mean_time_s=mean_time_s)
        rule.measured(self.overheads.save_s, self.overheads.drain_s)
        return max(rule.seconds, self.overheads.drain_s)

    @property
    def reserve_s(self) -> float:
        """Time kept before the walltime for the last checkpoint."""
        own = self.overheads
        if own.reserve_s is not None:
            return own.reserve_s
        return reserve(own.save_s, own.drain_s, own.leave_s, self.work.step_s)

    @property
    def evaluate_s(self) -> float:
        """Seconds of one evaluation."""
        given = self.overheads.evaluate_s
        return self.work.step_s / 3 if given is None else given

    def changed(self, changes: Mapping[str, Any]) -> Campaign:
        """The same with fields of any of its parts set anew, by name: `step_s`, `spare`, ...

        Raises:
            CampaignError: no part has such a field, or the new campaign cannot be.
        """
        own: dict[str, Any] = {}
        for part in ("job", "work", "overheads", "hazards"):
            before = getattr(self, part)
            names = {spec.name for spec in fields(before)}
            own[part] = replace(before, **{k: v for k, v in changes.items() if k in names})
        whole = {spec.name for spec in fields(self)}
        own |= {key: value for key, value in changes.items() if key in whole}
        known = whole | {s.name for p in own.values() if hasattr(p, "__dataclass_fields__")
                         for s in fields(p)}  # fmt: skip
        for key in changes:
            if key not in known:
                raise CampaignError(f"a campaign has no {key}; it has {', '.join(sorted(known))}")
        return replace(self, **own)

    def _check(self) -> None:
        """Refuse what never finishes, or not in any time that one can plan for."""
        own, job = self.overheads, self.job
        ahead = own.startup_s + own.read_s
        last = own.save_s + own.drain_s + own.leave_s
        least = ahead + max(self.reserve_s, last) + self.work.step_s
        if least > job.walltime_s:
            raise CampaignError(
                f"a job of {seconds(job.walltime_s)} is over before a checkpoint of it is durable: "
                f"start-up and reading take {seconds(ahead)}, a step {seconds(self.work.step_s)}, "
                f"the reserve before the walltime {seconds(max(self.reserve_s, last))}; the "
                f"nearest that works is a walltime of {math.ceil(least / 36) / 100:g} h"
            )
        if self.interval_s < own.drain_s:
            raise CampaignError(
                f"a checkpoint every {seconds(self.interval_s)} is due before the one before is "
                f"durable ({seconds(own.drain_s)}): the nearest that works is "
                f"{math.ceil(own.drain_s / 6) / 10:g} min"
            )
        needed = self.work.tokens / self.work.batch_tokens * self.work.step_s
        jobs = needed / (job.walltime_s - least + self.work.step_s)
        if jobs > MOST_JOBS:
            fewer = billions(0.99 * self.work.tokens * MOST_JOBS / jobs)
            raise CampaignError(
                f"{needed / 3600:,.0f} h of steps take about {jobs:,.0f} jobs of "
                f"{seconds(job.walltime_s)}, more than {MOST_JOBS:,}: the nearest that works is "
                f"{fewer} tokens, or a longer walltime"
            )
        self._check_failures(ahead)

    def _check_failures(self, ahead: float) -> None:
        mean = self.mean_time_s
        if mean is None:
            return
        most = mean * math.log(PATIENCE)
        until = self._first_durable(mean)
        if until <= most:
            return
        own, step = self.overheads, self.work.step_s
        room = most - ahead - own.save_s - own.drain_s - step
        if room >= own.drain_s:
            longest = min(room, self.best_interval_s)
            cure = f"a checkpoint every {math.floor(longest / 0.6) / 100:g} min"
        else:
            nodes = self._most_nodes(mean)
            cure = f"{nodes:,} nodes that train" if nodes else "a job that starts sooner"
        raise CampaignError(
            f"a failure comes every {seconds(mean)}, and a job's first checkpoint is durable after "
            f"{seconds(until)}: fewer than one start in {PATIENCE:g} gains anything; the nearest "
            f"that works is {cure}"
        )

    def _first_durable(self, mean_time_s: float) -> float:
        """Seconds from a job's start until its first checkpoint is durable."""
        own, step = self.overheads, self.work.step_s
        given = own.interval_s
        interval = self._best(mean_time_s) if given is None else given
        ahead = own.startup_s + own.read_s
        first = min(math.ceil(interval / step) * step, self.job.walltime_s - ahead)
        return ahead + first + own.save_s + own.drain_s

    def _most_nodes(self, mean_time_s: float) -> int:
        """Most training nodes with which one start in PATIENCE gains a checkpoint; 0: none."""
        low, high = 0, self.job.training
        while high - low > 1:
            middle = (low + high) // 2
            mean = mean_time_s * self.job.training / middle
            works = self._first_durable(mean) <= mean * math.log(PATIENCE)
            low, high = (middle, high) if works else (low, middle)
        return low
