"""How long everything takes in a step of a job that nothing disturbs.

Torch-free. A stage of a replica is one actor; replicas are of a few kinds, by how they lie on
nodes. `JobLengths.of` takes all of it from a `StepCost`, so that an undisturbed simulation gives
that step; a test or a measured run may fill it in by other numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.framework import P2P
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.replay import Event, program
from alpenglow.parallel.schedule import COMPUTE, Action, chunks
from alpenglow.parallel.seats import Seats
from alpenglow.parallel.step_cost import StepCost

Floats = npt.NDArray[np.float64]


class Plan(NamedTuple):
    """A program, and where in the table of lengths each of its events looks."""

    events: tuple[Event, ...]
    order: tuple[int, ...]
    """Of each event that takes time: the place of its pass in [stages, actions, turns], or behind
    them all the stage that it leaves as an activation or to which it comes as a gradient."""
    passes: tuple[tuple[int, ...], ...]
    """Of each stage, the places of its passes in its own order."""


@dataclass(frozen=True, eq=False)
class JobLengths:
    """Seconds of an undisturbed step.

    K kinds of replicas, S stages. A pass is given for one micro-batch, all chunks together.
    """

    layout: Layout
    schedule: str
    micro_batches: int
    ranks_per_node: int
    own: Floats
    """[K, S, 3]: forward, backward to the input (recompute with it), to the weights: computing."""
    tensor: Floats
    """[K, S, 3]: collectives of the tensor group inside them, when all of it is there."""
    hops: Floats
    """[K, S]: a message from each stage to the next, from the last to the first."""
    reduce: Floats
    """[S]: reduction of gradients, from its begin to its end."""
    behind: Floats
    """[S]: what of it comes behind the last pass, however long that takes."""
    update: Floats
    """[S]: norm and optimizer."""
    gather: Floats
    """[S]: gathering of the weights behind it."""
    tied: float = 0.0
    """Sum of a tied embedding's gradients, behind all reductions."""
    p2p: P2P = "blocking"
    """As in alpenglow.parallel.framework."""
    predicted: float | None = None
    """The step that `StepCost` says, where these are its lengths."""

    @classmethod
    def of(cls, cost: StepCost) -> JobLengths:
        """Lengths of a predicted step."""
        own, tensor = [], []
        for replica in cost.replicas:
            for stage in replica.stages:
                whole = stage.forward, stage.recompute + stage.inputs, stage.weights
                own.append([one.products + one.kernels + one.host for one in whole])
                tensor.append([one.tensor for one in whole])
        shape = len(cost.replicas), cost.layout.pipeline, 3
        return cls(
            layout=cost.layout,
            schedule=cost.work.schedule,
            micro_batches=cost.work.micro_batches,
            ranks_per_node=len(cost.hardware.site.sockets),
            own=np.reshape(own, shape),
            tensor=np.reshape(tensor, shape),
            hops=np.array([replica.hops for replica in cost.replicas]),
            reduce=np.array([end.reduce for end in cost.ends]),
            behind=np.array([end.behind for end in cost.ends]),
            update=np.array([end.update for end in cost.ends]),
            gather=np.array([end.gather for end in cost.ends]),
            tied=cost.tied,
            p2p=cost.how.p2p,
            predicted=cost.seconds,
        )

    @property
    def kinds(self) -> int:
        """Kinds of replicas; replica d is of kind d % kinds."""
        return len(self.own)

    @property
    def chunks(self) -> int:
        """Chunks of a stage's layers."""
        return chunks(self.schedule)

    @property
    def exchanges(self) -> bool:
        """Messages go both ways between two passes; so they do where chunks are interleaved."""
        return self.p2p == "exchange" or (self.p2p == "blocking" and self.chunks > 1)

    @property
    def blocks(self) -> bool:
        """A message holds both ends."""
        return self.p2p == "blocking" and not self.exchanges

    @property
    def turns(self) -> int:
        """Passes of each action on a stage: micro-batches x chunks."""
        return self.micro_batches * self.chunks

    @property
    def splits(self) -> bool:
        """Passes to the weights are passes of their own."""
        return self.schedule == "zb-h1"

    @property
    def actions(self) -> int:
        """Kinds of passes: forward, backward; or forward, input, weights."""
        return 3 if self.splits else 2

    def by_action(self, values: Floats) -> Floats:
        """[..., 3] as `own` -> [..., actions] of one chunk."""
        if not self.splits:
            values = np.stack([values[..., 0], values[..., 1] + values[..., 2]], axis=-1)
        return np.asarray(values / self.chunks)

    @cached_property
    def seats(self) -> Seats:
        """Who is where."""
        return Seats.of(self.layout, self.ranks_per_node)

    @property
    def plan(self) -> Plan:
        """Its schedule's program.

        Raises:
            ValueError: the schedule does not go with the counts.
        """
        return _plan(self.schedule, self.layout.pipeline, self.micro_batches, self.blocks)


_PASS = {
    Action.forward: 0,
    Action.backward: 1,
    Action.backward_input: 1,
    Action.backward_weight: 2,
}


@lru_cache(maxsize=64)
def _plan(schedule: str, stages: int, micro_batches: int, blocks: bool) -> Plan:
    events = program(schedule, stages, micro_batches, rendezvous=blocks)
    turns = micro_batches * chunks(schedule)
    actions = 3 if schedule == "zb-h1" else 2
    order: list[int] = []
    passes: list[list[int]] = [[] for _ in range(stages)]
    for event in events:
        stage = event.stage
        if event.action in COMPUTE:
            turn = event.chunk * micro_batches + event.micro_batch
            order.append((stage * actions + _PASS[event.action]) * turns + turn)
            passes[stage].append(order[-1])
        elif event.action is Action.send_activation:
            order.append(stages * actions * turns + stage)
        elif event.action is Action.send_gradient:
            order.append(stages * actions * turns + event.other)
    return Plan(events, tuple(order), tuple(map(tuple, passes)))
