"""The tensors of a source in pieces, for whoever passes over them once.

A source whose tensors can be read in the order of their rows (`FragmentSource.rows`) gives small
pieces, which stay in a core's cache between reading and writing; any other gives a tensor whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch

from alpenglow.exchange.source import Source
from alpenglow.release.vocabulary import MATRICES


@runtime_checkable
class Rows(Protocol):
    """A source that can do so."""

    def rows(self, name: str, stop: int | None = None) -> Iterator[torch.Tensor]:
        """The first `stop` rows of a tensor (None: all), some at a time."""
        ...


class Pieces:
    """Tensors of a model, each as consecutive runs of its elements.

    Args:
        source: the checkpoint.
        vocabulary: rows of the vocabulary's matrices that are given.
    """

    def __init__(self, source: Source, vocabulary: int) -> None:
        self._source = source
        self._vocabulary = vocabulary
        self._shapes = source.config.tensor_shapes()

    def of(self, name: str) -> Iterator[torch.Tensor]:
        """The pieces of a tensor, each valid until the next; safe from several threads.

        Raises:
            ExchangeError, CheckpointError: damaged or missing bytes; what was given before is void.
        """
        rows = self._rows(name)
        if isinstance(self._source, Rows):
            yield from self._source.rows(name, rows)
        elif rows is None:
            yield self._source.tensor(name)
        else:
            yield self._source.tensor(name, ((0, rows), (0, self._shapes[name][1])))

    def held(self, name: str) -> int:
        """Bytes in memory while the pieces of a tensor are passed over, small chunks apart."""
        if isinstance(self._source, Rows):
            return 0
        shape = self._shapes[name]
        rows = shape[0] if self._rows(name) is None else self._vocabulary
        return rows * math.prod(shape[1:]) * self._source.stored(name).itemsize

    def _rows(self, name: str) -> int | None:
        cut = name in MATRICES and self._vocabulary < self._shapes[name][0]
        return self._vocabulary if cut else None
