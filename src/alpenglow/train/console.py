"""What the steps of a segment leave for people: progress lines, curves, and the closing summary.

    step  120/170 | 245.8 k tokens | loss  5.1233 |     2,104 tokens/s | left 0:00:24, run 0:00:24

`left` is the time to the end of this segment (its steps, or the deadline less the reserve for the
last save) and to the end of the run. Only rank 0 writes; on the others every call does nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from statistics import median
from time import monotonic
from typing import Any, Protocol

from alpenglow.train.monitors import Monitor, open_monitors
from alpenglow.train.output import say
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.restart import Position
from alpenglow.train.run_directory import RunDirectory
from alpenglow.train.stop import StopRequest
from alpenglow_lsf.progress import ProgressFile


class Result(Protocol):
    """What a line needs of `alpenglow.train.engine.StepResult`."""

    @property
    def loss(self) -> float:
        """Mean over the batch, nats a token."""

    @property
    def grad_norm(self) -> float | None:
        """Before clipping; None where the gradients were not finite."""

    @property
    def loss_scale(self) -> float:
        """Of this step."""

    @property
    def applied(self) -> bool:
        """False where the step was skipped."""


class Console:
    """Writes metrics, progress and the summary of one segment.

    Args:
        recipe: what is trained.
        run: where to write.
        position: where the segment begins.
        stop: knows the deadline.
        speaks: whether this is rank 0.
        peak_flops: peak FLOP/s of all ranks together; None where nobody knows it.
        startup_s: seconds until the first step.
    """

    def __init__(
        self,
        recipe: PretrainRecipe,
        run: RunDirectory,
        position: Position,
        stop: StopRequest,
        *,
        speaks: bool,
        peak_flops: float | None = None,
        startup_s: float = 0.0,
    ) -> None:
        self.speaks = speaks
        self._recipe = recipe
        self._run = run
        self._stop = stop
        self._total = position.total_steps(recipe)
        self._peak = peak_flops
        self._flops_per_token = recipe.model.flops_per_token(recipe.batch.sequence_length)
        self._startup_s = startup_s
        self._first_step = position.step
        self._begun = monotonic()
        self._clock: tuple[float, int] | None = None
        """Time and step from which the pace is taken: the first step warms up."""
        self._since_line: list[float] = []
        self._losses: list[float] = []
        self._rates: list[float] = []
        self._skipped = 0
        self._saves: list[float] = []
        self._monitors: Sequence[Monitor] = ()
        if speaks:
            self._progress = ProgressFile(run.path, "pretrain", "step")
            self._monitors = open_monitors(recipe.train.monitor, run, position.step)

    def step(
        self,
        position: Position,
        result: Result,
        lr: float,
        seconds: float,
        val_loss: float | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell of a step that has just ended; `position` counts it already.

        Args:
            position: after the step.
            result: what it gave.
            lr: its learning rate.
            seconds: that it took.
            val_loss: where it was followed by an evaluation.
            more: fields for metrics.jsonl beside these.
        """
        if not self.speaks:
            return
        step, now = position.step, monotonic()
        if self._clock is None:
            self._clock = (now, step)
        tokens = self._recipe.batch.tokens_per_step
        rate = tokens / seconds
        self._rates.append(rate)
        self._losses.append(result.loss)
        self._skipped += not result.applied
        self._since_line.append(seconds)
        mfu = self._mfu(rate)
        fields: dict[str, Any] = {
            "segment": self._run.segment,
            "step": step,
            "loss": result.loss if math.isfinite(result.loss) else None,
            "tokens": self._tokens(position),
            "samples": position.samples,
            "batch": self._recipe.batch.global_batch_size,
            "lr": lr,
            "grad_norm": result.grad_norm,
            "loss_scale": result.loss_scale,
            "step_time_s": round(seconds, 6),
            "tokens_per_s": round(rate, 1),
            "time": round(time.time(), 3),
            **(more or {}),
        }
        if mfu is not None:
            fields["mfu"] = round(mfu, 5)
        if self._recipe.train.validate_every:
            fields["val_loss"] = val_loss  # none at most steps, but a column of every table
            if val_loss is not None:
                say(f"validation after step {step}: loss {val_loss:.4f}")
        for monitor in self._monitors:
            monitor.append(fields)
        self._show(position, result, (more or {}).get("skipped", "overflow"))

    def _show(self, position: Position, result: Result, why: str) -> None:
        step = position.step
        segment_left, run_left = self._left(step)
        rate = self._recipe.batch.tokens_per_step * len(self._since_line) / sum(self._since_line)
        text = f"loss {result.loss:.3f}, {rate:,.0f} tokens/s, {clock(run_left)} left"
        self._progress.show(step, self._total, text, force=step == self._total)
        if step % self._recipe.train.log_every and step != self._total:
            return
        self._since_line.clear()
        line = progress_line(
            step,
            self._total,
            self._tokens(position),
            result.loss,
            rate,
            self._mfu(rate),
            segment_left,
            run_left,
        )
        scale = f" at scale {result.loss_scale:g}" if why == "overflow" else ""
        note = "" if result.applied else f" | skipped: {why}{scale}"
        say(line + note)

    def _tokens(self, position: Position) -> int:
        """Tokens that the run has trained on."""
        return position.samples * self._recipe.batch.sequence_length

    def _mfu(self, rate: float) -> float | None:
        """Share of the peak that the model's own FLOPs are (see FLOPS_FORMULA), from tokens/s."""
        return None if self._peak is None else rate * self._flops_per_token / self._peak

    def _left(self, step: int) -> tuple[float, float]:
        """Seconds to the end of the segment and of the run, saves included."""
        assert self._clock is not None
        since, first = self._clock
        done = step - first
        pace = (monotonic() - since) / done if done else sum(self._since_line)
        run = pace * (self._total - step)
        left = self._stop.deadline.left()
        if left is None:
            return run, run
        return max(0.0, min(run, left - self._stop.reserve())), run

    def saved(self, step: int, nbytes: int, stall_s: float, drain_s: float) -> None:
        """Tell of a checkpoint that exists now.

        Args:
            step: steps done.
            nbytes: of all containers.
            stall_s: seconds that training stood still for it.
            drain_s: seconds from then until it existed.
        """
        self._saves.append(stall_s)
        self.say(
            f"checkpoint step {step}: {nbytes / 1e6:,.1f} MB, training stood still for "
            f"{stall_s:.3g} s, drained in {drain_s:.3g} s"
        )

    def summary(self, position: Position, data_wait: float) -> None:
        """Sum the segment up in a few lines.

        Args:
            position: where it ended.
            data_wait: share of the steps' time that the worst rank waited for data.
        """
        if not self.speaks or not self._rates:
            return
        elapsed = monotonic() - self._begun
        tokens = len(self._rates) * self._recipe.batch.tokens_per_step
        rate = median(self._rates)
        mfu = self._mfu(rate)
        share = "" if mfu is None else f", MFU {100 * mfu:.1f} %"
        stall = sum(self._saves)
        say(
            f"segment  {self._run.segment}: steps {self._first_step + 1} to {position.step}, "
            f"{amount(tokens)} tokens in {clock(elapsed)} after {self._startup_s:.0f} s of start; "
            f"loss {self._losses[0]:.4f} to {self._losses[-1]:.4f}\n"
            f"         {rate:,.0f} tokens/s (median){share}; waiting for data "
            f"{100 * data_wait:.2g} % of the steps (worst rank); {self._skipped} steps skipped; "
            f"{len(self._saves)} checkpoints stalled {stall:.1f} s ({100 * stall / elapsed:.1f} %)"
        )

    def say(self, text: str) -> None:
        """Write a line on stdout."""
        if self.speaks:
            say(text)

    def close(self) -> None:
        """Write to disk and close."""
        for monitor in self._monitors:
            monitor.close()
        self._monitors = ()


