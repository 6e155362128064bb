"""Seconds of streaming kernels by bytes, the least time of a kernel, and the host's part.

`copy` reads and writes every byte, `add` reads two operands and writes one; a point's `bytes` are
all that is moved. `kernel` is the smallest of kernels, one behind the other. `host` is what the
host takes to start an operation while a device works them off, in a small layer's forward and
backward pass through autograd (operations counted as alpenglow.parallel.layer_cost counts them);
on a CPU, which does the work itself, it is only the call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from alpenglow_profiling.curve import Point
from alpenglow_profiling.curves_recipe import CopiesRecipe
from alpenglow_profiling.stopwatch import Stopwatch, Timing

OPERATIONS = 16
"""Of the small layer: norm 1 + 2, two linear layers 2 + 4 and their weights' sums 2, GELU with its
bias 1 + 2, residual 2."""
PASSES = 20
"""Of it in a repeat: fewer operations than a GPU's queue holds."""


def measure(
    recipe: CopiesRecipe, watch: Stopwatch, device: Any, dtype: Any, room: float
) -> Iterator[tuple[Point, Timing | None]]:
    """Time kernels of each size, the largest ones first; None for what does not fit.

    Raises:
        RuntimeError: the device failed.
    """
    import torch

    tiny = torch.zeros(1, device=device, dtype=dtype)
    yield {"what": "kernel", "bytes": 2 * dtype.itemsize}, watch.time(tiny.zero_, recipe.repeats)
    yield {"what": "host", "bytes": 0}, _host(recipe, device, dtype)
    nbytes = recipe.largest_bytes
    while nbytes >= recipe.smallest_bytes:
        count = max(1, nbytes // (3 * dtype.itemsize))
        for what, operands in (("copy", 2), ("add", 3)):
            point = {"what": what, "bytes": operands * count * dtype.itemsize}
            if point["bytes"] > room:
                yield point, None
                continue
            one, *more = (torch.ones(count, device=device, dtype=dtype) for _ in range(operands))

            def work(one: Any = one, more: Any = more) -> object:
                return more[0].copy_(one) if len(more) == 1 else torch.add(*more, out=one)

            yield point, watch.time(work, recipe.repeats)
        nbytes //= recipe.factor


def _host(recipe: CopiesRecipe, device: Any, dtype: Any) -> Timing:
    import torch
    from torch import nn

    width = 16
    layer = nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
    ).to(device=device, dtype=dtype)
    x = torch.ones(1, width, device=device, dtype=dtype, requires_grad=True)
    found = []
    for _ in range(recipe.repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(PASSES):
            (x + layer(x)).backward(x)
        found.append((time.perf_counter() - begin) / PASSES / OPERATIONS)
    return Timing.of(found[1:])
