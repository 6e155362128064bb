"""The training loop: steps, metrics, checkpoints, and the reasons to stop."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from alpenglow.train.checkpoint import CheckpointError, Group
from alpenglow.train.console import Console
from alpenglow.train.engine import Engine
from alpenglow.train.guard import Guard, StepOutcome
from alpenglow.train.learning_rate import CosineSchedule
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.restart import Position, position_state, rank_fragments, resume
from alpenglow.train.run_directory import RunDirectory
from alpenglow.train.save_interval import SaveInterval
from alpenglow.train.saver import Abandoned, Durable, Outcome, Saver
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
        self.about = about
        self.validate: Validate | None = None
        """Evaluates between two steps; None: never."""
        self.batch = recipe.batch.global_batch_size
        self.batches = position.go_on(self.batch)
        self.schedule = CosineSchedule(
            recipe.optimizer.lr,
            recipe.optimizer.min_lr,
            recipe.warmup_of(self.batches.first),
            recipe.steps_of(self.batches.first),
        )
        self.device = next(self.engine.inner.module.parameters()).device
        self.console = Console(
            recipe,
            run,
            position,
            stop,
            speaks=group.rank == 0,
            peak_flops=segment.peak_flops,
            startup_s=segment.startup_s,
        )
        self.interval = SaveInterval(
            recipe.train.save_steps, recipe.train.keep_every, segment.mean_time_s
        )
        self.saver = Saver(
            run.checkpoints,
            group,
            recorder,
            keep_last=recipe.train.keep_last,
            keep_every=recipe.train.keep_every,
            local=segment.local,
            say=self.console.say,
            pinned=self.device.type == "cuda",
        )
        self._saved = position.step
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
        self.saver.prepare(rank_fragments(self.engine, self.group.rank))
        self.interval.measured(self.stop.save_s, self.stop.drain_s)
        self.console.say(self.interval.explain(self.stop.save_s, self.stop.drain_s))
        self.guard.whereabouts.stand(Activity.BETWEEN)
        reason, _ = self._border(first=True)
        while not self.complete and reason is None:
            if not self._step():
                reason = "a loss spike before the first checkpoint"
                break
            reason, due = self._border()
            self.guard.whereabouts.settled = True
            if due and reason is None and not self.complete:
                self._save_meanwhile()
        self._save_at_last()
        self._report(force=True)
        self._close()
        if self.complete:
            self.console.say(f"complete: {self.total} steps; jobs/convert.lsf releases the model")
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

    def _step(self) -> bool:
        """Do one step; False where there is no state to go on from in this process."""
        position, recorder = self.position, self.recorder
        lr = self.schedule.at(position.applied / self.batches.first)
        recorder.step = position.step + 1
        begin = monotonic()
        first_sample = position.samples
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
        self._heard(self.saver.finish())
        with self.recorder.span(Kind.RESTART):
            back = resume(
                self.engine,
                self.recipe,
                self.run.checkpoints,
                self.group,
                self.console.say,
                self.guard.skips.refusal,
            )
        self._saved = back.step or self.position.step  # nothing of what is given up is saved
        if not back.step:
            return False
        # The position is shared with whoever made this trainer.
        vars(self.position).update(vars(back))
        self.batches = self.position.go_on(self.batch)
        self.segment.last_step = back.step
        self.console.say(f"back at step {back.step}")
        self.guard.rewound(back.step)
        return True

    def _border(self, *, first: bool = False) -> tuple[str | None, bool]:
        """Agree with all ranks: why to stop, whether to save; and carry the save under way on."""
        due = not first and self.interval.due(self.position.step)
        self.stop.drains_ahead = int(due or self.saver.draining)
        votes = [*self.saver.votes(), int(due and self.group.rank == 0)]
        with self.guard.whereabouts.at(Activity.AGREE):
            reason, votes = self.stop.agreed(self.device, votes)
        self._heard(self.saver.settle(votes[:-1]))
        return reason, bool(votes[-1])

    def _save(self) -> None:
        """Take the snapshot; the rest happens in the background.

        Raises:
            CheckpointError: on every rank alike: it cannot even be begun.
        """
        about = {**self.about, **self.guard.skips.state()}
        state = position_state(self.engine, self.recipe, self.position, about)
        with self.recorder.span(Kind.CHECKPOINT):
            fragments = rank_fragments(self.engine, self.group.rank)
            former = self.saver.begin(self.position.step, fragments, state)
        self._heard(former)
        self._saved = self.position.step
        self.interval.saved()

    def _save_meanwhile(self) -> None:
        """Save between two steps; a save that fails is told and tried again when one is due."""
        try:
            self._save()
        except CheckpointError as error:
            self.interval.saved()
            self._fail(str(error))

    def _save_at_last(self) -> None:
        """Save what has no checkpoint yet, and wait until it exists.

        Raises:
            CheckpointError: on every rank alike: it does not.
        """
        if self.position.step > self._saved:
            self._save()
        with self.guard.whereabouts.at(Activity.SAVE):
            outcome = self.saver.finish()
        self._heard(outcome)
        if isinstance(outcome, Abandoned):
            raise CheckpointError(f"step {outcome.step}: {outcome.sentence}")

    def _heard(self, outcome: Outcome) -> None:
        """Take note of how a save ended."""
        if isinstance(outcome, Abandoned):
            self._saved = self.segment.last_durable_checkpoint or self.segment.resumed_from_step
            self._fail(outcome.sentence)
        if not isinstance(outcome, Durable):
            return
        segment, first = self.segment, self.segment.save_s is None
        self.stop.saved(outcome.stall_s, outcome.drain_s)
        segment.save_s = max(segment.save_s or 0.0, outcome.stall_s)
        segment.drain_s = max(segment.drain_s or 0.0, outcome.drain_s)
        segment.last_durable_checkpoint = outcome.step
        self.console.saved(outcome.step, outcome.nbytes, outcome.stall_s, outcome.drain_s)
        self.interval.measured(segment.save_s, segment.drain_s)
        if first and self.interval.every is None:
            self.console.say(self.interval.explain(segment.save_s, segment.drain_s))
        self._report(force=True)

    def _fail(self, sentence: str) -> None:
        kept = self.segment.last_durable_checkpoint or self.segment.resumed_from_step
        last = f"step {kept} is the newest" if kept else "there is none yet"
        self.console.say(f"{sentence}; {last}, training goes on and saves again when a save is due")

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
        )


def more(outcome: StepOutcome) -> dict[str, Any]:
    """What metrics.jsonl has of a step beyond its result."""
    found: dict[str, Any] = {"applied": outcome.result.applied}
    if outcome.skipped is not None:
        found["skipped"] = outcome.skipped
    if outcome.reruns:
        found["reruns"] = outcome.reruns
    return found
