"""The tensors of a source in pieces, for whoever passes over them once.

A source whose tensors can be read in the order of their rows (`FragmentSource.rows`) gives small
pieces, which stay in a core's cache between reading and writing; any other gives bands of rows,
few enough calls to open its files anew for each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch

from alpenglow.exchange.source import Source
from alpenglow.release.vocabulary import MATRICES

BAND = 1 << 26
"""Bytes of a band."""


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
            return
        shape = self._shapes[name]
        step, stop = self._band(name), shape[0] if rows is None else rows
        for start in range(0, stop, step):
            box = ((start, min(start + step, stop)), *((0, n) for n in shape[1:]))
            yield self._source.tensor(name, box)

    def stored(self, name: str) -> int:
        """Bytes of a tensor as the checkpoint has it, rows that are not given apart."""
        rows = self._rows(name)
        return (self._shapes[name][0] if rows is None else rows) * self._row(name)

    def held(self, name: str) -> int:
        """Most bytes in memory while the pieces of a tensor are passed over, small chunks apart.

        A band counts twice: what it is made from (mapped pages, the parts of tensor ranks) is in
        memory beside it.
        """
        if isinstance(self._source, Rows):
            return 0
        return 2 * min(self.stored(name), self._band(name) * self._row(name))

    def _row(self, name: str) -> int:
        """Bytes of a row."""
        return math.prod(self._shapes[name][1:]) * self._source.stored(name).itemsize

    def _band(self, name: str) -> int:
        """Rows of a band."""
        return max(1, BAND // self._row(name))

    def _rows(self, name: str) -> int | None:
        cut = name in MATRICES and self._vocabulary < self._shapes[name][0]
        return self._vocabulary if cut else None
