"""The times of synthetic steps: lengths, faults, and the schedule that makes one wait for another.

Lawful: every begin and end comes from playing the run's schedule with `alpenglow.parallel.replay`,
messages that hold both ends included. The ranks of a tensor group meet in the collective at the
end of each pass, those of a data-parallel group when gradients are reduced, all ranks in the norm
of the optimizer. All steps of a block and all replicas are played at once, in integers of ns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.replay import Event, place, program
from alpenglow.parallel.schedule import Action
from alpenglow.parallel.seats import Seats
from alpenglow_analysis.planted import DataHiccups, Jitter, SlowRank
from alpenglow_analysis.synthetic_work import Fault, Times, Work

_BLOCK = 1 << 20
"""Passes of one kind in a block of steps: about 8 MB an array."""


@dataclass(frozen=True)
class Part:
    """What one stage is told of one event, times in ns since its step began."""

    event: Event
    """As the program has it: of a message, from its sender's side."""
    begin: Times
    """[steps, data]: when this stage came to it."""
    end: Times
    """[steps, data]"""


@dataclass(frozen=True)
class Played:
    """A block of steps that has been played."""

    work: Work
    took: dict[Action, Times]
    """[stages, micro-batches, tensor, steps, data]: as `Work.passes`, in whole ns."""
    load: Times
    """As `Work.load`, in whole ns."""
    parts: list[list[Part]]
    """By stage, in the order of the stage."""
    reduced: Times
    """[stages, tensor, steps]: end of the gradient reduction."""
    updated: Times
    """[steps]: end of the optimizer, for all ranks."""
    length: Times
    """[steps]: of the whole step."""


