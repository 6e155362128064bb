"""Seconds of a matrix product on one GPU, from its shape and a few physical constants.

Torch-free. A product C[M, N] = A[M, K] B[K, N] is cut into tiles of C, one for each thread block.
Blocks run on the multiprocessors in rounds, so a product whose tiles fill 1.1 rounds takes two. A
tile's time a unit of K is the larger of its arithmetic and of what a multiprocessor can fetch from
the second-level cache; before and behind that come the filling of its pipeline and the writing of
the tile, which short K do not hide. Below all of it lie the memory's bandwidth and the cost of
starting a kernel. Where tiles are too few to fill the GPU, K is split among blocks, and their sums
are added up. The library is taken to choose the best of the usual tiles. Sources of the mechanism:
NVIDIA, "Matrix Multiplication Background User's Guide" (tile and wave quantisation); the tiles are
those of cuBLAS's and CUTLASS's tensor-core kernels.

    gemm_seconds(hardware.gpu, 2048, 9600, 25600)

A curve over M x N x K cannot do this: all 18 measured V100 points between 1e9 and 1e10 have a side
of at most 128 and are slow for that, not for their size.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from alpenglow.parallel.hardware import Gpu

TILES = (
    (256, 128),
    (128, 256),
    (128, 128),
    (128, 64),
    (64, 128),
    (64, 64),
    (128, 32),
    (32, 128),
    (64, 32),
    (32, 64),
)
"""Rows and columns of C that one thread block makes."""
SPLITS = (1, 2, 4, 8, 16, 32)
"""Blocks among which K may be split."""
DEEPEST = 256
"""Least K that a block is left with by a split."""


@lru_cache(maxsize=16384)
def gemm_seconds(
    gpu: Gpu,
    rows: int,
    columns: int,
    depth: int,
    *,
    batch: int = 1,
    size: int = 2,
    out: float = 0.0,
    transposed: bool = False,
    aligned: bool = True,
) -> float:
    """Time one product, or `batch` of one shape in one kernel.

    Args:
        gpu: its constants.
        rows: M.
        columns: N.
        depth: K.
        batch: products in the kernel.
        size: bytes of an element.
        out: bytes moved for an element of C; 0 means that it is written once.
        transposed: A lies along K (the forward pass of a linear layer).
        aligned: rows of all three matrices begin at multiples of 16 bytes (`aligned_rows`); else
            the product does not run on tensor cores.
    """
    moved = out or size
    nbytes = batch * ((rows + columns) * depth * size + rows * columns * moved)
    stream = gpu.bandwidth
    if transposed and min(rows, columns) <= 128:
        stream *= gpu.transposed_stream
    if not aligned:
        gpu = replace(gpu, rate=gpu.scalar_rate or gpu.rate / 8)
    best = min(
        _tiled(gpu, rows, columns, depth, batch, size, moved, tile, split, stream)
        for tile in TILES
        for split in SPLITS
        if split == 1 or depth >= split * DEEPEST
    )
    if transposed:
        best /= gpu.transposed
    return gpu.kernel_s + max(best, nbytes / stream)


def aligned_rows(size: int, *lengths: int) -> bool:
    """Whether rows of so many elements of `size` bytes begin at multiples of 16 bytes.

    cuBLAS before version 11 asks this of half-precision products on tensor cores (NVIDIA, "Matrix
    Multiplication Background User's Guide", section 2). It is taken to hold for attention's batched
    products still: heads of 108, 145 and 150 elements ran that slowly in BLOOM's trials. Products
    of linear layers with such sides did not.
    """
    return size >= 4 or all(length * size % 16 == 0 for length in lengths)


def _tiled(
    gpu: Gpu,
    rows: int,
    columns: int,
    depth: int,
    batch: int,
    size: int,
    moved: float,
    tile: tuple[int, int],
    split: int,
    stream: float,
) -> float:
    high, wide = tile
    blocks = math.ceil(rows / high) * math.ceil(columns / wide) * batch * split
    rounds = math.ceil(blocks / gpu.multiprocessors)
    per_k = max(
        2 * high * wide / (gpu.rate / gpu.multiprocessors),
        (high + wide) * size / (gpu.cache_bandwidth / gpu.multiprocessors),
    )
    # All blocks of a round write their tile at once.
    busy = min(blocks, gpu.multiprocessors)
    write = busy * high * wide * (moved if split == 1 else 4) / stream
    seconds = rounds * (depth / split * per_k + gpu.fill_s + write)
    if split > 1:
        sums = batch * rows * columns
        seconds += gpu.kernel_s + sums * (4 * split + moved) / stream
    return seconds


def rate(gpu: Gpu, rows: int, columns: int, depth: int) -> float:
    """FLOP/s that a product reaches."""
    return 2.0 * rows * columns * depth / gemm_seconds(gpu, rows, columns, depth)
