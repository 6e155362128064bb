"""The guard around a training step: bad gradients, bad batches, spikes, corruption, slow ranks.

What it decides, every rank decides alike, from numbers that all have: nothing here may make one
rank run a step that another skips. What changes which samples are learnt is written down
(`skips.jsonl`) before training goes on, so that a quiet run with the same ranges in `guard.skip`
has the same bits.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow.train.checkpoint import Group
from alpenglow.train.crosscheck import CrossCheck
from alpenglow.train.engine import Engine, StepResult
from alpenglow.train.failure import TrainingError
from alpenglow.train.guard_policy import GuardRecipe
from alpenglow.train.nonfinite import NonFiniteGradients
from alpenglow.train.skips import FILE, Skip, Skips, read_skips
from alpenglow.train.slow_ranks import BusyTime, SlowRanks
from alpenglow.train.spikes import Spike, SpikeDetector
from alpenglow.train.whereabouts import Whereabouts

# fp16 halves its scale a few times in a row when a run starts; so many in a row is divergence.
MOST_SKIPPED_IN_A_ROW = 20
MOST_REWINDS = 3
"""Times that a run goes back to one checkpoint; a loss that spikes on is no matter of batches."""

COUNTS = ("overflows", "reruns", "skipped", "spikes", "rewinds", "disagreements", "slow_ranks")
"""What the guard counts: steps that fp16's loss scale passed over, steps run twice because their
gradients were not finite, steps whose samples were skipped, spikes seen, times gone back,
cross-checks that disagreed, ranks named slow."""


@dataclass(frozen=True)
class StepOutcome:
    """What became of a step."""

    result: StepResult
    """The last run of it; where nothing was run, its loss is nan."""
    reruns: int = 0
    skipped: str | None = None
    """Why its samples were passed over; None where they were learnt, or fp16 overflowed."""


class Guard:
    """Runs steps for the trainer.

    Args:
        engine: it gets hooks; built, and with the weights to train from.
        policy: the recipe's table.
        run: the run directory; decisions of earlier segments are read from it.
        segment: name of this segment.
        group: all ranks.
        hosts: host of each rank, for sentences.
        whereabouts: knows this rank's waits.
        say: prints on rank 0.
        until_step: the history of losses that counts ends with this step.
    """

    def __init__(
        self,
        engine: Engine,
        policy: GuardRecipe,
        run: Path,
        segment: str,
        group: Group,
        hosts: tuple[str, ...],
        whereabouts: Whereabouts,
        say: Callable[[str], None],
        *,
        until_step: int = 0,
    ) -> None:
        self.engine = engine
        self.policy = policy
        self.segment = segment
        self.whereabouts = whereabouts
        self.counts: Counter[str] = Counter()
        self.skips = open_skips(policy, run, group)
        self._group = group
        self._hosts = hosts
        self._say = say
        self._in_a_row = 0
        self._rewinds: Counter[int] = Counter()
        self._dynamic = bool(getattr(engine.scaler, "dynamic", False))
        self._bad = NonFiniteGradients(engine.inner)
        self._busy = BusyTime(engine.inner, engine.inner.recorder)
        stages = [engine.layout.coordinates(rank)[0] for rank in range(engine.layout.world)]
        self._slow = SlowRanks(stages, policy.slow_factor, policy.slow_windows)
        self._crosscheck = CrossCheck(engine.inner, engine.layout)
        own = recent_losses(run, until_step, policy.spike_window) if group.rank == 0 else []
        losses = group.all_gather_object(own)[0]
        self._spikes = SpikeDetector(policy.spike_threshold, policy.spike_window, losses)

    def step(
        self,
        step: int,
        samples: tuple[int, int],
        batches: Callable[[], Iterator[Any]],
        lr: float,
    ) -> StepOutcome:
        """Train on one global batch, or pass it over.

        Args:
            step: its number, 1-based.
            samples: first and last sample of the batch.
            batches: gives this replica's micro-batches of the step, again at each call.
            lr: learning rate of the update.

        Raises:
            TrainingError: the policy is to stop, or steps fail one after the other.
        """
        known = self.skips.touching(*samples)
        if known is not None:
            self._count("skipped")
            nothing = StepResult(math.nan, None, self._scale(), applied=False)
            self._say(f"step {step}: samples {samples[0]} to {samples[1]} skipped ({known.reason})")
            return StepOutcome(nothing, skipped=known.reason)
        if self.policy.verify_every and step % self.policy.verify_every == 0:
            self._verify(step, batches())
        result = self.engine.step(batches(), lr)
        if result.applied:
            self._in_a_row = 0
            return StepOutcome(result)
        if self._dynamic:
            self._count("overflows")
            self._too_many(step)
            return StepOutcome(result)
        return self._again(step, samples, batches, lr)

    def _again(
        self,
        step: int,
        samples: tuple[int, int],
        batches: Callable[[], Iterator[Any]],
        lr: float,
    ) -> StepOutcome:
        where = self._named(self._bad.where)
        if self.policy.nonfinite == "stop":
            raise TrainingError(
                f"gradients of step {step} (samples {samples[0]} to {samples[1]}) are not finite "
                f"on {where}, and guard.nonfinite is stop"
            )
        self._count("reruns")
        result = self.engine.step(batches(), lr)
        if result.applied:
            self._in_a_row = 0
            self._say(
                f"step {step}: gradients were not finite on {where}; run again from the same "
                "state they are: a passing fault of that rank or of the way to it"
            )
            return StepOutcome(result, reruns=1)
        self.skips.record(Skip(*samples, "nonfinite", step, self.segment))
        self._count("skipped")
        self._say(
            f"step {step}: gradients are not finite on {where}, twice; samples {samples[0]} to "
            f"{samples[1]} are skipped"
        )
        self._too_many(step)
        return StepOutcome(result, reruns=1, skipped="nonfinite")

    def _too_many(self, step: int) -> None:
        self._in_a_row += 1
        if self._in_a_row >= MOST_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"gradients were not finite in {MOST_SKIPPED_IN_A_ROW} steps in a row, up to step "
                f"{step}: training has diverged; resume from an earlier checkpoint "
                "or lower optimizer.lr"
            )

    def after(self, step: int, first_sample: int, outcome: StepOutcome, batch: int) -> Spike | None:
        """Look at what a step gave; collective now and then.

        Args:
            step: its number, 1-based.
            first_sample: of its batch.
            outcome: what `step` returned.
            batch: samples a step.

        Returns:
            The spike to go back from: its range is recorded. None where training goes on.
        """
        if self.policy.slow_every and step % self.policy.slow_every == 0:
            self._compare()
        if self.policy.spike == "off" or outcome.skipped is not None:
            return None
        spike = self._spikes.look(outcome.result.loss)
        if spike is None:
            return None
        self._count("spikes")
        text = (
            f"step {step}: loss {spike.loss:.4g} lies {spike.deviations:.0f} robust standard "
            f"deviations above the recent median {spike.median:.4g}"
        )
        if self.policy.spike == "tell":
            self._say(text)
            return None
        first = max(0, first_sample - self.policy.spike_before * batch)
        last = first_sample + (self.policy.spike_after + 1) * batch - 1
        self.skips.record(Skip(first, last, "spike", step, self.segment))
        self._count("rewinds")
        self._say(f"{text}; samples {first} to {last} are skipped from now on")
        return spike

    def rewound(self, step: int) -> None:
        """Take note that training goes on from a checkpoint.

        Raises:
            TrainingError: once too often from the same one.
        """
        self._in_a_row = 0
        self._rewinds[step] += 1
        if self._rewinds[step] > MOST_REWINDS:
            raise TrainingError(
                f"the loss has spiked {self._rewinds[step]} times since the checkpoint of step "
                f"{step}, whatever batches were skipped: lower optimizer.lr, or resume from an "
                "earlier one"
            )

    def summary(self) -> str:
        """What happened in this segment, for its last lines; empty where nothing did."""
        words = [f"{self.counts[name]} {name.replace('_', ' ')}" for name in COUNTS]
        return ", ".join(w for w, name in zip(words, COUNTS, strict=True) if self.counts[name])

    def _verify(self, step: int, batches: Iterator[Any]) -> None:
        for found in self._crosscheck.run(batches):
            self._count("disagreements")
            ranks = ", ".join(f"rank {rank} on {self._hosts[rank]}" for rank in found.ranks)
            text = (
                f"before step {step} {ranks} had other {found.what} than "
                f"{'their replicas' if len(found.ranks) > 1 else 'its replicas'} "
                f"from the same micro-batch ({found.among} compared, bit for bit)"
            )
            if self.policy.corruption == "stop":
                raise TrainingError(f"{text}: leave out that node, then resume")
            self._say(text)

    def _compare(self) -> None:
        seconds = self._group.all_gather_object(self._busy.take())
        for slow in self._slow.look(seconds):
            self._count("slow_ranks")
            self._say(
                f"rank {slow.rank} on {self._hosts[slow.rank]} is slow: it computes "
                f"{slow.factor:.2f} times as long as the median of stage {slow.stage}, "
                f"{self.policy.slow_windows} windows of {self.policy.slow_every} steps in a row"
            )

    def _count(self, name: str) -> None:
        self.counts[name] += 1

    def _scale(self) -> float:
        return float(getattr(self.engine.scaler, "cur_scale", 1.0))

    def _named(self, where: str | None) -> str:
        if where is None:
            return "no rank alone (their norm overflows)"
        rank = int(where.split()[1])
        return where.replace(f"rank {rank}", f"rank {rank} ({self._hosts[rank]})", 1)


def open_skips(policy: GuardRecipe, run: Path, group: Group) -> Skips:
    """The ranges of the recipe and of the run's record, the same on every rank; collective."""
    own = read_skips(run) if group.rank == 0 else []
    recorded = group.all_gather_object(own)[0]
    return Skips(policy.skip, recorded, run / FILE if group.rank == 0 else None)


def recent_losses(run: Path, until_step: int, count: int) -> list[float]:
    """The losses of the last `count` steps up to `until_step` as they stand, from metrics.jsonl."""
    path = run / "metrics.jsonl"
    if not path.exists() or not until_step:
        return []
    found: dict[int, float] = {}
    with path.open("rb") as file:
        # A line takes some 300 bytes; steps that were given up and repeated lie between them.
        file.seek(max(0, path.stat().st_size - 4096 * count))
        for text in file.read().split(b"\n"):
            line: Mapping[str, Any]
            try:
                line = json.loads(text)
                step, loss = int(line["step"]), line["loss"]
            except (ValueError, KeyError, TypeError):
                continue
            found = {other: value for other, value in found.items() if other < step}
            if loss is not None:
                found[step] = float(loss)
    steps = sorted(step for step in found if step <= until_step)[-count:]
    return [found[step] for step in steps]
