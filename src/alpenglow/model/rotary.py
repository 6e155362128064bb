"""From the packed projection to query, key and value with rotary positions, in few passes.

Query and key are turned together while they still lie side by side, and the backward pass writes
the three gradients straight into one packed tensor: autograd alone would turn, pad and join them
in a dozen copies of that tensor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def split_heads(
    packed: Tensor, head_dim: int, cosine: Tensor, sine: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value, each [micro-batch, heads, length, head_dim].

    The first `ndims` dimensions of each query and key are turned by the position's angle (Su et al.
    2021, arXiv 2104.09864, in GPT-NeoX's form of two halves), the others pass.

    Args:
        packed: [micro-batch, length, heads x 3 x head_dim], a head's query, key and value in turn.
        head_dim: width of a head.
        cosine: of the angles, both halves: [length, ndims], or [micro-batch, 1, length, ndims]
            where positions differ between sequences.
        sine: as `cosine`.
    """
    batch, length, _ = packed.shape
    heads = packed.view(batch, length, -1, 3, head_dim)
    half = cosine.shape[-1] // 2
    low, high = _spread(cosine[..., :half]), _spread(sine[..., :half])
    if torch.compiler.is_compiling():
        # The compiler makes one pass of these by itself.
        turned = _turned(heads[..., :2, :], low, high)
        query, key = turned.transpose(1, 2).unbind(3)
        return query, key, heads[..., 2, :].transpose(1, 2)
    return _SplitHeads.apply(heads, low, high)  # type: ignore[no-any-return]


def _spread(table: Tensor) -> Tensor:
    """Shape a table to lie under [micro-batch, length, heads, 2, half]."""
    if table.ndim == 4:
        table = table.transpose(1, 2)  # [micro-batch, length, 1, half]
        return table.unsqueeze(-2)
    return table[:, None, None, :]


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = cosine.shape[-1]
    low, high, passed = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((low * cosine - high * sine, high * cosine + low * sine, passed), dim=-1)


def _turn_into(target: Tensor, x: Tensor, cosine: Tensor, sine: Tensor, sign: float) -> None:
    """Write `x`, turned by `sign` times the angles, into `target`."""
    half = cosine.shape[-1]
    low, high = x[..., :half], x[..., half : 2 * half]
    torch.mul(low, cosine, out=target[..., :half]).addcmul_(high, sine, value=-sign)
    torch.mul(high, cosine, out=target[..., half : 2 * half]).addcmul_(low, sine, value=sign)
    target[..., 2 * half :] = x[..., 2 * half :]


class _SplitHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, heads: Tensor, cosine: Tensor, sine: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cosine, sine)
        both = heads[..., :2, :]
        turned = torch.empty(both.shape, dtype=heads.dtype, device=heads.device)
        _turn_into(turned, both, cosine, sine, 1.0)
        query, key = turned.transpose(1, 2).unbind(3)
        return query, key, heads[..., 2, :].transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        query, key, value = (gradient.transpose(1, 2) for gradient in gradients)
        batch, length, heads, width = value.shape
        packed = torch.empty(batch, length, heads, 3, width, dtype=value.dtype, device=value.device)
        for place, gradient in enumerate((query, key)):
            target = packed[..., place : place + 1, :]
            _turn_into(target, gradient.unsqueeze(3), cosine, sine, -1.0)
        packed[..., 2, :] = value
        return packed, None, None
