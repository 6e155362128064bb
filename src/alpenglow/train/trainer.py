"""The training loop: steps, metrics, checkpoints, and the reasons to stop."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from alpenglow.train.checkpoint import Group
from alpenglow.train.console import Console
from alpenglow.train.engine import Engine
from alpenglow.train.guard import Guard, StepOutcome
from alpenglow.train.learning_rate import CosineSchedule
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.restart import Position, resume
from alpenglow.train.run_directory import RunDirectory
from alpenglow.train.saving import Saving
from alpenglow.train.stop import MORE_TO_DO, StopRequest
from alpenglow.train.whereabouts import Activity
from alpenglow_lsf.chain import STOP
from alpenglow_profiling.events import Kind, SpanRecorder

MicroBatches = Callable[[Position], Iterator[Any]]
"""Position -> this replica's (tokens, labels) micro-batches of the step that begins there."""

Validate = Callable[[], float]
"""Mean loss over the validation samples; collective, the same on every rank."""


@dataclass
class Segment:
    """What this segment knows about itself; rank 0 writes it down."""

    started: float
    """Unix seconds at which this process began."""
    resumed_from_step: int
    local: Path | None = None
    """This rank's file on node-local storage, where saves wait to be drained; None: none."""
    mean_time_s: float | None = None
    """Mean time between failures of this job, seconds; None where no rate is known."""
    startup_s: float = 0.0
    last_step: int = 0
    last_durable_checkpoint: int | None = None
    save_s: float | None = None
    """The longest time that training stood still for a save."""
    peak_flops: float | None = None
    """Peak FLOP/s of all ranks together; None where the machine's is unknown."""
    drain_s: float | None = None
    """The longest time from there until the checkpoint existed."""
    leave_s: float | None = None
    """From the end of training to the end of everything that follows it."""


