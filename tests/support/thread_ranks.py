"""Several ranks that are threads of one process, for what ranks agree on without torch.distributed.

results = ThreadWorld(["node0", "node0", "node1"]).run(lambda rank: save(..., group=rank))
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from alpenglow.train.checkpoint import CheckpointError


class ThreadRank:
    """One of several ranks that are threads of this process."""

    def __init__(self, rank: int, node: str, world: ThreadWorld) -> None:
        self.rank, self.node, self._world = rank, node, world
        self.world_size = len(world.board)

    def all_gather_object(self, item: Any) -> list[Any]:
        self._world.board[self.rank] = item
        self.barrier()
        items = list(self._world.board)
        self.barrier()
        return items

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        return [max(column) for column in zip(*self.all_gather_object(values), strict=True)]

    def barrier(self) -> None:
        self._world.meeting.wait(timeout=30)


class ThreadWorld:
    def __init__(self, nodes: list[str]) -> None:
        self.board: list[Any] = [None] * len(nodes)
        self.meeting = threading.Barrier(len(nodes))
        self.ranks = [ThreadRank(rank, node, self) for rank, node in enumerate(nodes)]

    def run(self, act: Callable[[ThreadRank], object]) -> list[Any]:
        results: list[Any] = [None] * len(self.ranks)

        def one(rank: ThreadRank) -> None:
            try:
                results[rank.rank] = act(rank)
            except CheckpointError as error:
                results[rank.rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in self.ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results