def progress_line(
    step: int,
    total: int,
    tokens: int,
    loss: float,
    rate: float,
    mfu: float | None,
    segment_left: float,
    run_left: float,
) -> str:
    """One step in one line, in columns that stay where they are for a whole run.

    Args:
        step: steps done,
        total: of so many.
        tokens: trained on since the run began.
        loss: of this step, nats a token.
        rate: tokens/s.
        mfu: share of the peak, 0 to 1; None leaves the column out.
        segment_left: seconds to the end of the segment.
        run_left: seconds to the end of the run.
    """
    share = "" if mfu is None else f" | MFU {100 * mfu:4.1f} %"
    return (
        f"step {step:{len(str(total))}d}/{total} | {amount(tokens):>7} tokens | loss {loss:7.4f} | "
        f"{rate:11,.0f} tokens/s{share} | left {clock(segment_left):>7}, run {clock(run_left):>7}"
    )


def amount(number: float) -> str:
    """Three digits and a unit: `245 k`, `1.05 M`, `800 G`."""
    for unit in ("", " k", " M", " G", " T"):
        if number < 999.5 or unit == " T":
            break
        number /= 1000
    digits = 0 if not unit or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f}{unit}"


def clock(seconds: float) -> str:
    """Write a duration as `1:02:03`, or `3d 04h` from four days on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 96:
        return f"{hours // 24}d {hours % 24:02d}h"
    return f"{hours}:{minutes:02d}:{rest:02d}"
