"""Shapes of matrix products worth timing: those of transformer layers, and a spread. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from alpenglow_profiling.curves_recipe import ProductsRecipe


@dataclass(frozen=True)
class Shape:
    """C[m, n] = A[m, k] B[k, n], or `batch` of them in one kernel.

    Which operand lies along K is said as BLAS says it of matrices stored by columns: a linear
    layer's forward product is TN, its input's gradient NN, its weight's gradient NT.
    """

    m: int
    n: int
    k: int
    transposed_a: str = "N"
    transposed_b: str = "N"
    batch: int = 1

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.batch * self.m * self.n * self.k

    @property
    def elements(self) -> int:
        """Of all three matrices."""
        return self.batch * (self.m * self.k + self.k * self.n + self.m * self.n)

    def __str__(self) -> str:
        many = f"{self.batch} x " if self.batch > 1 else ""
        return f"{many}{self.m}x{self.n}x{self.k} {self.transposed_a}{self.transposed_b}"


def shapes(recipe: ProductsRecipe) -> list[Shape]:
    """All of a recipe, in an order that leaves a spread wherever time runs out."""
    layers = list(dict.fromkeys(_layers(recipe)))
    rest = [shape for shape in dict.fromkeys(_spread(recipe)) if shape not in layers]
    return [*_mixed(layers), *_mixed(rest)]


def _layers(recipe: ProductsRecipe) -> Iterator[Shape]:
    for hidden in recipe.hidden:
        for tensor in recipe.tensor:
            linears = (
                (3 * hidden // tensor, hidden),
                (hidden, hidden // tensor),
                (4 * hidden // tensor, hidden),
                (hidden, 4 * hidden // tensor),
                (recipe.vocab // tensor, hidden),
            )
            for tokens in recipe.tokens:
                for wide, deep in linears:
                    yield Shape(wide, tokens, deep, "T", "N")
                    yield Shape(deep, tokens, wide, "N", "N")
                    yield Shape(deep, wide, tokens, "N", "T")
            heads, s, each = max(1, hidden // recipe.head // tensor), recipe.sequence, recipe.head
            yield Shape(s, s, each, "T", "N", heads)
            yield Shape(each, s, s, "N", "N", heads)


def _spread(recipe: ProductsRecipe) -> Iterator[Shape]:
    sides = recipe.spread
    for i, side in enumerate(sides):
        deeper = sides[(i + 1) % len(sides)]
        for layout in (("N", "N"), ("T", "N"), ("N", "T")):
            yield Shape(side, side, side, *layout)
            yield Shape(side, deeper, side, *layout)
            for small in (*recipe.skinny, *recipe.odd):
                yield Shape(side, small, deeper, *layout)
        for small in recipe.skinny:
            yield Shape(side, side, small)  # little depth


def _mixed(found: list[Shape]) -> list[Shape]:
    """The same shapes in strides, so that any beginning of the list is a sample of all of it."""
    stride = next((n for n in (13, 11, 7) if len(found) % n), 1)
    return [found[i * stride % len(found)] for i in range(len(found))]
