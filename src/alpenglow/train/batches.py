"""Micro-batches for the engine: the data room's stream as torch tensors, by step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from alpenglow.config import ConfigError
from alpenglow.data.catalogue import Catalogue
from alpenglow.data.loader import BatchStream, Loader
from alpenglow.data.order import Order
from alpenglow.parallel.layout import Layout
from alpenglow.train.recipe import PretrainRecipe


class Batches:
    """This replica's micro-batches of any step; the next step's are read ahead.

    Args:
        stream: the replica's share of the stream.
    """

    def __init__(self, stream: BatchStream) -> None:
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
        weights = recipe.data.weights(set(catalogue.slices))
        order = Order.of(
            catalogue,
            weights,
            sequence_length=recipe.batch.sequence_length,
            seed=recipe.data.seed,
        )
        stream = BatchStream(
            Loader(order, catalogue),
            data_rank=layout.coordinates(rank)[1],
            data_parallel=layout.data,
            micro_batch_size=recipe.batch.micro_batch_size,
            micro_batches=recipe.micro_batches(layout),
        )
        return cls(stream)

    def step(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels, int64 [micro_batch_size, S] each, of step `step` (0-based)."""
        for inputs, labels in self._stream.micro_batches(step * self._stream.global_batch):
            yield torch.from_numpy(inputs), torch.from_numpy(labels)

    def nothing(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """For the stages between the first and the last, which never ask."""
        del step
        return iter(())

    def close(self) -> None:
        """End the reading thread."""
        self._stream.close()
