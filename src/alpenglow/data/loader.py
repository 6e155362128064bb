"""Batches for a rank: the order says which windows, the memory map gives their tokens.

    stream = BatchStream(Loader(order, catalogue), data_rank=1, data_parallel=2,
                         micro_batch_size=2, micro_batches=8)
    for inputs, labels in stream.micro_batches(first_sample=position.samples): ...

A step takes the next `global_batch` samples of the one stream, from wherever the last one ended.
Sample g of a step goes to micro-batch g // (data_parallel x micro_batch_size), and inside it to
replica after replica, so the samples of a step are the same set for any number of replicas.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.order import Order
from alpenglow.data.shards import Shard

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Inputs and labels, int64 [micro_batch_size, S] each; labels are inputs moved by one."""


class Rows(NamedTuple):
    """What was read of some samples; None where nobody asked."""

    tokens: NDArray[np.int64] | None
    """[..., S + 1]."""
    positions: NDArray[np.int64] | None
    """[..., S], place of each input token in its document, as far as the window has it: 0 where a
    document (or the window) begins."""
    counts: NDArray[np.bool_] | None = None
    """[..., S], which labels count: not those of removed documents (see `Loader`); None: all do."""


class Loader:
    """Reads samples by their number in the stream.

    Shards are mapped when first needed; a run touches most of them within few steps. A shard that a
    removal replaces meanwhile stays as it was mapped; one mapped later is read with its blanks.

    A label does not count where it is a token of a removed document, its first one and its end
    token included, or where its input, the token before it, is one: nothing is learnt of the
    blanks, and nothing that was said after them. All other labels of the window count.
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
        tokens = self.rows(indices).tokens
        assert tokens is not None
        return tokens

    def rows(
        self, indices: NDArray[np.int64], *, tokens: bool = True, positions: bool = False
    ) -> Rows:
        """Tokens, positions within documents, or both; see `Rows` and `read`."""
        length = self.order.sequence_length
        _, shards, starts = self.order.samples(indices)
        read = np.empty((len(indices), length + 1), np.int64) if tokens else None
        places = np.empty((len(indices), length), np.int64) if positions else None
        counts: NDArray[np.bool_] | None = None
        for row, (number, start) in enumerate(zip(shards.tolist(), starts.tolist(), strict=True)):
            shard = self._shard(number)
            if read is not None:
                shard.check(start, start + length + 1)
                read[row] = shard.tokens[start : start + length + 1]
                blank = shard.removed_tokens(start, start + length + 1)
                if blank is not None:
                    if counts is None:
                        counts = np.ones((len(indices), length), np.bool_)
                    counts[row] = _counted(blank)
            if places is not None:
                places[row] = _positions(shard.document_starts, start, length)
        return Rows(read, places, counts)

    def counted(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which labels of some samples count: all but those of removed documents (see `Loader`).

        Of the validation stream's only those of documents that lie wholly in what is held out: a
        document that training has seen any token of would say too little about new text.

        Args:
            indices: int64 [n], numbers in the stream.

        Returns:
            bool [n, S].
        """
        which, shards, starts = self.order.samples(indices)
        length = self.order.sequence_length
        counts = np.ones((len(indices), length), np.bool_)
        for row, (number, start) in enumerate(zip(shards.tolist(), starts.tolist(), strict=True)):
            blank = self._shard(number).removed_tokens(start, start + length + 1)
            if blank is not None:
                counts[row] = _counted(blank)
        borders = self.order.borders(which, starts)
        if borders is None:
            return counts
        each = zip(shards.tolist(), starts.tolist(), *(b.tolist() for b in borders), strict=True)
        for row, (number, start, begin, end) in enumerate(each):
            documents = self._shard(number).document_starts
            # The first document that begins in there, and the end of the last one that ends.
            first = int(documents[np.searchsorted(documents, np.uint64(begin), "left")])
            last = int(documents[np.searchsorted(documents, np.uint64(end), "right") - 1])
            labels = np.arange(start + 1, start + 1 + length)
            counts[row] &= (labels >= first) & (labels < last)
        return counts

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
        tokens, positions: what `rows` reads.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        data_rank: int,
        data_parallel: int,
        micro_batch_size: int,
        micro_batches: int,
        tokens: bool = True,
        positions: bool = False,
    ) -> None:
        if not 0 <= data_rank < data_parallel:
            raise ValueError(f"data rank {data_rank} is not one of {data_parallel}")
        self.loader = loader
        self.micro_batches_per_step = micro_batches
        self.micro_batch_size = micro_batch_size
        self.global_batch = data_parallel * micro_batch_size * micro_batches
        self._wanted = {"tokens": tokens, "positions": positions}
        rows = np.arange(self.global_batch, dtype=np.int64)
        self._mine = rows.reshape(micro_batches, data_parallel, micro_batch_size)[:, data_rank]
        self._ahead: tuple[int, Future[Rows]] | None = None
        self._thread = ThreadPoolExecutor(1, "read-ahead")

    def micro_batches(self, first_sample: int) -> Iterator[Batch]:
        """This replica's micro-batches of the step that begins with sample `first_sample`."""
        tokens = self.rows(first_sample).tokens
        assert tokens is not None
        for batch in tokens:
            yield batch[:, :-1], batch[:, 1:]

    def rows(self, first_sample: int) -> Rows:
        """The same as whole arrays: [micro_batches, micro_batch_size, S + 1 or S]."""
        shape = (*self._mine.shape, -1)
        tokens, positions, counts = self._step(first_sample)
        return Rows(
            None if tokens is None else tokens.reshape(shape),
            None if positions is None else positions.reshape(shape),
            None if counts is None else counts.reshape(shape),
        )

    def indices(self, first_sample: int) -> NDArray[np.int64]:
        """Numbers in the stream of this replica's samples, [micro_batches, micro_batch_size]."""
        return self._mine + first_sample

    def close(self) -> None:
        """End the reading thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _step(self, first_sample: int) -> Rows:
        if self._ahead is not None and self._ahead[0] == first_sample:
            rows = self._ahead[1].result()
        else:
            rows = self._read(first_sample)
        after = first_sample + self.global_batch
        self._ahead = (after, self._thread.submit(self._read, after))
        return rows

    def _read(self, first_sample: int) -> Rows:
        return self.loader.rows(self.indices(first_sample).reshape(-1), **self._wanted)


def _counted(blank: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which labels count, [S], of a window of which some tokens, [S + 1], are blanked."""
    return ~(blank[1:] | blank[:-1])


def _positions(documents: NDArray[np.uint64], start: int, length: int) -> NDArray[np.int64]:
    """Place in its document of each of `length` tokens from `start` on."""
    inside = slice(
        np.searchsorted(documents, np.uint64(start), "right"),
        np.searchsorted(documents, np.uint64(start + length), "left"),
    )
    begins = documents[inside].astype(np.int64) - start
    latest = np.zeros(length, np.int64)
    latest[begins] = begins
    return np.arange(length) - np.maximum.accumulate(latest)
