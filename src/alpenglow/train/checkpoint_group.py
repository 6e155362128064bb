"""The ranks that write one checkpoint together: what a checkpoint needs of them, and no more.

This module is imported, never started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class Group(Protocol):
    """The ranks that write one checkpoint together."""

    @property
    def rank(self) -> int:
        """This rank."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""

    @property
    def node(self) -> str:
        """Name of this rank's node: the container's name."""

    def all_gather_object(self, item: Any) -> list[Any]:
        """Give `item` to every rank; returns all items by rank. All ranks meet here."""

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """The largest of each number over all ranks. All ranks meet here."""

    def barrier(self) -> None:
        """Wait for every rank."""


@dataclass(frozen=True)
class SingleProcess:
    """A group of one."""

    node: str = "node"
    rank: int = 0
    world_size: int = 1

    def all_gather_object(self, item: Any) -> list[Any]:
        """Return the one item."""
        return [item]

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """Return the numbers."""
        return [*values]

    def barrier(self) -> None:
        """Nobody to wait for."""


class DistributedGroup:
    """All ranks of a torch.distributed process group.

    Args:
        node: this rank's node name (ranks with the same name share a container).
        group: the process group, the default one if None. Under NCCL objects travel through GPU
            memory; a gloo group of the same ranks spares that.
    """

    def __init__(self, node: str, group: torch.distributed.ProcessGroup | None = None) -> None:
        self._group = group
        self.node = node
        self.rank = torch.distributed.get_rank(group)
        self.world_size = torch.distributed.get_world_size(group)

    def all_gather_object(self, item: Any) -> list[Any]:
        """See `Group`."""
        items: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(items, item, group=self._group)
        return items

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """See `Group`."""
        backend = torch.distributed.get_backend(self._group)
        vote = torch.tensor([*values], device="cuda" if backend == "nccl" else "cpu")
        torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX, group=self._group)
        return [int(value) for value in vote.tolist()]

    def barrier(self) -> None:
        """See `Group`."""
        torch.distributed.barrier(group=self._group)
