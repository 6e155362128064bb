"""The training loop: steps, metrics, checkpoints, and the reasons to stop."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from alpenglow.train.batch_history import BatchHistory
from alpenglow.train.checkpoint import Group
from alpenglow.train.engine import Engine, StepResult
from alpenglow.train.failure import TrainingError
from alpenglow.train.learning_rate import CosineSchedule
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.restart import Position, save_position
from alpenglow.train.run_directory import Metrics, RunDirectory
from alpenglow.train.stop import MORE_TO_DO, StopRequest
from alpenglow_lsf.chain import STOP
from alpenglow_lsf.progress import ProgressFile
from alpenglow_profiling.events import Kind, SpanRecorder

# fp16 halves its scale a few times in a row when a run starts; so many in a row is divergence.
MOST_SKIPPED_IN_A_ROW = 20

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
    startup_s: float = 0.0
    last_step: int = 0
    last_durable_checkpoint: int | None = None
    save_s: float | None = None
    """The longest save."""
    drain_s: float | None = None
    """From the end of training to the end of everything that follows it."""


class Trainer:
    """Trains from `position` to the end of the recipe, or to the end of the walltime.

    Args:
        engine: with the weights of `position`.
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
        engine: Engine,
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
        self.engine = engine
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
        self.batches = position.batches or BatchHistory(self.batch)
        self.batches = self.batches.then(position.step, position.samples, self.batch)
        position.batches = self.batches
        self.total_samples = recipe.samples_of(self.batches.first)
        self.schedule = CosineSchedule(
            recipe.optimizer.lr,
            recipe.optimizer.min_lr,
            recipe.warmup_of(self.batches.first),
            recipe.steps_of(self.batches.first),
        )
        self.device = next(engine.inner.module.parameters()).device
        self.metrics = Metrics(run.path / "metrics.jsonl") if group.rank == 0 else None
        self.progress = ProgressFile(run.path, "pretrain", "step")
        self._skipped_in_a_row = 0
        self._reported = 0.0
        self._recent_s: list[float] = []

    @property
    def total(self) -> int:
        """Steps of the whole run, at this segment's global batch from here on."""
        left = max(0, self.total_samples - self.position.samples)
        return self.position.step + -(-left // self.batch)

    @property
    def complete(self) -> bool:
        """Whether the run's last sample has been consumed."""
        return self.position.samples >= self.total_samples

    def train(self) -> int:
        """Run; returns 0 when the recipe is complete, 85 when there is more to do."""
        if self.group.rank == 0:
            self.batches.write(self.run.path, self.run.segment)
        self._report(force=True)
        reason = self.stop.agreed(self.device)
        saved = self.position.step
        while not self.complete and reason is None:
            self._step()
            reason = self.stop.agreed(self.device)
            done = self.position.step
            if done % self.recipe.train.checkpoint_every == 0 or self.complete:
                self._save()
                saved = done
        if not self.complete and self.position.step > saved:
            self._save()
        self._report(force=True)
        if self.metrics is not None:
            self.metrics.close()
        if self.complete:
            self._say(f"complete: {self.total} steps")
            return 0
        how = "remove it to go on" if reason == STOP else "submit again"
        self._say(f"stopped at step {self.position.step}/{self.total} ({reason}): {how}")
        return MORE_TO_DO

    def _step(self) -> None:
        position, recorder = self.position, self.recorder
        lr = self.schedule.at(position.applied / self.batches.first)
        recorder.step = position.step + 1
        begin = monotonic()
        with recorder.span(Kind.STEP):
            result = self.engine.step(self.micro_batches(position), lr)
        seconds = monotonic() - begin
        position.advance(self.batch, applied=result.applied)
        self.segment.last_step = position.step
        self._watch(result)
        if position.step == self.segment.resumed_from_step + 1:
            # What the first step left behind lives as long as the run: the collector need not
            # walk it again, and no rank pauses for it in the middle of a step.
            gc.collect()
            gc.freeze()
        else:
            self.stop.step_s = max(self.stop.step_s, seconds)
            self._recent_s = [*self._recent_s[-19:], seconds]
        val_loss = self._validate()
        if self.metrics is not None:
            self._write(result, lr, seconds, val_loss)

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
        self._say(f"validation at step {self.position.step}: loss {loss:.4f}")
        return loss

    def _watch(self, result: StepResult) -> None:
        self._skipped_in_a_row = 0 if result.applied else self._skipped_in_a_row + 1
        if self._skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"gradients were not finite in {MOST_SKIPPED_IN_A_ROW} steps in a row, up to step "
                f"{self.position.step}: training has diverged; resume from an earlier checkpoint "
                "or lower optimizer.lr"
            )

    def _write(self, result: StepResult, lr: float, seconds: float, val_loss: float | None) -> None:
        assert self.metrics is not None
        step = self.position.step
        tokens = self.recipe.batch.tokens_per_step
        self.metrics.append(
            segment=self.run.segment,
            step=step,
            loss=result.loss,
            tokens=self.position.samples * self.recipe.batch.sequence_length,
            samples=self.position.samples,
            batch=self.batch,
            lr=lr,
            grad_norm=result.grad_norm,
            loss_scale=result.loss_scale,
            step_time_s=round(seconds, 6),
            tokens_per_s=round(tokens / seconds, 1),
            time=round(time.time(), 3),
            **({} if val_loss is None else {"val_loss": val_loss}),
        )
        pace = sum(self._recent_s) / len(self._recent_s) if self._recent_s else seconds
        left = _clock(pace * (self.total - step))
        text = f"loss {result.loss:.3f}, {tokens / seconds:,.0f} tokens/s, {left} left"
        self.progress.show(step, self.total, text, force=self.complete)
        if step % self.recipe.train.log_every == 0 or self.complete:
            note = "" if result.applied else f"  skipped: overflow at scale {result.loss_scale:g}"
            self._say(
                f"step {step}/{self.total}  loss {result.loss:.4f}  lr {lr:.3g}  "
                f"{tokens / seconds:,.0f} tokens/s  {left} left{note}"
            )
        self._report()

    def _save(self) -> None:
        begin = monotonic()
        with self.recorder.span(Kind.CHECKPOINT):
            info = save_position(
                self.engine,
                self.recipe,
                self.position,
                self.run.checkpoints,
                self.group,
                self.about,
            )
        seconds = monotonic() - begin
        self.stop.saved(seconds)
        self.segment.save_s = max(self.segment.save_s or 0.0, seconds)
        self.segment.last_durable_checkpoint = self.position.step
        self._say(f"checkpoint {info.directory.name}: {info.nbytes / 1e6:,.1f} MB, {seconds:.1f} s")
        self._report(force=True)

    def drained(self, seconds: float) -> None:
        """Report how long leaving took: merging events, giving the group up."""
        self.segment.drain_s = seconds
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
        )

    def _say(self, text: str) -> None:
        if self.group.rank == 0:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()


def _clock(seconds: float) -> str:
    """Write a duration as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
