"""Ranks that are slower than their like, window after window.

What counts is the time that a rank computes (forward, backward, weight gradients) without what it
waits for others: in a pipeline a slow rank makes all wait, and only its own computing tells it
from them. It is compared with the median of the ranks of its stage, which do the same work.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alpenglow.train.instruction_hooks import add_hook
from alpenglow_profiling.events import Kind, SpanRecorder

COMPUTE = frozenset({"ForwardPass", "BackwardPass", "BackwardInput", "BackwardWeight"})
"""Instructions that compute; the last two are those of split schedules."""


class BusyTime:
    """Sums the time that this rank computes.

    Args:
        engine: DeepSpeed's pipeline engine.
        recorder: has a span of each instruction, and of each wait of a tensor-parallel group
            inside one.
    """

    def __init__(self, engine: Any, recorder: SpanRecorder) -> None:
        self._recorder = recorder
        self._before_ns = 0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._cuda = next(engine.module.parameters()).is_cuda
        if self._cuda:
            add_hook(engine, self)

    def enter(self, name: str, micro_batch: int) -> None:
        """See `InstructionHook`."""
        del micro_batch
        if name in COMPUTE:
            # The host only queues kernels; the device's own clock tells what they took.
            begin = torch.cuda.Event(enable_timing=True)
            begin.record()
            self._events.append((begin, torch.cuda.Event(enable_timing=True)))

    def leave(self, name: str) -> None:
        """See `InstructionHook`."""
        if name in COMPUTE:
            self._events[-1][1].record()

    def take(self) -> float:
        """Seconds since the last call."""
        if self._cuda:
            if self._events:
                self._events[-1][1].synchronize()
            seconds: float = sum(begin.elapsed_time(end) for begin, end in self._events) / 1e3
            self._events.clear()
            return seconds
        spent = self._recorder.spent_ns
        busy = sum(spent(kind) for kind in (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT_GRAD))
        busy -= spent(Kind.TENSOR_REDUCE)
        before, self._before_ns = self._before_ns, busy
        return (busy - before) / 1e9


@dataclass(frozen=True)
class SlowRank:
    """A rank that was slow in enough windows in a row."""

    rank: int
    stage: int
    factor: float
    """Its time over the median of its stage, in the last window."""


class SlowRanks:
    """Compares the ranks of each stage, a window at a time; the same on every rank.

    Args:
        stages: the pipeline stage of each rank.
        factor: times the median of its stage that make a rank slow.
        windows: in a row, after which it is named (and again after as many more).
    """

    def __init__(self, stages: Sequence[int], factor: float, windows: int) -> None:
        self._peers: Mapping[int, list[int]] = {
            stage: [rank for rank, other in enumerate(stages) if other == stage]
            for stage in set(stages)
        }
        self._factor = factor
        self._windows = windows
        self._in_a_row: Counter[int] = Counter()

    def look(self, seconds: Sequence[float]) -> list[SlowRank]:
        """Take every rank's time of one window; returns the ranks to name now."""
        named = []
        for stage, ranks in sorted(self._peers.items()):
            # The lower median: of two ranks the quicker one is the measure.
            median = statistics.median_low(seconds[rank] for rank in ranks)
            for rank in ranks:
                if median <= 0 or seconds[rank] <= self._factor * median:
                    del self._in_a_row[rank]
                    continue
                self._in_a_row[rank] += 1
                if self._in_a_row[rank] % self._windows == 0:
                    named.append(SlowRank(rank, stage, seconds[rank] / median))
        return named
