"""A tensor in blocks of whole rows, so that no copy of all of it is needed.

The vocabulary's matrices are several times as large as any other tensor; read whole, cast and
compared, four copies of one would be more than a layer of the model. This module is imported, never
started.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from alpenglow.model.config import Slice

BLOCK_BYTES = 256 * 2**20
"""Most of a block in fp32. Some sources read a file anew for every block, so not too small."""


def row_blocks(shape: Sequence[int], block_bytes: int = BLOCK_BYTES) -> Iterator[Slice]:
    """Cover a tensor with boxes of whole rows, in order; each holds one row at least.

    Args:
        shape: of the tensor.
        block_bytes: most of a block, at four bytes an element.
    """
    rows, *rest = shape
    height = max(1, block_bytes // (4 * max(1, math.prod(rest))))
    whole = tuple((0, n) for n in rest)
    for start in range(0, rows, height):
        yield ((start, min(rows, start + height)), *whole)
