"""Saving while training goes on: what the ranks do together at step borders.

    saver.prepare(fragments)                 # once: host memory, places in the containers
    stall = saver.begin(step, fragments, state)      # one memory copy; training goes on
    votes = group.all_reduce_max(saver.votes())      # at every step border, with the stop's own
    outcome = saver.settle(votes)                    # Durable, Abandoned, or None
    outcome = saver.finish()                         # before leaving: wait for what is under way

A save passes three states, and ranks change state only at a border where all of them learn the
same numbers: each rank drains its section; all sections are on disk, and rank 0 writes the manifest
in the background; the manifest is in place, and the checkpoint exists. A rank that cannot write
says so at the next border; then all stop writing and the room is cleared. This module is imported,
never started.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alpenglow.train.checkpoint import prune
from alpenglow.train.checkpoint_commit import check_node, clear, commit, container_name, prepare
from alpenglow.train.checkpoint_group import Group
from alpenglow.train.checkpoint_manifest import step_directory
from alpenglow.train.checkpoint_save import one_of, together
from alpenglow.train.checkpoint_section import Image, Place, PWrite
from alpenglow.train.drain import Drain
from alpenglow.train.fragments import CheckpointError, Fragment
from alpenglow_profiling.events import SpanRecorder

Fragments = Sequence[tuple[Fragment, torch.Tensor]]

# How long a rank that waits for a drain stays away from its peers.
LOOK_S = 0.5


@dataclass(frozen=True)
class Durable:
    """A checkpoint that exists."""

    step: int
    nbytes: int
    """Of all containers; known to rank 0."""
    stall_s: float
    """What training stood still for."""
    drain_s: float
    """From the snapshot until the manifest was in place: the slowest drain and the commit."""


@dataclass(frozen=True)
class Abandoned:
    """A save that no checkpoint came of."""

    step: int
    sentence: str


@dataclass
class _Pending:
    step: int
    directory: Path
    state: Mapping[str, Any]
    generation: int
    stall_s: float = 0.0
    drain_s: float = 0.0
    committing: bool = False
    nbytes: int = 0


class Saver:
    """Saves of one run on one rank.

    Args:
        checkpoints: the run's folder of checkpoints.
        group: all ranks.
        recorder: gets DRAIN spans.
        keep_last: newest checkpoints that stay.
        keep_every: checkpoints at multiples of this step stay; 0: none.
        local: this rank's file on node-local storage; None: there is none.
        say: told, on rank 0, what the user should know.
        pinned: whether snapshots come from a GPU.
        pwrite: in place of `os.pwrite`, for writes to the parallel file system.
    """

    def __init__(
        self,
        checkpoints: Path,
        group: Group,
        recorder: SpanRecorder,
        *,
        keep_last: int,
        keep_every: int = 0,
        local: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
        pinned: bool = False,
        pwrite: PWrite | None = None,
    ) -> None:
        check_node(group.node)
        self._checkpoints = checkpoints
        self._group = group
        self._keep = (keep_last, keep_every)
        self._say = say
        self._pinned = pinned
        self._drain = Drain(f"rank {group.rank} on {group.node}", local, recorder, pwrite)
        self._image: Image | None = None
        self._places: list[Place] = []
        self._pending: _Pending | None = None
        self._noted = False
        self.waits = 0
        """Saves that had to wait for the drain of the one before."""
        self.waited_s = 0.0
        """Seconds that they waited, in all."""

    @property
    def draining(self) -> bool:
        """Whether a save is under way; the same on every rank."""
        return self._pending is not None

    def prepare(self, fragments: Fragments) -> None:
        """Take host memory and agree the places in the containers; collective, before training.

        Raises:
            CheckpointError: on every rank alike, where one has no memory for its image.
        """
        described = [fragment for fragment, _ in fragments]
        self._image = together(self._group, lambda: Image(described, pinned=self._pinned))
        nbytes = self._image.section.nbytes
        self._places = Place.of(self._group.all_gather_object((self._group.node, nbytes)))

    def begin(self, step: int, fragments: Fragments, state: Mapping[str, Any]) -> Outcome:
        """Take the snapshot of this step; collective. Training may go on when it returns.

        Args:
            step: optimizer steps done.
            fragments: this rank's, with their tensors; unchanged until this returns.
            state: JSON-able; rank 0's counts.

        Returns:
            How the former save ended, where this one had to wait for it.

        Raises:
            CheckpointError: on every rank alike: the folder cannot be made.
        """
        former = self._wait()
        begin = time.monotonic()
        directory = step_directory(self._checkpoints, step)
        image = self._image
        changed = image is None or image.section.fragments != tuple(f for f, _ in fragments)
        generation, failure = 0, None
        try:
            if self._group.rank == 0:
                generation = prepare(directory)
            if image is not None and not changed:
                image.take([tensor for _, tensor in fragments])
        except CheckpointError as error:
            failure = f"{self._drain.where}: {error}"
        failed, anew, generation = self._group.all_reduce_max(
            [failure is not None, changed, generation]
        )
        if failed:
            failures = [text for text in self._group.all_gather_object(failure) if text]
            raise CheckpointError(f"the checkpoint was not written: {one_of(failures)}")
        if anew:
            self.prepare(fragments)
            assert self._image is not None
            self._image.take([tensor for _, tensor in fragments])
        assert self._image is not None
        place = self._places[self._group.rank]
        path = directory / container_name(place.container, generation)
        self._pending = _Pending(step, directory, state, generation, time.monotonic() - begin)
        self._drain.begin(self._image, path, place.offset)
        return former

    @property
    def stall_s(self) -> float:
        """Seconds that the snapshot under way took."""
        return 0.0 if self._pending is None else self._pending.stall_s

    def votes(self) -> list[int]:
        """This rank's numbers for the border: failed, unfinished, note, drain in microseconds."""
        if self._pending is None:
            return [0, 0, 0, 0]
        done = self._drain.done()
        failed = done and self._drain.failure is not None
        noted = done and self._drain.note is not None
        return [int(failed), int(not done), int(noted), int(self._drain.seconds * 1e6)]

    def settle(self, votes: Sequence[int]) -> Outcome:
        """Go on by the largest of all ranks' votes; the same on every rank.

        Returns:
            What has become of the save under way: `Durable` or `Abandoned`; None: nothing new.
        """
        pending = self._pending
        if pending is None:
            return None
        failed, unfinished, noted, microseconds = votes
        if failed:
            return self._abandon(pending)
        if unfinished:
            return None
        if not pending.committing:
            pending.committing = True
            pending.drain_s = microseconds / 1e6
            if noted and not self._noted:
                self._note()
            first = self._group.rank == 0
            self._drain.commit((lambda: self._commit(pending)) if first else None)
            return None
        self._pending = None
        seconds = pending.drain_s + microseconds / 1e6
        return Durable(pending.step, pending.nbytes, pending.stall_s, seconds)

    def finish(self) -> Outcome:
        """Wait until nothing is under way; collective."""
        outcome: Outcome = None
        while self._pending is not None:
            # Short looks, so that a slow drain is no silent peer.
            self._drain.wait(LOOK_S)
            outcome = self.settle(self._group.all_reduce_max(self.votes()))
        return outcome

    def _wait(self) -> Outcome:
        if self._pending is None:
            return None
        begin = time.monotonic()
        step = self._pending.step
        outcome = self.finish()
        seconds = time.monotonic() - begin
        self.waits += 1
        self.waited_s += seconds
        self._tell(f"waited {seconds:.1f} s for the drain of step {step}: saves come too fast")
        return outcome

    def _commit(self, pending: _Pending) -> None:
        pending.nbytes = commit(
            pending.directory, pending.step, pending.state, self._places, pending.generation
        )
        try:
            prune(self._checkpoints, *self._keep)
        except OSError as error:
            self._tell(f"an old checkpoint could not be removed: {error}")

    def _abandon(self, pending: _Pending) -> Abandoned:
        self._drain.abandon()
        failures = self._group.all_gather_object(self._drain.failure)
        if self._group.rank == 0:
            clear(pending.directory)
        self._pending = None
        sentence = one_of([text for text in failures if text is not None])
        return Abandoned(pending.step, f"the checkpoint was not written: {sentence}")

    def _note(self) -> None:
        """Say once why local storage was left out; collective."""
        self._noted = True
        notes = [note for note in self._group.all_gather_object(self._drain.note) if note]
        self._tell(f"local storage left out, straight to the file system: {one_of(notes)}")

    def _tell(self, text: str) -> None:
        if self._group.rank == 0:
            self._say(text)


Outcome = Durable | Abandoned | None
