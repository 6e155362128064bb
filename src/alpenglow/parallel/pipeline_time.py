"""When each stage of a pipeline has done its last pass: the schedule's own lists, played in time.

Torch-free. `alpenglow.parallel.replay` plays the lists of every schedule. Two things keep that
short. A pipeline is periodic: once it is full, each further micro-batch (each further round of an
interleaved schedule) adds the same time, so no more are played than fill it, and the rest is added.
And where even that would be many events (deep pipelines), the closed form of the same schedule is
taken, which the tests hold against the played one:

- 1F1B and GPipe: one micro-batch through all stages, and m - 1 more at the slowest stage (Narayanan
  et al. 2021, arXiv 2104.04473, section 2.2, for equal stages);
- interleaved-V: m micro-batches at the slowest stage, and a V-th of the others' time;
- zb-h1: of the fill only what weight passes do not cover (Qi et al. 2023, arXiv 2401.10241).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from alpenglow.parallel.framework import P2P
from alpenglow.parallel.replay import place, program
from alpenglow.parallel.schedule import Action, chunks

EVENTS = 5000
"""Most events that are played: about 3 ms, and once 50 ms more to bring them into order."""


@dataclass(frozen=True)
class StageSeconds:
    """One micro-batch on one stage, all its chunks together."""

    forward: float
    inputs: float
    """Gradient of the input, with what is recomputed before it."""
    weights: float

    @property
    def whole(self) -> float:
        """Forward and backward."""
        return self.forward + self.inputs + self.weights


@lru_cache(maxsize=512)
def finish(
    schedule: str,
    stages: tuple[StageSeconds, ...],
    hops: tuple[float, ...],
    micro_batches: int,
    p2p: P2P = "blocking",
) -> tuple[float, ...]:
    """Seconds until each stage has done its last pass.

    Args:
        schedule: name in alpenglow.parallel.schedule.
        stages: what a micro-batch takes on each.
        hops: a message from each stage to the next; the last entry is from the last stage to the
            first, which only an interleaved schedule has.
        micro_batches: a replica's, in one step.
        p2p: as in alpenglow.parallel.framework. An interleaved schedule never blocks: `blocking`
            counts as `exchange` there.

    Raises:
        ValueError: the schedule is unknown or does not go with these counts.
    """
    p, count = len(stages), chunks(schedule)
    if p == 1:
        return (micro_batches * stages[0].whole,)
    if count > 1 and p2p == "blocking":
        p2p = "exchange"
    step = p if count > 1 else 1
    full = (4 if count > 1 else 3) * p
    short = min(micro_batches, full)
    messages = 6 if schedule != "zb-h1" else 7
    if p * count * short * messages > EVENTS and schedule != "gpipe":
        return _closed(schedule, stages, hops, micro_batches, p2p)
    if schedule == "gpipe":
        step, short = 1, min(micro_batches, max(2, EVENTS // (messages * p)))
    ends = _played(schedule, stages, hops, short, p2p)
    if short == micro_batches:
        return ends
    before = _played(schedule, stages, hops, short - step, p2p)
    more = (micro_batches - short) / step
    grown = max(ends) - max(before)
    return tuple(end + more * grown for end in ends)


def _beside(hops: Sequence[float], stage: int, wraps: bool) -> float:
    """The slower of the two hops of a stage, which an exchange uses at once."""
    last = len(hops) - 1
    after = hops[stage] if stage < last or wraps else 0.0
    before = hops[stage - 1] if stage > 0 or wraps else 0.0
    return max(after, before)


def _played(
    schedule: str,
    stages: Sequence[StageSeconds],
    hops: Sequence[float],
    micro_batches: int,
    p2p: P2P,
) -> tuple[float, ...]:
    count, blocking = chunks(schedule), p2p == "blocking"
    lengths: list[float] = []
    for stage, own in enumerate(stages):
        extra = _beside(hops, stage, count > 1) if p2p == "exchange" else 0.0
        before, after = (hops[stage - 1], hops[stage]) if p2p != "exchange" else (0.0, 0.0)
        lengths += [
            own.forward / count + extra,
            (own.inputs + own.weights) / count + extra,
            own.inputs + extra,
            own.weights,
            after,
            before,
        ]
    order = _order(schedule, len(stages), micro_batches, blocking)
    turns = iter([lengths[index] for index in order])
    return tuple(
        place(
            program(schedule, len(stages), micro_batches, rendezvous=blocking),
            lambda _: next(turns),
            [0.0] * len(stages),
            rendezvous=blocking,
        )
    )


_LENGTHS = (
    Action.forward,
    Action.backward,
    Action.backward_input,
    Action.backward_weight,
    Action.send_activation,
    Action.send_gradient,
)
"""Of each stage, what is looked up by a number: activations leave it by its own hop, gradients by
that of the stage before."""


@lru_cache(maxsize=64)
def _order(schedule: str, stages: int, micro_batches: int, blocking: bool) -> tuple[int, ...]:
    """Numbers of the lengths that `place` asks for, in its order: it asks for no receive's."""
    number = {action: index for index, action in enumerate(_LENGTHS)}
    return tuple(
        event.stage * len(_LENGTHS) + number[event.action]
        for event in program(schedule, stages, micro_batches, rendezvous=blocking)
        if event.action in number
    )


def _closed(
    schedule: str,
    stages: Sequence[StageSeconds],
    hops: Sequence[float],
    micro_batches: int,
    p2p: P2P,
) -> tuple[float, ...]:
    p, m, count = len(stages), micro_batches, chunks(schedule)
    moves = [2 * count * hop for hop in hops]  # of a micro-batch, there and back
    if count == 1:
        moves[-1] = 0.0
    times = [own.whole for own in stages]
    if p2p == "exchange":
        times = [t + 2 * count * _beside(hops, stage, count > 1) for stage, t in enumerate(times)]
        largest, path = max(times), sum(times)
    elif p2p == "blocking":
        largest = max(t + moves[i] + (moves[i - 1] if i else 0.0) for i, t in enumerate(times))
        path = sum(times) + sum(moves)
    else:
        # A stage holds p - s micro-batches: none goes round faster than they do.
        rounds, largest = 0.0, max(times)
        for stage in reversed(range(p)):
            rounds += times[stage] + (moves[stage] if stage < p - 1 else 0.0)
            if count == 1:
                largest = max(largest, rounds / (p - stage))
        path = sum(times) + sum(moves)
    total = m * largest + (path - largest) / count
    if schedule == "zb-h1":
        # Weight passes fill all but f + b - w a stage of it, as far as there are enough of them.
        weights = [own.weights for own in stages]
        fill = path - largest - 2 * (sum(weights) - max(weights))
        longest = max(times, default=0.0)
        alone = path - sum(weights) + (m - 1) * (longest - max(weights)) + max(weights)
        return (max(m * largest + max(0.0, fill), alone),) * p
    ends, drain = [], 0.0
    for stage, own in enumerate(stages):
        ends.append(total - drain)
        drain += (own.inputs + own.weights + moves[stage] / 2) / count
    return tuple(ends)
