"""Silent corruption: every replica computes the same micro-batch, and all must agree bit for bit.

A core or memory that computes wrongly leaves finite, plausible numbers. The replicas of a
data-parallel group hold the same weights, so the loss and gradients of one micro-batch are the same
bits on each, as long as they run the same kernels on the same kind of device. Every N steps all
replicas run the micro-batch of one of them, forward and backward, and compare checksums of their
weights, loss and gradients; nothing is reduced or applied. Cost: one pass of a single micro-batch
through the pipeline, p of a step's m + p - 1 slots (p stages, m micro-batches, 1F1B), each N steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from deepspeed.runtime.pipe import schedule

from alpenglow.parallel.layout import Layout

CHUNK = 1 << 20
"""Elements that a checksum takes at a time; its scratch memory is 24 bytes an element."""
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # as a signed number: 2^64 over the golden ratio (Knuth)
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensors: Sequence[torch.Tensor]) -> int:
    """64 bits over the bits of some tensors, on their device; any one bit changes it.

    The bits of element i, as an integer, times an odd number of its own, summed modulo 2^64: a
    flipped bit adds an odd multiple of a power of two below 2^64, which is never 0.
    """
    total = 0
    position = 0
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        bits = flat.view(_BITS[flat.element_size()])
        for start in range(0, bits.numel(), CHUNK):
            part = bits[start : start + CHUNK].to(torch.int64)
            index = torch.arange(part.numel(), device=part.device) + (position + start)
            total += int((part * ((2 * index + 1) * _ODD)).sum())
        position += bits.numel()
    return total % (1 << 64)


def one_micro_batch(engine: Any) -> Any:
    """The engine's own schedule for one micro-batch, ending before anything is reduced."""
    last = (schedule.ReduceTiedGrads, schedule.ReduceGrads, schedule.OptimizerStep)
    plan = type(engine._train_schedule())(
        micro_batches=1, stages=engine.num_stages, stage_id=engine.stage_id
    )
    whole = plan.steps

    def steps() -> Iterator[list[Any]]:
        for commands in whole():
            yield [command for command in commands if not isinstance(command, last)]

    plan.steps = steps
    return plan


@dataclass(frozen=True)
class Disagreement:
    """Ranks that computed something else than their replicas."""

    what: str
    """`weights`, `loss` or `gradients`."""
    ranks: tuple[int, ...]
    """Those outside the majority; all of the group where there is none (two replicas)."""
    among: int
    """Replicas that were compared."""


class CrossCheck:
    """Runs one micro-batch on all replicas and compares.

    Args:
        engine: DeepSpeed's pipeline engine, between two steps.
        layout: whose replicas these are.
    """

    def __init__(self, engine: Any, layout: Layout) -> None:
        self._engine = engine
        self._layout = layout
        self._turn = 0

    def run(self, micro_batches: Iterator[Any]) -> list[Disagreement]:
        """Compare; collective. Weights, optimizer and what a step computes stay as they are.

        Args:
            micro_batches: this replica's of the step that comes next; the first is taken from the
                replicas in turn.

        Returns:
            What disagrees, the same on every rank; empty where all agree.
        """
        engine = self._engine
        root = self._turn % self._layout.data
        self._turn += 1
        batch = [next(micro_batches, None)]
        group = engine.grid.get_data_parallel_group()
        source = torch.distributed.get_global_rank(group, root)
        torch.distributed.broadcast_object_list(batch, src=source, group=group)
        weights = checksum(list(engine.module.parameters()))
        engine.module.train()
        engine.set_dataiterator(iter(batch))
        engine.total_loss = None
        engine._compute_loss = True
        # Gradients stay where the backward pass leaves them: none is handed to a reduction.
        reduction, engine.reduction = engine.reduction, None
        if reduction is not None:
            reduction.last = False
        engine._exec_schedule(one_micro_batch(engine))
        engine.reduction = reduction
        sums = {"weights": weights}
        if engine.total_loss is not None:
            sums["loss"] = checksum([engine.total_loss])
        sums["gradients"] = checksum([*_local_gradients(engine)])
        engine.optimizer.zero_grad(set_to_none=True)
        for parameter in engine.module.parameters():
            if getattr(parameter, "grad_accum", None) is not None:
                parameter.grad_accum = None
        engine.total_loss = None
        everybody: list[Any] = [None] * self._layout.world
        torch.distributed.all_gather_object(everybody, sums)
        return compare(everybody, self._layout.data_groups())


def compare(sums: Sequence[dict[str, int]], groups: Sequence[Sequence[int]]) -> list[Disagreement]:
    """Find the ranks whose checksums differ from their data-parallel group's.

    Weights that differ make everything after them differ: then only they are named.
    """
    found: list[Disagreement] = []
    for group in groups:
        for what in ("weights", "loss", "gradients"):
            values = {rank: sums[rank][what] for rank in group if what in sums[rank]}
            counts = Counter(values.values())
            if len(counts) < 2:
                continue
            (value, most), *_ = counts.most_common()
            majority = 2 * most > len(values)
            odd = tuple(r for r, other in values.items() if not majority or other != value)
            found.append(Disagreement(what, odd, len(values)))
            break
    return found


def _local_gradients(engine: Any) -> Iterator[torch.Tensor]:
    """Each parameter's gradient before any reduction, wherever DeepSpeed accumulates it."""
    for parameter in engine.module.parameters():
        for name in ("_hp_grad", "grad_accum", "grad"):
            gradient = getattr(parameter, name, None)
            if gradient is not None:
                yield gradient
                break
