"""Micro-batches for the engine: the data room's streams as torch tensors.

    batches = Batches.open(recipe, layout, rank, catalogue)
    engine.step(batches.step(position), lr)
    validation = ValidationBatches.open(recipe, layout, rank, catalogue)
    evaluate(engine, validation.read(), validation.micro_batches)

Every rank reads what its stage needs: the first and the last tokens, those between at most where
documents begin. Ranks of one replica read the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alpenglow.config import ConfigError
from alpenglow.data.catalogue import Catalogue
from alpenglow.data.loader import BatchStream, Loader
from alpenglow.data.order import Order
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.tensor import IGNORED_LABEL
from alpenglow.train.recipe import PretrainRecipe

if TYPE_CHECKING:
    from alpenglow.train.restart import Position

Pairs = Iterator[tuple[Tensor, Tensor]]
"""Inputs and labels of micro-batch after micro-batch, int64 [micro_batch_size, S] each."""


class MicroBatches(Iterator[tuple[Tensor, Tensor]]):
    """The micro-batches of one step on this rank, and where documents begin in all of them.

    Args:
        pairs: inputs and labels.
        positions: int64 [micro-batches, micro_batch_size, S] (see `alpenglow.data.loader.Rows`);
            None where documents are joined.
    """

    def __init__(self, pairs: Pairs, positions: Tensor | None = None) -> None:
        self._pairs = pairs
        self.positions = positions

    def __next__(self) -> tuple[Tensor, Tensor]:
        return next(self._pairs)


def order_of(recipe: PretrainRecipe, catalogue: Catalogue) -> Order:
    """The order of a recipe's training samples over a catalogue.

    Raises:
        ConfigError: a slice of the mixture is absent.
        OrderError: a slice holds no whole window, or none is left after validation took its part.
    """
    return Order.of(
        catalogue,
        recipe.data.weights(set(catalogue.slices)),
        sequence_length=recipe.batch.sequence_length,
        seed=recipe.data.seed,
        validation_fraction=recipe.data.validation_fraction,
    )


def _reads_tokens(layout: Layout, rank: int) -> bool:
    return layout.coordinates(rank)[0] in (0, layout.pipeline - 1)


class Batches:
    """This replica's micro-batches of any step; the next step's are read ahead.

    Args:
        stream: the replica's share of the stream; None where this rank needs nothing of it.
    """

    def __init__(self, stream: BatchStream | None) -> None:
        self._stream = stream

    @classmethod
    def open(
        cls, recipe: PretrainRecipe, layout: Layout, rank: int, catalogue: Catalogue
    ) -> Batches:
        """Put order, loader and stream together for one rank.

        Raises:
            ConfigError: a slice of the mixture is absent, or the tokenizer has more words than the
                model.
            OrderError: a slice holds no whole window.
        """
        if catalogue.vocab_size > recipe.model.vocab_size:
            raise ConfigError(
                f"{recipe.data.catalogue} was made with a tokenizer of {catalogue.vocab_size} "
                f"words, more than model.vocab_size = {recipe.model.vocab_size}"
            )
        order = order_of(recipe, catalogue)
        tokens, positions = _reads_tokens(layout, rank), recipe.data.documents == "masked"
        if not tokens and not positions:
            return cls(None)
        stream = BatchStream(
            Loader(order, catalogue),
            data_rank=layout.coordinates(rank)[1],
            data_parallel=layout.data,
            micro_batch_size=recipe.batch.micro_batch_size,
            micro_batches=recipe.micro_batches(layout),
            tokens=tokens,
            positions=positions,
        )
        return cls(stream)

    def step(self, position: Position) -> MicroBatches:
        """What the step that begins at `position` trains on; asked again, it gives the same."""
        if self._stream is None:
            return MicroBatches(iter(()))
        tokens, positions, counts = self._stream.rows(position.samples)
        return MicroBatches(
            iter(()) if tokens is None else _pairs(tokens, counts),
            None if positions is None else torch.from_numpy(positions),
        )

    def close(self) -> None:
        """End the reading thread."""
        if self._stream is not None:
            self._stream.close()


class ValidationBatches:
    """This replica's share of the first samples of the validation stream, the same every time.

    Samples that do not fill the last micro-batches of all replicas are filled up with rows whose
    labels do not count.

    Args:
        loader: over the validation stream.
        samples: how many, over all replicas.
        data_rank: which replica this is.
        data_parallel: of how many.
        micro_batch_size: samples a micro-batch of one replica.
        tokens: whether this rank's stage needs them.
        positions: whether to read where documents begin.
    """

    def __init__(
        self,
        loader: Loader,
        samples: int,
        *,
        data_rank: int = 0,
        data_parallel: int = 1,
        micro_batch_size: int = 1,
        tokens: bool = True,
        positions: bool = False,
    ) -> None:
        self._loader = loader
        self._samples = samples
        self._tokens, self._positions = tokens, positions
        self.micro_batches = -(-samples // (data_parallel * micro_batch_size))
        """Micro-batches of an evaluation."""
        shape = (self.micro_batches, data_parallel, micro_batch_size)
        self._mine = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)[:, data_rank]

    @classmethod
    def open(
        cls, recipe: PretrainRecipe, layout: Layout, rank: int, catalogue: Catalogue
    ) -> ValidationBatches | None:
        """Put them together for one rank; None where the recipe does not validate.

        Raises:
            ConfigError: on rank 0, no label of the samples counts.
            OrderError: nothing is held out.
        """
        if not recipe.train.validate_every:
            return None
        loader = Loader(order_of(recipe, catalogue).validation(), catalogue)
        samples = recipe.data.validation_samples
        if rank == 0 and not any(
            loader.counted(np.arange(first, min(samples, first + 64))).any()
            for first in range(0, samples, 64)
        ):
            raise ConfigError(
                f"data.validation_samples = {samples}: not one document lies wholly in what "
                f"data.validation_fraction = {recipe.data.validation_fraction:g} holds out there; "
                "take more samples"
            )
        return cls(
            loader,
            samples,
            data_rank=layout.coordinates(rank)[1],
            data_parallel=layout.data,
            micro_batch_size=recipe.batch.micro_batch_size,
            tokens=_reads_tokens(layout, rank),
            positions=recipe.data.documents == "masked",
        )

    def read(self) -> MicroBatches:
        """This replica's micro-batches; labels that do not count are IGNORED_LABEL."""
        positions = None
        if self._positions:
            read = self._loader.rows(self._numbers().reshape(-1), tokens=False, positions=True)
            assert read.positions is not None
            shaped = read.positions.reshape(*self._mine.shape, -1)
            positions = torch.from_numpy(shaped)
        return MicroBatches(self._pairs() if self._tokens else iter(()), positions)

    def _numbers(self) -> NDArray[np.int64]:
        return np.minimum(self._mine, self._samples - 1)

    def _pairs(self) -> Pairs:
        for mine, numbers in zip(self._mine, self._numbers(), strict=True):
            tokens = self._loader.read(numbers)
            counts = self._loader.counted(numbers) & (mine < self._samples)[:, None]
            labels = np.where(counts, tokens[:, 1:], IGNORED_LABEL)
            yield torch.from_numpy(tokens[:, :-1]), torch.from_numpy(labels)


def _pairs(tokens: NDArray[np.int64], counts: NDArray[np.bool_] | None) -> Pairs:
    """Cut windows into inputs and labels; labels of removed documents become IGNORED_LABEL."""
    for number, rows in enumerate(tokens):
        labels = rows[:, 1:]
        if counts is not None:
            labels = np.where(counts[number], labels, IGNORED_LABEL)
        yield torch.from_numpy(rows[:, :-1]), torch.from_numpy(labels)
