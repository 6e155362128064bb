"""The rows of a model's vocabulary that are released: all of them, or those with a token.

A model's vocabulary is padded so that tensor-parallel ranks share it evenly, and the padding is
part of the model: its rows take part in every softmax of the training. Published models keep it
(RedPajama-INCITE and Pythia-6.9B have 50,432 rows for a tokenizer of 50,277 ids), so that hashes
and shapes stay those of the training; it is the default. Cut rows save a little memory, give the
same logits for every token, and take the padding's share out of the softmax.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from alpenglow.exchange.source import Source
from alpenglow.model.config import ModelConfig, Slice

MATRICES = ("embed_in.weight", "embed_out.weight")
"""The tensors that have a row for every id."""


class TrimmedSource:
    """A source without the rows that no token uses.

    Args:
        source: the whole.
        rows: rows kept, from the first.
    """

    def __init__(self, source: Source, rows: int) -> None:
        self._source, self._rows = source, rows

    @property
    def form(self) -> str:
        """The whole's."""
        return self._source.form

    @property
    def path(self) -> Path:
        """The whole's."""
        return self._source.path

    @property
    def step(self) -> int | None:
        """The whole's."""
        return self._source.step

    @property
    def state(self) -> Mapping[str, Any]:
        """The whole's."""
        return self._source.state

    @cached_property
    def config(self) -> ModelConfig:
        """The architecture, with the smaller vocabulary."""
        return dataclasses.replace(self._source.config, vocab_size=self._rows)

    @property
    def dtype(self) -> torch.dtype:
        """The whole's."""
        return self._source.dtype

    def stored(self, name: str) -> torch.dtype:
        """The whole's."""
        return self._source.stored(name)

    def tensor(self, name: str, part: Slice | None = None) -> torch.Tensor:
        """A tensor, or a box of it; raises what the whole raises."""
        if part is None and name in MATRICES:
            part = ((0, self._rows), (0, self.config.hidden_size))
        return self._source.tensor(name, part)


def trimmed(source: Source, rows: int) -> Source:
    """The source with `rows` rows of vocabulary: itself where it has no more."""
    return source if rows >= source.config.vocab_size else TrimmedSource(source, rows)
