"""What is done to an engine in a rank's process, so that the guard has something to find.

Each is called as `disturb(rank, engine)` before the first step (see `training_ranks.train`) and
sits on the engine's own instructions, so that the product's code has no switch for it.
"""

from __future__ import annotations

import time
from typing import Any


class BadGradient:
    """Puts one value into a gradient at the end of a rank's backward pass; `times` counts down."""

    def __init__(self, engine: Any, step: int, value: float, times: int) -> None:
        from alpenglow.train.instruction_hooks import add_hook

        self.inner, self.step, self.value, self.times = engine.inner, step, value, times
        add_hook(engine.inner, self)

    def enter(self, name: str, micro_batch: int) -> None: ...

    def leave(self, name: str) -> None:
        if name != "BackwardPass" or self.inner.recorder.step != self.step or self.times == 0:
            return
        self.times -= 1
        # A layer norm's: the ranks of a tensor-parallel group hold it alike.
        parameter = next(p for p in self.inner.module.parameters() if p.ndim == 1)
        high = getattr(parameter, "_hp_grad", None)
        (parameter.grad if high is None else high).view(-1)[3] = self.value


def spoil(
    rank: int, engine: Any, *, where: int, step: int, times: int, value: float = float("nan")
) -> None:
    if rank == where:
        BadGradient(engine, step, value, times)


def raise_loss(rank: int, engine: Any, *, step: int) -> None:
    """Three times the loss, and so the gradient, in one step."""
    del rank
    inner, original = engine.inner, engine.inner.module.loss_fn

    def loss(outputs: Any, labels: Any) -> Any:
        return original(outputs, labels) * (3.0 if inner.recorder.step == step else 1.0)

    inner.module.loss_fn = loss


def flip(rank: int, engine: Any, *, where: int) -> None:
    """One gradient of one rank is off by its last bit, in every backward pass of step 4."""
    from alpenglow.train.instruction_hooks import add_hook

    class LastBit:
        def enter(self, name: str, micro_batch: int) -> None: ...

        def leave(self, name: str) -> None:
            import torch

            if name == "BackwardPass" and engine.inner.recorder.step == 4:
                parameter = next(engine.inner.module.parameters())
                assert parameter.grad is not None
                parameter.grad.view(torch.int32).view(-1)[100] ^= 1

    if rank == where:
        add_hook(engine.inner, LastBit())


def drag(rank: int, engine: Any, *, where: int) -> None:
    module = engine.inner.module
    forward = module.forward

    def slow(*inputs: Any) -> Any:
        time.sleep(0.5)
        return forward(*inputs)

    if rank == where:
        module.forward = slow


def flip_and_drag(rank: int, engine: Any) -> None:
    flip(rank, engine, where=2)
    drag(rank, engine, where=1)
