"""The training loop: steps, metrics, checkpoints, and the reasons to stop."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from alpenglow.train.checkpoint import Group
from alpenglow.train.engine import Engine
from alpenglow.train.guard import Guard, Outcome
from alpenglow.train.learning_rate import CosineSchedule
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.restart import Position, resume, save_position
from alpenglow.train.run_directory import Metrics, RunDirectory
from alpenglow.train.stop import MORE_TO_DO, StopRequest
from alpenglow.train.whereabouts import Activity
from alpenglow_lsf.chain import STOP
from alpenglow_lsf.progress import ProgressFile
from alpenglow_profiling.events import Kind, SpanRecorder

MicroBatches = Callable[[int], Iterator[Any]]
"""Step (0-based) -> this replica's (tokens, labels) micro-batches."""


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
        self.total = recipe.total_steps
        self.schedule = CosineSchedule(
            recipe.optimizer.lr, recipe.optimizer.min_lr, recipe.warmup_steps, self.total
        )
        self.device = next(self.engine.inner.module.parameters()).device
        self.metrics = Metrics(run.path / "metrics.jsonl") if group.rank == 0 else None
        self.progress = ProgressFile(run.path, "pretrain", "step")
        self._reported = 0.0
        self._recent_s: list[float] = []

    def train(self) -> int:
        """Run; returns 0 when the recipe is complete, 85 when there is more to do."""
        self._report(force=True)
        self.guard.whereabouts.stand(Activity.BETWEEN)
        reason = self._agreed()
        saved = self.position.step
        while self.position.step < self.total and reason is None:
            if not self._step():
                reason = "a loss spike before the first checkpoint"
                saved = self.position.step
                break
            reason = self._agreed()
            self.guard.whereabouts.settled = True
            done = self.position.step
            if done % self.recipe.train.checkpoint_every == 0 or done == self.total:
                self._save()
                saved = done
        complete = self.position.step == self.total
        if not complete and self.position.step > saved:
            self._save()
        self._report(force=True)
        if self.metrics is not None:
            self.metrics.close()
        if self.guard.summary():
            self._say(f"guard: {self.guard.summary()}")
        if complete:
            self._say(f"complete: {self.total} steps")
            return 0
        how = "remove it to go on" if reason == STOP else "submit again"
        self._say(f"stopped at step {self.position.step}/{self.total} ({reason}): {how}")
        return MORE_TO_DO

    def _agreed(self) -> str | None:
        with self.guard.whereabouts.at(Activity.AGREE):
            return self.stop.agreed(self.device)

    def _step(self) -> bool:
        """Do one step; False where there is no state to go on from in this process."""
        position, recorder = self.position, self.recorder
        lr = self.schedule.at(position.updates)
        recorder.step = position.step + 1
        begin = monotonic()
        batch = self.recipe.batch.global_batch_size
        first_sample, step = position.step * batch, position.step
        with recorder.span(Kind.STEP):
            outcome = self.guard.step(
                step + 1,
                (first_sample, first_sample + batch - 1),
                lambda: self.micro_batches(step),
                lr,
            )
        seconds = monotonic() - begin
        position.step += 1
        position.updates += outcome.result.applied
        self.segment.last_step = position.step
        if position.step == self.segment.resumed_from_step + 1:
            # What the first step left behind lives as long as the run: the collector need not
            # walk it again, and no rank pauses for it in the middle of a step.
            gc.collect()
            gc.freeze()
        else:
            self.stop.step_s = max(self.stop.step_s, seconds)
            self._recent_s = [*self._recent_s[-19:], seconds]
        if self.metrics is not None:
            self._write(outcome, lr, seconds, first_sample)
        spike = self.guard.after(position.step, first_sample, outcome, batch)
        return spike is None or self._rewind()

    def _rewind(self) -> bool:
        """Go back to the newest checkpoint that holds none of the skipped samples."""
        with self.recorder.span(Kind.RESTART):
            back = resume(
                self.engine,
                self.recipe,
                self.run.checkpoints,
                self.group,
                self._say,
                self.guard.skips.refusal,
            )
        if not back.step:
            return False
        # The position is shared with whoever made this trainer.
        vars(self.position).update(vars(back))
        self.segment.last_step = back.step
        self._say(f"back at step {back.step}")
        self.guard.rewound(back.step)
        return True

    def _write(self, outcome: Outcome, lr: float, seconds: float, first_sample: int) -> None:
        assert self.metrics is not None
        result = outcome.result
        step = self.position.step
        tokens = self.recipe.batch.tokens_per_step
        self.metrics.append(
            segment=self.run.segment,
            step=step,
            loss=result.loss if math.isfinite(result.loss) else None,
            tokens=step * tokens,
            samples=[first_sample, first_sample + self.recipe.batch.global_batch_size - 1],
            applied=result.applied,
            **({"skipped": outcome.skipped} if outcome.skipped else {}),
            **({"reruns": outcome.reruns} if outcome.reruns else {}),
            lr=lr,
            grad_norm=result.grad_norm,
            loss_scale=result.loss_scale,
            step_time_s=round(seconds, 6),
            tokens_per_s=round(tokens / seconds, 1),
            time=round(time.time(), 3),
        )
        pace = sum(self._recent_s) / len(self._recent_s) if self._recent_s else seconds
        left = _clock(pace * (self.total - step))
        text = f"loss {result.loss:.3f}, {tokens / seconds:,.0f} tokens/s, {left} left"
        self.progress.show(step, self.total, text, force=step == self.total)
        if step % self.recipe.train.log_every == 0 or step == self.total:
            note = "" if result.applied else f"  no update: {outcome.skipped or 'overflow'}"
            if result.loss_scale != 1.0:
                note += f"  scale {result.loss_scale:g}"
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
                {**self.about, "skips": len(self.guard.skips.recorded)},
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
            guard=dict(self.guard.counts),
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
