"""Batches for a rank: the order says which windows, the memory map gives their tokens.

    stream = BatchStream(Loader(order, catalogue), data_rank=1, data_parallel=2,
                         micro_batch_size=2, micro_batches=8)
    for inputs, labels in stream.micro_batches(first_sample=step * stream.global_batch): ...

A step takes the next `global_batch` samples of the one stream. Sample g of a step goes to
micro-batch g // (data_parallel x micro_batch_size), and inside it to replica after replica, so the
samples of a step are the same set for any number of replicas.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.order import Order
from alpenglow.data.shards import Shard

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Inputs and labels, int64 [micro_batch_size, S] each; labels are inputs moved by one."""


class Loader:
    """Reads samples by their number in the stream.

    Shards are mapped when first needed; a run touches most of them within few steps.
    """

    def __init__(self, order: Order, catalogue: Catalogue) -> None:
        self.order = order
        self.catalogue = catalogue
        self._shards: dict[int, Shard] = {}

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens of some samples.

        Args:
            indices: int64 [n], numbers in the stream.

        Returns:
            int64 [n, S + 1].

        Raises:
            ShardError: a shard is missing, cut, damaged where it is read, or of another length than
                the catalogue lists.
        """
        length = self.order.sequence_length + 1
        _, shards, starts = self.order.samples(indices)
        tokens = np.empty((len(indices), length), np.int64)
        for row, shard, start in zip(tokens, shards.tolist(), starts.tolist(), strict=True):
            opened = self._shard(shard)
            opened.check(start, start + length)
            row[:] = opened.tokens[start : start + length]
        return tokens

    def _shard(self, index: int) -> Shard:
        shard = self._shards.get(index)
        if shard is None:
            shard = self._shards[index] = self.catalogue.open(index)
        return shard


class BatchStream:
    """One replica's share of every step, the next step's read ahead in a thread.

    Args:
        loader: where tokens come from.
        data_rank, data_parallel: which replica this is, of how many.
        micro_batch_size: samples a micro-batch of one replica.
        micro_batches: micro-batches a step of one replica (gradient accumulation).
    """

    def __init__(
        self,
        loader: Loader,
        *,
        data_rank: int,
        data_parallel: int,
        micro_batch_size: int,
        micro_batches: int,
    ) -> None:
        if not 0 <= data_rank < data_parallel:
            raise ValueError(f"data rank {data_rank} is not one of {data_parallel}")
        self.loader = loader
        self.micro_batches_per_step = micro_batches
        self.micro_batch_size = micro_batch_size
        self.global_batch = data_parallel * micro_batch_size * micro_batches
        rows = np.arange(self.global_batch, dtype=np.int64)
        self._mine = rows.reshape(micro_batches, data_parallel, micro_batch_size)[:, data_rank]
        self._ahead: tuple[int, Future[NDArray[np.int64]]] | None = None
        self._thread = ThreadPoolExecutor(1, "read-ahead")

    def micro_batches(self, first_sample: int) -> Iterator[Batch]:
        """This replica's micro-batches of the step that begins with sample `first_sample`."""
        tokens = self._step(first_sample)
        for batch in tokens.reshape(*self._mine.shape, -1):
            yield batch[:, :-1], batch[:, 1:]

    def indices(self, first_sample: int) -> NDArray[np.int64]:
        """Numbers in the stream of this replica's samples, [micro_batches, micro_batch_size]."""
        return self._mine + first_sample

    def close(self) -> None:
        """End the reading thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _step(self, first_sample: int) -> NDArray[np.int64]:
        if self._ahead is not None and self._ahead[0] == first_sample:
            tokens = self._ahead[1].result()
        else:
            tokens = self._read(first_sample)
        after = first_sample + self.global_batch
        self._ahead = (after, self._thread.submit(self._read, after))
        return tokens

    def _read(self, first_sample: int) -> NDArray[np.int64]:
        return self.loader.read(self.indices(first_sample).reshape(-1))
