"""A backward pass in two: input gradients at once, weight gradients when somebody asks for them.

The schedule ZB-H1 (alpenglow.parallel.schedule) computes the gradients of weights where a stage
would idle. The layers of alpenglow.parallel.tensor send their products through `linear` and
`embedding` here. Without a `WeightGradients` these are torch's own functions; with one their
backward returns the gradient of the input and keeps input and output gradient until `run`:

    group.weight_gradients = WeightGradients()
    loss.backward()                           # input gradients; norms and lone biases too
    group.weight_gradients.run(deliver)       # deliver(parameter, gradient) for each weight

The products are those of torch's autograd, factor by factor, so a weight's gradient has the same
bits. What is kept is a reference: whoever overwrites an output gradient in place must clone it
before `backward`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Deliver = Callable[[nn.Parameter, Tensor], None]
_Work = Callable[[Deliver], None]


class WeightGradients:
    """Weight gradients of micro-batches whose input gradients are done, oldest first."""

    def __init__(self) -> None:
        self._kept: deque[list[_Work]] = deque()
        # Makes outputs part of the graph where no input is: the parameters are hidden from it.
        self.anchor = torch.zeros((), requires_grad=True)

    def __len__(self) -> int:
        """Micro-batches whose weight gradients are still to be computed."""
        return len(self._kept)

    def open(self) -> None:
        """Begin a micro-batch: call before its backward."""
        self._kept.append([])

    def keep(self, work: _Work) -> None:
        """Add to the micro-batch that was opened last.

        Raises:
            RuntimeError: none was opened.
        """
        if not self._kept:
            raise RuntimeError("a backward pass of split layers began without WeightGradients.open")
        self._kept[-1].append(work)

    @torch.no_grad()
    def run(self, deliver: Deliver) -> None:
        """Compute the oldest micro-batch's weight gradients, in the order of its backward pass.

        Args:
            deliver: gets each parameter and its gradient of this micro-batch, once a use.
        """
        work = self._kept.popleft()
        work.reverse()
        while work:
            work.pop()(deliver)  # popped first, so that what it kept is freed with it

    def clear(self) -> None:
        """Forget everything: a step that was broken off."""
        self._kept.clear()


def linear(
    x: Tensor, weight: nn.Parameter, bias: nn.Parameter | None, later: WeightGradients | None
) -> Tensor:
    """Return x A^T + b, x [..., inputs], A [outputs, inputs]; split where `later` is given."""
    if later is None:
        return functional.linear(x, weight, bias)
    return _Linear.apply(later.anchor, x, _Parameters(weight, bias), later)  # type: ignore[no-any-return]


def embedding(tokens: Tensor, weight: nn.Parameter, later: WeightGradients | None) -> Tensor:
    """Return rows of `weight` [vocabulary, width]; split where `later` is given."""
    if later is None:
        return functional.embedding(tokens, weight)
    return _Embedding.apply(later.anchor, tokens, _Parameters(weight, None), later)  # type: ignore[no-any-return]


class _Parameters:
    """Hides parameters from autograd, which would expect a gradient for each from the backward."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        self.weight = weight
        self.bias = bias


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, x: Tensor, parameters: _Parameters, later: WeightGradients
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.parameters = parameters
        ctx.later = later
        return functional.linear(x, parameters.weight, parameters.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor | None, None, None]:
        (x,) = ctx.saved_tensors  # under recompute this computes the layer again
        weight, bias = ctx.parameters.weight, ctx.parameters.bias
        gradient = gradients[0].reshape(-1, weight.shape[0])

        def work(deliver: Deliver) -> None:
            if bias is not None:
                deliver(bias, gradient.sum(0))
            deliver(weight, gradient.t().mm(x.reshape(-1, x.shape[-1])))

        ctx.later.keep(work)
        of_input = gradient.mm(weight).view(x.shape) if ctx.needs_input_grad[1] else None
        return None, of_input, None, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, tokens: Tensor, parameters: _Parameters, later: WeightGradients
    ) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.parameters = parameters
        ctx.later = later
        return functional.embedding(tokens, parameters.weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, None]:
        (tokens,) = ctx.saved_tensors
        weight, gradient = ctx.parameters.weight, gradients[0]

        def work(deliver: Deliver) -> None:
            # torch's own backward of an embedding: the sum of the rows of equal tokens.
            rows = torch.ops.aten.embedding_dense_backward(
                gradient, tokens, weight.shape[0], -1, False
            )
            deliver(weight, rows)

        ctx.later.keep(work)
        return None, None, None, None