class Trainer:
    """Trains from `position` to the end of the recipe, or to the end of the walltime.

    Args:
        guard: runs the steps of an engine with the weights of `position`.
        recipe: what to train.
        micro_batches: where tokens come from.
        position: steps done so far; moved along.
        run: where to write.
        group: all ranks.
        recorder: where the time goes.
        stop: signals and deadline.
        segment: this segment's own record.
        about: what a checkpoint says about the run.
    """

    def __init__(
        self,
        guard: Guard,
        recipe: PretrainRecipe,
        micro_batches: MicroBatches,
        position: Position,
        run: RunDirectory,
        group: Group,
        recorder: SpanRecorder,
        stop: StopRequest,
        segment: Segment,
        about: Mapping[str, Any],
    ) -> None:
        self.engine: Engine = guard.engine
        self.guard = guard
        self.recipe = recipe
        self.micro_batches = micro_batches
        self.position = position
        self.run = run
        self.group = group
        self.recorder = recorder
        self.stop = stop
        self.segment = segment
        self.about = {**about, **guard.skips.state()}
        self.validate: Validate | None = None
        """Evaluates between two steps; None: never."""
        self.traced: Callable[[int], AbstractContextManager[object]] = lambda step: nullcontext()
        """Stands around each step, by its number (1-based)."""
        self.batch = recipe.batch.global_batch_size
        self.batches = position.go_on(self.batch)
        self.schedule = CosineSchedule(
            recipe.optimizer.lr,
            recipe.optimizer.min_lr,
            recipe.warmup_of(self.batches.first),
            recipe.steps_of(self.batches.first),
        )
        self.console = Console(
            recipe,
            run,
            position,
            stop,
            speaks=group.rank == 0,
            peak_flops=segment.peak_flops,
            startup_s=segment.startup_s,
        )
        self.saving = Saving(
            self.engine,
            recipe,
            position,
            run.checkpoints,
            group,
            recorder,
            stop,
            segment,
            self.about,
            self.console,
        )
        self.saving.told = lambda: self._report(force=True)
        self._reported = 0.0

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.position.total_steps(self.recipe)

    @property
    def complete(self) -> bool:
        """Whether the run's last sample has been consumed."""
        return self.position.step == self.total

    def train(self) -> int:
        """Run; returns 0 when the recipe is complete, 85 when there is more to do."""
        if self.group.rank == 0:
            self.batches.write(self.run.path, self.run.segment)
        self._report(force=True)
        whereabouts = self.guard.whereabouts
        self.saving.prepare()
        whereabouts.stand(Activity.BETWEEN)
        reason, _ = self._border(first=True)
        while not self.complete and reason is None:
            if not self._step():
                reason = "a loss spike before the first checkpoint"
                break
            reason, due = self._border()
            whereabouts.settled = True
            if due and reason is None and not self.complete:
                self.saving.meanwhile()
        with whereabouts.at(Activity.SAVE):
            self.saving.at_last()
        self._report(force=True)
        self._close()
        if self.complete:
            kept = self.recipe.train.checkpoint_every != "never"
            after = "; jobs/convert.lsf releases the model" if kept else ", none of them kept"
            self.console.say(f"complete: {self.total} steps{after}")
            return 0
        how = "remove it to go on" if reason == STOP else "submit again"
        self.console.say(f"stopped at step {self.position.step}/{self.total} ({reason}): {how}")
        return MORE_TO_DO

    def _close(self) -> None:
        waited, stepped = (self.recorder.spent_ns(kind) for kind in (Kind.DATA_WAIT, Kind.STEP))
        shares = self.group.all_gather_object(waited / stepped if stepped else 0.0)
        self.console.summary(self.position, max(shares))
        if self.guard.summary():
            self.console.say(f"guard    {self.guard.summary()}")
        self.console.close()

    def _border(self, *, first: bool = False) -> tuple[str | None, bool]:
        with self.guard.whereabouts.at(Activity.AGREE):
            return self.saving.border(first=first)

    def _step(self) -> bool:
        """Do one step; False where there is no state to go on from in this process."""
        position, recorder = self.position, self.recorder
        lr = self.schedule.at(position.applied / self.batches.first)
        recorder.step = position.step + 1
        first_sample = position.samples
        with self.traced(position.step + 1):
            begin = monotonic()
            with recorder.span(Kind.STEP):
                outcome = self.guard.step(
                    position.step + 1,
                    (first_sample, first_sample + self.batch - 1),
                    lambda: self.micro_batches(position),
                    lr,
                )
            seconds = monotonic() - begin
        position.advance(self.batch, applied=outcome.result.applied)
        self.segment.last_step = position.step
        if position.step == self.segment.resumed_from_step + 1:
            # What the first step left behind lives as long as the run: the collector need not
            # walk it again, and no rank pauses for it in the middle of a step.
            gc.collect()
            gc.freeze()
        else:
            self.stop.step_s = max(self.stop.step_s, seconds)
        val_loss = self._validate()
        self.console.step(position, outcome.result, lr, seconds, val_loss, more(outcome))
        self._report()
        spike = self.guard.after(position.step, first_sample, outcome, self.batch)
        self.about |= self.guard.skips.state()
        return spike is None or self._rewind()

    def _validate(self) -> float | None:
        """Evaluate where this step is one for it."""
        every = self.recipe.train.validate_every
        if self.validate is None or not every:
            return None
        if self.position.step % every and not self.complete:
            return None
        begin = monotonic()
        with self.recorder.span(Kind.EVALUATE):
            loss = self.validate()
        # Before the walltime there must be time for a step with its evaluation.
        self.stop.step_s = max(self.stop.step_s, monotonic() - begin)
        return loss

    def _rewind(self) -> bool:
        """Go back to the newest checkpoint that holds none of the skipped samples."""
        self.saving.finish()
        with self.recorder.span(Kind.RESTART):
            back = resume(
                self.engine,
                self.recipe,
                self.run.checkpoints,
                self.group,
                self.console.say,
                self.guard.skips.refusal,
            )
        self.saving.back_to(back.step or self.position.step)
        if not back.step:
            return False
        # The position is shared with whoever made this trainer.
        vars(self.position).update(vars(back))
        self.batches = self.position.go_on(self.batch)
        self.segment.last_step = back.step
        self.console.say(f"back at step {back.step}")
        self.guard.rewound(back.step)
        return True

    def left(self, seconds: float) -> None:
        """Report how long leaving took: merging events, giving the group up."""
        self.segment.leave_s = seconds
        self._report(force=True)

    def _report(self, *, force: bool = False) -> None:
        now = monotonic()
        if self.group.rank != 0 or (not force and now - self._reported < 10.0):
            return
        self._reported = now
        segment = self.segment
        self.run.report(
            resumed_from_step=segment.resumed_from_step,
            last_step=segment.last_step,
            last_durable_checkpoint=segment.last_durable_checkpoint,
            startup_s=segment.startup_s,
            save_s=segment.save_s,
            drain_s=segment.drain_s,
            leave_s=segment.leave_s,
            data={key: self.about.get("data", {}).get(key) for key in DATA_SEEN},
        )


DATA_SEEN = ("catalogue", "fingerprint", "content", "removals")
"""What a segment's record says of its data: removals change between segments, run.toml does not."""


def more(outcome: StepOutcome) -> dict[str, Any]:
    """What metrics.jsonl has of a step beyond its result."""
    found: dict[str, Any] = {"applied": outcome.result.applied}
    if outcome.skipped is not None:
        found["skipped"] = outcome.skipped
    if outcome.reruns:
        found["reruns"] = outcome.reruns
    return found
