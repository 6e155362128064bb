"""Seconds of fused, causal attention: torch's own kernel, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alpenglow_profiling.curve import Point
from alpenglow_profiling.curves_recipe import AttentionRecipe
from alpenglow_profiling.stopwatch import Stopwatch, Timing


def measure(
    recipe: AttentionRecipe, watch: Stopwatch, device: Any, dtype: Any, room: float
) -> Iterator[tuple[Point, Timing | None]]:
    """Time each sequence length, without keeping a graph and then the backward pass alone.

    Raises:
        RuntimeError: the device failed.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention as attend

    for sequence in recipe.sequences:
        size = (1, recipe.heads, sequence, recipe.head)
        shape = {"heads": recipe.heads, "sequence": sequence, "head": recipe.head}
        # Query, key, value, result and their gradients; a kernel that keeps scores needs more.
        if 8 * recipe.heads * sequence * recipe.head * dtype.itemsize > room:
            yield {"pass": "forward", **shape}, None
            continue
        q, k, v = (torch.randn(size, device=device, dtype=dtype) for _ in range(3))

        def forward(q: Any = q, k: Any = k, v: Any = v) -> object:
            with torch.no_grad():
                return attend(q, k, v, is_causal=True)

        yield {"pass": "forward", **shape}, watch.time(forward, recipe.repeats)
        inputs = [each.requires_grad_() for each in (q, k, v)]
        out = attend(inputs[0], inputs[1], inputs[2], is_causal=True)
        gradient = torch.randn_like(out)

        def backward(out: Any = out, inputs: Any = inputs, gradient: Any = gradient) -> object:
            return torch.autograd.grad(out, inputs, gradient, retain_graph=True)

        yield {"pass": "backward", **shape}, watch.time(backward, recipe.repeats)
