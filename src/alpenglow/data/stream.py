"""The hash of a stretch of the token stream: two runs that agree in it trained on the same tokens.

    stream_hash(Loader(order, catalogue), 0, 4096)
    stream_hash(Loader(order, catalogue), 0, 4096, replicas=64, global_batch=2048)

xxh3-128 over the tokens of sample after sample, each S + 1 unsigned 32-bit little-endian numbers.
`python -m alpenglow.train.stream RECIPE` prints it for a recipe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import xxhash
from numpy.typing import NDArray

from alpenglow.data.loader import BatchStream, Loader

CHUNK = 1024
"""Samples read at once."""


def stream_hash(
    loader: Loader,
    begin: int,
    end: int,
    *,
    replicas: int | None = None,
    global_batch: int | None = None,
) -> str:
    """Hash samples [begin, end) of the stream.

    Args:
        loader: over the stream's order.
        begin: first sample.
        end: the sample after the last.
        replicas: go through the batches of that many data-parallel replicas, as training does, and
            put the samples back in their order; None reads them from the loader directly.
        global_batch: samples a step of the replicas; default one a replica.

    Returns:
        32 hex digits.

    Raises:
        ValueError: an empty or negative stretch, or a batch that the replicas do not divide.
    """
    if not 0 <= begin < end:
        raise ValueError(f"samples {begin}:{end}: give A:B with 0 <= A < B")
    state = xxhash.xxh3_128()
    if replicas is None:
        for first in range(begin, end, CHUNK):
            state.update(_bytes(loader.read(np.arange(first, min(end, first + CHUNK)))))
        return state.hexdigest()
    batch = replicas if global_batch is None else global_batch
    if replicas < 1 or batch < 1 or batch % replicas:
        raise ValueError(f"a global batch of {batch} does not divide over {replicas} replicas")
    with _streams(loader, replicas, batch) as streams:
        for first in range(begin, end, batch):
            step = np.empty((batch, loader.order.sequence_length + 1), np.int64)
            for stream in streams:
                numbers = stream.indices(first) - first
                for places, (inputs, labels) in zip(
                    numbers, stream.micro_batches(first), strict=True
                ):
                    step[places, :-1] = inputs
                    step[places, -1] = labels[:, -1]
            state.update(_bytes(step[: end - first]))
    return state.hexdigest()


@contextmanager
def _streams(loader: Loader, replicas: int, batch: int) -> Iterator[list[BatchStream]]:
    share = batch // replicas
    micro = math.gcd(share, 4)
    streams = [
        BatchStream(
            loader,
            data_rank=rank,
            data_parallel=replicas,
            micro_batch_size=micro,
            micro_batches=share // micro,
        )
        for rank in range(replicas)
    ]
    try:
        yield streams
    finally:
        for stream in streams:
            stream.close()


def _bytes(tokens: NDArray[np.int64]) -> bytes:
    return tokens.astype("<u4").tobytes()
