"""Gradients that are not finite: found on every rank alike, before the optimizer is asked.

DeepSpeed looks at the global norm, which counts a tensor that the ranks of a tensor-parallel group
hold alike once, on the first of them: a bad value in another's copy would pass and be learnt. So
each rank looks at all gradients that it is about to apply, one all-reduce makes the finding
everybody's, and then DeepSpeed discards the step in its own way, in fp32, bf16 and fp16 alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed

from alpenglow.train.instruction_hooks import add_hook

OPTIMIZER_STEP = "OptimizerStep"


class NonFiniteGradients:
    """Looks at the reduced gradients before each optimizer step.

    Args:
        engine: DeepSpeed's pipeline engine with one of its ZeRO-1, BF16 or fp16 optimizers.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.where: str | None = None
        """In the last step: the first rank that had such a gradient, and how many did; None where
        all were finite. The same on every rank."""
        add_hook(engine, self)

    def enter(self, name: str, micro_batch: int) -> None:
        """See `InstructionHook`."""
        del micro_batch
        if name == OPTIMIZER_STEP:
            self._look()

    def leave(self, name: str) -> None:
        """See `InstructionHook`."""

    def _look(self) -> None:
        gradients = list(reduced_gradients(self._engine.optimizer))
        world = torch.distributed.get_world_size()
        device = next(self._engine.module.parameters()).device
        # A flag a rank, 12 KiB at 3,072 ranks, so that one all-reduce also says who.
        flags = torch.zeros(world, dtype=torch.int32, device=device)
        flags[torch.distributed.get_rank()] = not_finite(gradients)
        torch.distributed.all_reduce(flags)
        found = flags.nonzero().flatten().tolist()
        self.where = None
        if not found:
            return
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        self.where = f"rank {found[0]}{more}"
        for gradient in gradients:
            # These gradients are lost either way; now every norm says so.
            if gradient.numel():
                gradient.view(-1)[0] = float("nan")


def reduced_gradients(optimizer: Any) -> Iterator[torch.Tensor]:
    """The gradients that this rank's optimizer step is about to apply: its own share under ZeRO."""
    partitions = getattr(optimizer, "fp32_groups_gradient_flat_partition", None)
    if partitions is not None:  # BF16_Optimizer
        yield from partitions
        return
    averaged = getattr(optimizer, "averaged_gradients", None)
    if averaged is None:
        raise TypeError(f"{type(optimizer).__name__}: no optimizer whose gradients are known")
    for group in averaged.values():
        if isinstance(group, torch.Tensor):
            yield group
        else:
            yield from (gradient for gradient in group or () if gradient is not None)


def not_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether any value is an infinity or no number."""
    # A sum needs no copy, and one non-finite term makes it non-finite. Finite terms may overflow
    # it, so what it says is looked at closely, which costs a copy of a byte an element.
    sums = [tensor.sum(dtype=torch.float32) for tensor in tensors]
    if not sums or bool(torch.isfinite(torch.stack(sums)).all()):
        return False
    return any(not bool(torch.isfinite(tensor).all()) for tensor in tensors)