@dataclass(frozen=True)
class StepModel:
    """How long what takes in a step of a run. Times in ns."""

    layout: Layout
    micro_batches: int
    _: KW_ONLY
    ranks_per_node: int = 4
    schedule: str = "1f1b"
    forward: int = 30_000_000
    """Of one micro-batch on one stage, its collectives included."""
    backward: int = 60_000_000
    """Of the input alone where the schedule is zb-h1; what is recomputed included."""
    weight_grad: int = 30_000_000
    """Counts where the schedule is zb-h1."""
    recompute: int = 0
    """The part of a backward pass in which the forward pass is done again."""
    tensor_reduce: int = 4_000_000
    """Inside each forward and each backward, from the last arrival to the end."""
    message: int = 0
    """Between two stages, where they share a node."""
    message_far: int = 0
    """Between two stages on two nodes."""
    message_bytes: int = 2 * 2048 * 4096 * 2
    load: int = 0
    """Reading a micro-batch, on the first and the last stage, before its forward pass."""
    data_wait: int = 1_000_000
    """Once a step on every rank, before the pipeline starts."""
    gradient_reduce: int = 12_000_000
    """From the last arrival to the end."""
    gradient_bytes: int = 1 << 29
    optimizer: int = 9_000_000
    """From the last arrival at the norm to the end."""
    rest: int = 0
    """At the end of a step, in no span inside it."""
    jitter: float = 0.0
    """Relative standard deviation of each pass; the same as a `Jitter` among the faults."""
    slow_rank: int = -1
    slow_factor: float = 1.0
    """The same as a `SlowRank` among the faults."""
    faults: tuple[Fault, ...] = ()
    seed: int = 1

    @property
    def ranks(self) -> int:
        """Ranks of the run."""
        return self.layout.world

    @property
    def nodes(self) -> int:
        """Nodes that run ranks."""
        return -(-self.ranks // self.ranks_per_node)

    @cached_property
    def seats(self) -> Seats:
        """Who is where."""
        return Seats.of(self.layout, self.ranks_per_node)

    @cached_property
    def planted(self) -> tuple[Fault, ...]:
        """Every fault, those that have fields of their own first."""
        found: list[Fault] = []
        if self.jitter:
            found.append(Jitter(self.jitter))
        if self.slow_rank >= 0 and self.slow_factor != 1:
            found.append(SlowRank(self.slow_rank, self.slow_factor))
        return (*found, *self.faults)

    @property
    def reads(self) -> bool:
        """Whether the reading of micro-batches leaves spans."""
        return self.load > 0 or any(isinstance(fault, DataHiccups) for fault in self.planted)

    def with_faults(self, faults: Sequence[Fault]) -> StepModel:
        """The same model with these faults instead of its own."""
        return replace(self, jitter=0.0, slow_rank=-1, faults=tuple(faults))

    def check(self) -> None:
        """Refuse lengths and faults that cannot be.

        Raises:
            ValueError: one sentence.
        """
        meeting = self.tensor_reduce if self.layout.tensor > 1 else 0
        if min(self.forward, self.backward - self.recompute) <= meeting:
            raise ValueError(
                f"forward = {self.forward} ns, backward = {self.backward} ns with {self.recompute} "
                f"of recomputation: each must be longer than its collective of {meeting} ns"
            )
        for fault in self.planted:
            fault.check(self.seats)

    @cached_property
    def _clean(self) -> Played:
        return self.with_faults(()).play(np.ones(1, np.int64), np.random.default_rng(0))

    @property
    def makespan(self) -> int:
        """Time in ns from the first pass to the last, without a fault."""
        return int(max(parts[-1].end.max() for parts in self._clean.parts)) - self.data_wait

    @property
    def step(self) -> int:
        """Length in ns of a whole step, without a fault."""
        return int(self._clean.length[0])

    def blocks(self, first: int, last: int) -> list[Times]:
        """Numbers of the steps from `first` to `last` in blocks to be played at once.

        The blocks of a segment, and so its dice, do not depend on its faults.
        """
        size = max(1, min(256, _BLOCK // (self.ranks * self.micro_batches)))
        borders = [*range(first, last + 1, size), last + 1]
        return [np.arange(*pair) for pair in pairwise(borders)]

    def played(self, stream: int, first: int, last: int) -> Iterator[Played]:
        """Play the steps from `first` to `last`, a block at a time.

        Args:
            stream: tells the dice of a step that is trained again from those of its first time.
            first: number of the first step.
            last: number of the last.
        """
        for block in self.blocks(first, last):
            dice = np.random.default_rng([self.seed, stream, int(block[0])])
            yield self.play(block, dice)

    def lengths(self, stream: int, first: int, last: int) -> Times:
        """[steps]: length in ns of each step from `first` to `last`."""
        blocks = [block.length for block in self.played(stream, first, last)]
        return np.concatenate([np.empty(0, np.int64), *blocks])

    def play(self, step: Times, dice: np.random.Generator) -> Played:
        """Play one block of steps.

        Args:
            step: [steps], their numbers.
            dice: of the block.
        """
        work = self._work(step)
        for fault in self.planted:
            fault.disturb(work, dice)
        shape = self.layout
        took = {action: _whole(lengths) for action, lengths in work.passes.items()}
        load, message, reduce = (_whole(x) for x in (work.load, work.message, work.reduce))

        def length(event: Event) -> Times:
            s, k = event.stage, event.micro_batch
            if event.other >= 0:
                return np.asarray(message[min(s, event.other)])
            own = took[event.action][s, k]
            if event.action is Action.forward and s in (0, shape.pipeline - 1):
                own = own + load[0 if s == 0 else 1, k]
            meets = shape.tensor > 1 and event.action is not Action.backward_weight
            return np.asarray(own.max(axis=0) + (self.tensor_reduce if meets else 0))

        parts: list[list[Part]] = [[] for _ in range(shape.pipeline)]

        def note(event: Event, begin: Times, came: Times, end: Times) -> None:
            parts[event.stage].append(Part(event, begin, end))
            if event.other >= 0:
                parts[event.other].append(Part(event, came, end))

        start = np.full((len(step), shape.data), self.data_wait, np.int64)
        free = place(
            program(self.schedule, shape.pipeline, self.micro_batches),
            length,
            [start] * shape.pipeline,
            maximum=np.maximum,
            placed=note,
        )
        arrived = np.stack([done.max(axis=1) for done in free])
        reduced = arrived[:, None] + reduce
        updated = reduced.max(axis=(0, 1)) + self.optimizer
        return Played(work, took, load, parts, reduced, updated, updated + self.rest)

    def _work(self, step: Times) -> Work:
        shape, m, n = self.layout, self.micro_batches, len(step)
        p, t, d = shape.pipeline, shape.tensor, shape.data
        meeting = self.tensor_reduce if t > 1 else 0
        base = {Action.forward: self.forward - meeting}
        if self.schedule == "zb-h1":
            base[Action.backward_input] = self.backward - meeting
            base[Action.backward_weight] = self.weight_grad
        else:
            base[Action.backward] = self.backward - meeting
        near = self.seats.near()
        message = np.where(near, self.message, self.message_far)[:, None]
        return Work(
            step,
            self.seats,
            {action: np.full((p, m, t, n, d), float(ns)) for action, ns in base.items()},
            np.full((2, m, t, n, d), float(self.load)),
            np.broadcast_to(message, (p - 1, n, d)).astype(np.float64),
            np.full((p, t, n), float(self.gradient_reduce)),
        )


def _whole(lengths: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Times:
    return np.rint(lengths).astype(np.int64)
