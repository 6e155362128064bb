"""Documents in a packed window: positions that begin anew and attention that stays inside.

The layers of a stage share one `Documents`. Whoever runs a micro-batch through them selects it
first, and selects it again before its backward pass, where recomputation runs the layers once
more; so nothing about documents travels between stages: each looks the borders up for itself.

    documents = Documents()
    layers = layer_specs(config, group, seed=1, documents=documents)
    documents.load(positions)       # int64 [micro-batches, micro-batch, length], once a step
    documents.select(3)             # before forward and before backward of micro-batch 3
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Table = tuple[Tensor, Tensor]
"""Cosine and sine of the rotary angles."""


class DocumentsError(RuntimeError):
    """Layers were asked to keep to documents that nobody told them."""


class Packing:
    """Where documents begin in one micro-batch; what follows from it is made once, when asked.

    Args:
        positions: int64 [micro-batch, length], 0 where a document begins, then counting up. The
            window's first token is at 0, whatever part of its document came before.
    """

    def __init__(self, positions: Tensor) -> None:
        self.positions = positions
        self._forbidden: Tensor | None = None
        self._allowed: Tensor | None = None
        self._rotary: dict[torch.dtype, Table] = {}

    def forbidden(self) -> Tensor:
        """Bool [micro-batch, 1, length, length], true where row must not attend to column."""
        if self._forbidden is None:
            with torch.inference_mode(False), torch.no_grad():
                document = (self.positions == 0).cumsum(dim=-1)
                other = document[:, :, None] != document[:, None, :]
                self._forbidden = (other | _future(other)).unsqueeze(1)
        return self._forbidden

    def allowed(self) -> Tensor:
        """The opposite of `forbidden`, which is how torch's fused attention wants it."""
        if self._allowed is None:
            self._allowed = self.forbidden().logical_not()
        return self._allowed

    def rotary(self, dtype: torch.dtype, table: Callable[[], Table]) -> Table:
        """Rows of a rotary table [length, ndims] by position: [micro-batch, 1, length, ndims]."""
        if dtype not in self._rotary:
            cosine, sine = table()
            with torch.inference_mode(False), torch.no_grad():
                self._rotary[dtype] = (
                    cosine[self.positions].unsqueeze(1),
                    sine[self.positions].unsqueeze(1),
                )
        return self._rotary[dtype]


class Documents:
    """The borders of a step's micro-batches, shared by the layers of a stage."""

    def __init__(self) -> None:
        self._step: Tensor | None = None
        self._packing: Packing | None = None

    def load(self, positions: Tensor | None) -> None:
        """Take the positions of a step, int64 [micro-batches, micro-batch, length]; None forgets.

        Nothing is selected afterwards.
        """
        self._step = positions
        self._packing = None

    def select(self, micro_batch: int) -> None:
        """Let the layers work on this micro-batch from now on.

        Raises:
            DocumentsError: the step has none of that number.
        """
        if self._step is None or not 0 <= micro_batch < len(self._step):
            raise DocumentsError(
                f"micro-batch {micro_batch} has no document borders: load those of its step first"
            )
        self._packing = Packing(self._step[micro_batch])

    @property
    def packing(self) -> Packing:
        """The micro-batch selected.

        Raises:
            DocumentsError: none is.
        """
        if self._packing is None:
            raise DocumentsError("no micro-batch is selected, so its document borders are unknown")
        return self._packing


def _future(like: Tensor) -> Tensor:
    return torch.ones(like.shape[-2:], dtype=torch.bool, device=like.device).triu(diagonal=1)
