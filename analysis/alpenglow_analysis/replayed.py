"""Steps of a sample played again on their schedule, with lengths as they were or as one supposes.

All steps and replicas are played at once (`alpenglow.parallel.replay`). A stage of a replica is one
actor: its tensor ranks go on together. After the last pass the replicas of a stage reduce their
gradients, each as soon as the last of them is there, and all ranks end their optimizer step
together; who is early waits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.replay import Event, place, program
from alpenglow.parallel.schedule import Action
from alpenglow_analysis.sample import Sample

Floats = npt.NDArray[np.float64]

PLACE = {
    Action.forward: (0,),
    Action.backward: (1, 2),
    Action.backward_input: (1,),
    Action.backward_weight: (2,),
}
"""Which recorded passes an action is made of; a whole backward pass has no weight pass recorded."""


@dataclass(frozen=True)
class Lengths:
    """What is played, in ns; shapes as in `Sample`, each broadcastable to its own."""

    passes: Floats
    """[n, S, D, 3, M]: of a tensor group, transfers inside left out."""
    tensor: Floats
    down: Floats
    up: Floats
    load: Floats
    head: Floats
    gradient: Floats
    optimizer: Floats
    schedule: str

    def without(self, *names: str) -> Lengths:
        """The same with some of them taking no time."""
        return replace(self, **{name: np.zeros_like(getattr(self, name)) for name in names})


NETWORK = ("tensor", "down", "up", "gradient")


def recorded(sample: Sample) -> Lengths:
    """Lengths as they were."""
    return Lengths(
        sample.joint, sample.tensor, sample.down, sample.up, sample.load, sample.head,
        sample.gradient, sample.optimizer, sample.schedule,
    )  # fmt: skip


def bare(sample: Sample, passes: Floats) -> Lengths:
    """Some passes and nothing else."""
    return replace(recorded(sample).without(*NETWORK, "load", "head", "optimizer"), passes=passes)


def played(lengths: Lengths) -> Floats:
    """How long each step takes, in ns.

    Args:
        lengths: of n steps; passes [n, S, D, 3, M].

    Returns:
        [n]: from the begin of all ranks to the end of the last.
    """
    passes = lengths.passes
    n, stages, replicas, _, m = passes.shape
    # Stage first and contiguous, so that the inner loop only indexes.
    whole = passes + lengths.tensor
    table = np.ascontiguousarray(np.moveaxis(whole, (1, 3, 4), (0, 1, 2)))
    down = np.ascontiguousarray(np.moveaxis(lengths.down, (1, 3), (0, 1)))
    up = np.ascontiguousarray(np.moveaxis(lengths.up, (1, 3), (0, 1)))
    load = np.ascontiguousarray(np.moveaxis(lengths.load, (1, 3), (0, 1)))

    def length(event: Event) -> Any:
        action, stage, k = event.action, event.stage, event.micro_batch
        if action in PLACE:
            first, *more = PLACE[action]
            return table[stage, first, k] + sum(table[stage, each, k] for each in more)
        if action is Action.load:
            return load[stage, k]
        return down[stage, k] if action is Action.send_activation else up[event.other, k]

    events = program(lengths.schedule, stages, m, loads=True)
    start = [np.broadcast_to(lengths.head[:, s], (n, replicas)) for s in range(stages)]
    free = place(events, length, start, maximum=np.maximum)
    done = np.stack(free, axis=1)  # [n, S, D]
    reduced = done.max(axis=2, keepdims=True) + lengths.gradient
    ended = reduced.max(axis=(1, 2), keepdims=True) + lengths.optimizer
    return np.asarray(ended.max(axis=(1, 2)))


def spread(passes: Floats, sample: Sample) -> Floats:
    """Passes of one length broadcast to all that they stand for: [n, S, D, 3, M]."""
    return np.broadcast_to(passes, sample.joint.shape)
