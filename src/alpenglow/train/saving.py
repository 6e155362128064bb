"""Saving as the training loop sees it: when a save is due, and what is said and noted of it.

The trainer calls `border` after each step, `meanwhile` when it says that a save is due, and
`at_last` before it leaves; the work is `alpenglow.train.saver`'s. This module is imported, never
started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alpenglow.train.checkpoint import CheckpointError, Group
from alpenglow.train.console import Console
from alpenglow.train.engine import Engine
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.restart import Position, position_state, rank_fragments
from alpenglow.train.save_interval import SaveInterval
from alpenglow.train.saver import Abandoned, Durable, Outcome, Saver
from alpenglow.train.stop import StopRequest
from alpenglow_profiling.events import Kind, SpanRecorder

if TYPE_CHECKING:
    from alpenglow.train.trainer import Segment


class Saving:
    """The saves of one segment on one rank.

    Args:
        engine: whose state is saved, between two steps.
        recipe: when, and how many checkpoints stay.
        position: where training is; the trainer moves it.
        checkpoints: the run's folder of checkpoints.
        group: all ranks.
        recorder: gets CHECKPOINT spans (training stands still) and DRAIN spans.
        stop: learns what saves take.
        segment: is told what is durable, and what saves took.
        about: what a checkpoint says about the run, as it stands when it is saved.
        console: where rank 0 speaks.
    """

    def __init__(
        self,
        engine: Engine,
        recipe: PretrainRecipe,
        position: Position,
        checkpoints: Path,
        group: Group,
        recorder: SpanRecorder,
        stop: StopRequest,
        segment: Segment,
        about: Mapping[str, Any],
        console: Console,
    ) -> None:
        self._engine = engine
        self._recipe = recipe
        self._position = position
        self._group = group
        self._recorder = recorder
        self._stop = stop
        self._segment = segment
        self._about = about
        self._console = console
        self._device = next(engine.inner.module.parameters()).device
        self._saved = position.step
        self._never = recipe.train.checkpoint_every == "never"
        self.interval = SaveInterval(
            recipe.train.save_steps, recipe.train.keep_every, segment.mean_time_s
        )
        self.saver = Saver(
            checkpoints,
            group,
            recorder,
            keep_last=recipe.train.keep_last,
            keep_every=recipe.train.keep_every,
            local=segment.local,
            say=console.say,
            pinned=self._device.type == "cuda",
        )
        self.told: Callable[[], None] = lambda: None
        """Called when the segment's record has changed."""

    def prepare(self) -> None:
        """Take host memory, and say when saves will be due; collective, before the first step."""
        if self._never:
            self._console.say("checkpoints: none (train.checkpoint_every = never)")
            return
        self.saver.prepare(self._fragments())
        self.interval.measured(self._stop.save_s, self._stop.drain_s)
        self._console.say(self.interval.explain(self._stop.save_s, self._stop.drain_s))

    def border(self, *, first: bool = False) -> tuple[str | None, bool]:
        """Agree with all ranks at a step border, and carry the save under way on; collective.

        Args:
            first: no step has been done yet.

        Returns:
            Why all ranks stop now (None: they do not), and whether a save is due.
        """
        due = not (first or self._never) and self.interval.due(self._position.step)
        self._stop.drains_ahead = int(due or self.saver.draining)
        votes = [*self.saver.votes(), int(due and self._group.rank == 0)]
        reason, votes = self._stop.agreed(self._device, votes)
        self._heard(self.saver.settle(votes[:-1]))
        return reason, bool(votes[-1])

    def meanwhile(self) -> None:
        """Save between two steps; a save that fails is told, and tried again when one is due."""
        try:
            self._save()
        except CheckpointError as error:
            self.interval.saved()
            self._fail(str(error))

    def at_last(self) -> None:
        """Save what has no checkpoint yet, and wait until it exists.

        Raises:
            CheckpointError: on every rank alike: it does not.
        """
        if self._position.step > self._saved and not self._never:
            self._save()
        outcome = self.saver.finish()
        self._heard(outcome)
        if isinstance(outcome, Abandoned):
            raise CheckpointError(f"step {outcome.step}: {outcome.sentence}")

    def finish(self) -> None:
        """Wait for the save under way; collective."""
        self._heard(self.saver.finish())

    def back_to(self, step: int) -> None:
        """Training has gone back to this step: nothing of what it gives up is to be saved."""
        self._saved = step

    def _fragments(self) -> list[tuple[Any, torch.Tensor]]:
        return rank_fragments(self._engine, self._group.rank)

    def _save(self) -> None:
        """Take the snapshot; the rest happens in the background."""
        state = position_state(self._engine, self._recipe, self._position, self._about)
        with self._recorder.span(Kind.CHECKPOINT):
            former = self.saver.begin(self._position.step, self._fragments(), state)
        self._heard(former)
        self._saved = self._position.step
        self.interval.saved()

    def _heard(self, outcome: Outcome) -> None:
        """Take note of how a save ended."""
        segment = self._segment
        if isinstance(outcome, Abandoned):
            self._saved = segment.last_durable_checkpoint or segment.resumed_from_step
            self._fail(outcome.sentence)
        if not isinstance(outcome, Durable):
            return
        first = segment.save_s is None
        self._stop.saved(outcome.stall_s, outcome.drain_s)
        segment.save_s = max(segment.save_s or 0.0, outcome.stall_s)
        segment.drain_s = max(segment.drain_s or 0.0, outcome.drain_s)
        segment.last_durable_checkpoint = outcome.step
        self._console.saved(outcome.step, outcome.nbytes, outcome.stall_s, outcome.drain_s)
        self.interval.measured(segment.save_s, segment.drain_s)
        if first and self.interval.every is None:
            self._console.say(self.interval.explain(segment.save_s, segment.drain_s))
        self.told()

    def _fail(self, sentence: str) -> None:
        segment = self._segment
        kept = segment.last_durable_checkpoint or segment.resumed_from_step
        last = f"step {kept} is the newest" if kept else "there is none yet"
        self._console.say(
            f"{sentence}; {last}, training goes on and saves again when a save is due"
        )
