"""Head and cross entropy in one: the logits of a few tokens at a time, never all of them.

The head's product, the softmax and both gradients are done for one chunk of tokens while its logits
are at hand, so that neither logits nor probabilities of a micro-batch ever lie in memory: of
T tokens and V / t columns a rank they would be 4 T V / t bytes each in fp32. The gradients wait for
the backward pass, which only scales them (the idea: Hsu et al. 2024, Liger Kernel, arXiv
2410.10989, section 3.2). What waits is the hidden states' gradient and the head's in fp32, which
the backward pass would make anyway: under 1F1B the last stage goes back at once, so the peak is
smaller; a GPipe schedule would hold one head gradient for each micro-batch.

Under ZB-H1 the head's gradient is delivered in the weight pass, like every other's.

With a split vocabulary each rank makes the softmax over its own columns; two all-reduces of one
number a token give the factor by which that is the softmax over all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alpenglow.parallel.memory import LOGITS_BYTES
from alpenglow.parallel.tensor import IGNORED_LABEL, TensorGroup

CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": LOGITS_BYTES}
"""fp32 logits at once. On a CPU they stay near the cores' caches; on a GPU a chunk is as large as
a product needs to be to hide the pass over the head's gradient that follows it."""


class Head:
    """The head's weight [V / size, width] on its way to the loss; made by `head_input`."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight
        self.gradient: Tensor | None = None
        """From the loss's backward to that of `head_input`."""


def head_input(x: Tensor, weight: nn.Parameter, group: TensorGroup) -> tuple[Tensor, Head]:
    """What a last slot gives instead of logits: the hidden states, and the head beside them.

    The head's gradient is handed to autograd after the returned tensor's. DeepSpeed prepares a
    backward pass, clearing bf16 gradients among other things, by a hook on the tensors that leave
    the model, and what had been accumulated before that hook would be lost.

    Args:
        x: [..., width], equal on all ranks of the group.
        weight: [V / size, width], this rank's rows of the head.
        group: the tensor group; where it splits backward passes, its weight pass gets the gradient.
    """
    head = Head(weight)
    if group.weight_gradients is None:
        x = _HeadInput.apply(x, weight, head)
    return x, head


class _HeadInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, head: Head) -> Tensor:
        del weight
        ctx.head = head
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        gradient, ctx.head.gradient = ctx.head.gradient, None
        return gradients[0], gradient, None


def head_cross_entropy(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    group: TensorGroup,
    *,
    chunk: int | None = None,
) -> Tensor:
    """Sum of the cross entropies of all positions, softmax in fp32.

    Args:
        hidden: [..., width], from `head_input`.
        head: likewise.
        labels: int64 [...], equal on all ranks; `IGNORED_LABEL` counts nothing.
        group: the tensor group.
        chunk: tokens at once; default: as many as `CHUNK_BYTES` of logits allow.

    Returns:
        An fp32 scalar, equal on all ranks.
    """
    flat = group.copy_in(hidden).reshape(-1, hidden.shape[-1])
    if chunk is None:
        budget = CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES["cuda"])
        chunk = max(1, budget // (4 * head.weight.shape[0]))
    total: Tensor = _HeadCrossEntropy.apply(flat, labels.reshape(-1), head, group, chunk)
    return total


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, labels: Tensor, head: Head, group: TensorGroup, chunk: int
    ) -> Tensor:
        weight, want_hidden = head.weight, ctx.needs_input_grad[0]
        want_weight = want_hidden and weight.requires_grad
        # Equal chunks: a small rest would be a product of its own.
        tokens, rows = labels.numel(), weight.shape[0]
        chunks = -(-tokens // chunk)
        chunk = -(-tokens // chunks)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if want_hidden else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if want_weight else None
        buffer = torch.empty(chunk, rows, dtype=weight.dtype, device=weight.device)
        for begin in range(0, tokens, chunk):
            part = slice(begin, min(begin + chunk, tokens))
            x, y = hidden[part], labels[part]
            logits = torch.mm(x, weight.t(), out=buffer[: len(x)])
            losses, probabilities, factor, label, here = _softmax(logits, y, group)
            total += losses.sum()
            if hidden_gradient is not None:
                # (p factor - one-hot) W
                gradient = torch.mm(probabilities, weight, out=hidden_gradient[part])
                gradient *= factor
                gradient -= weight[label] * here
            if weight_gradient is not None:
                scaled = x * factor
                if weight.dtype is torch.float32:
                    weight_gradient.addmm_(probabilities.t(), scaled)
                else:
                    weight_gradient += torch.mm(probabilities.t(), scaled)
                weight_gradient.index_add_(0, label, (x * here).float(), alpha=-1.0)
        ctx.gradients = (hidden_gradient, weight_gradient)
        ctx.head = head
        ctx.later = group.weight_gradients
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("head_cross_entropy goes back once; run the forward pass again")
        hidden, weight = ctx.gradients
        ctx.gradients = None
        if weight is not None:
            parameter = ctx.head.weight
            gradient = weight.mul_(gradients[0]).to(parameter.dtype)
            if ctx.later is None:
                ctx.head.gradient = gradient
            else:
                ctx.later.keep(lambda deliver: deliver(parameter, gradient))
        return hidden.mul_(gradients[0]), None, None, None, None


def _softmax(
    logits: Tensor, labels: Tensor, group: TensorGroup
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses and softmax of a chunk [n, V / size]; destroys fp32 logits.

    Returns:
        Losses fp32 [n]; softmax over this rank's columns in the logits' dtype [n, V / size]; the
        factor [n, 1] that makes it the softmax over all columns, 0 where the label is ignored; the
        label's local column [n]; 1 where that column is this rank's, else 0 [n, 1].
    """
    rows, dtype = logits.shape[-1], logits.dtype
    local = labels - group.rank * rows
    elsewhere = (local < 0) | (local >= rows)  # IGNORED_LABEL is elsewhere on every rank
    local = local.masked_fill(elsewhere, 0)
    scores = logits if dtype is torch.float32 else logits.float()
    target = scores.gather(-1, local.unsqueeze(-1)).squeeze(-1).masked_fill(elsewhere, 0.0)
    highest, place = scores.max(dim=-1, keepdim=True)
    probabilities = torch.softmax(scores, dim=-1, out=scores)
    # The highest score's probability is one over the sum of exponentials, and never underflows.
    own = highest.squeeze(-1) - probabilities.gather(-1, place).squeeze(-1).log()
    whole = own
    if group.size > 1:
        top = group.all_reduce(own.clone(), maximum=True)
        share, target = group.all_reduce(torch.stack([(own - top).exp(), target]))
        whole = top + share.log()
    ignored = labels == IGNORED_LABEL
    losses = (whole - target).masked_fill(ignored, 0.0)
    factor = (own - whole).exp().masked_fill(ignored, 0.0)
    return (
        losses,
        probabilities.to(dtype),
        factor.unsqueeze(-1).to(dtype),
        local,
        (~elsewhere).unsqueeze(-1).to(dtype),
    )
