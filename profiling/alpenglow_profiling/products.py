"""Seconds of matrix products by shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alpenglow_profiling.curve import Point
from alpenglow_profiling.curves_recipe import ProductsRecipe
from alpenglow_profiling.shapes import Shape, shapes
from alpenglow_profiling.stopwatch import Stopwatch, Timing, Work

KEYS = ("m", "n", "k", "transposed_a", "transposed_b", "batch")


def cases(
    recipe: ProductsRecipe, device: Any, dtype: Any, room: float
) -> Iterator[tuple[Point, Work | None]]:
    """Each product of a recipe; None for one whose matrices need more than `room` bytes."""
    for shape in shapes(recipe):
        point = {key: getattr(shape, key) for key in KEYS}
        if shape.elements * dtype.itemsize > room:
            yield point, None
        else:
            yield point, product(shape, device, dtype)


def product(shape: Shape, device: Any, dtype: Any) -> Work:
    """What computes one product, its operands stored as the shape says."""
    import torch

    def operand(rows: int, columns: int, by_columns: bool) -> Any:
        stored = (columns, rows) if by_columns else (rows, columns)
        size = stored if shape.batch == 1 else (shape.batch, *stored)
        # Small numbers: sums of thousands of products stay within fp16.
        filled = torch.rand(size, device=device, dtype=torch.float32).sub_(0.5).to(dtype)
        return filled.transpose(-1, -2) if by_columns else filled

    # By BLAS's columns: N of A lies along M, N of B along K, and C along M.
    left = operand(shape.m, shape.k, shape.transposed_a == "N")
    right = operand(shape.k, shape.n, shape.transposed_b == "N")
    size = (shape.n, shape.m) if shape.batch == 1 else (shape.batch, shape.n, shape.m)
    out = torch.empty(size, device=device, dtype=dtype)
    # C^T = B^T A^T, so that the result is stored by rows, as torch has it.
    multiply = torch.mm if shape.batch == 1 else torch.bmm
    one, other = right.transpose(-1, -2), left.transpose(-1, -2)
    return lambda: multiply(one, other, out=out)


def measure(
    recipe: ProductsRecipe, watch: Stopwatch, device: Any, dtype: Any, room: float
) -> Iterator[tuple[Point, Timing | None]]:
    """Time one product after the other; None for what does not fit."""
    for point, work in cases(recipe, device, dtype, room):
        yield point, None if work is None else watch.time(work, recipe.repeats)
