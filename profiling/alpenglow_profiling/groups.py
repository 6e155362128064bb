"""Which ranks talk at once: the groups that layouts have on sockets, nodes and the network.

Torch-free. Ranks are packed: local ranks 0 to E - 1 of node 0 come first. Every group is an
arithmetic progression of ranks, so a point of a curve names its first rank and its stride.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Grouping:
    """Groups that work at the same moment; the other ranks wait."""

    name: str
    members: tuple[tuple[int, ...], ...]
    """Ranks of each group, all groups of one size and stride."""
    on_node: int
    """Groups that have members on one node."""

    @property
    def size(self) -> int:
        """Ranks of a group."""
        return len(self.members[0])

    @property
    def stride(self) -> int:
        """From a member to the next."""
        return self.members[0][1] - self.members[0][0]

    def of(self, rank: int) -> tuple[int, ...] | None:
        """The group of a rank, None where it waits."""
        return next((group for group in self.members if rank in group), None)


def groupings(nodes: int, each: int, socket: int) -> list[Grouping]:
    """Groups of a layout's kinds on `nodes` nodes.

    Args:
        nodes: of the job.
        each: ranks of a node.
        socket: ranks of a socket, which divides `each`.
    """
    found: dict[tuple[tuple[int, ...], ...], Grouping] = {}
    for grouping in _groupings(nodes, each, socket):
        if grouping.size > 1:
            found.setdefault(grouping.members, grouping)
    return list(found.values())


def _groupings(nodes: int, each: int, socket: int) -> Iterator[Grouping]:
    sockets = each // socket
    for size in sorted({size for size in (2, 3, 4, 8, socket) if 2 <= size <= socket}):
        starts = [
            node * each + seat * socket + first
            for node in range(nodes)
            for seat in range(sockets)
            for first in range(0, socket - size + 1, size)
        ]
        on_node = sockets * (socket // size)
        yield _consecutive("socket", starts, size, on_node)
    if sockets > 1:
        yield _consecutive("bus", [node * each + socket - 1 for node in range(nodes)], 2, 1)
        pairs = [
            (node * each + first, node * each + first + socket)
            for node in range(nodes)
            for first in range(socket)
        ]
        yield Grouping("bus, shared", tuple(pairs), socket)
    yield _consecutive("node", [node * each for node in range(nodes)], each, 1)
    for count in sorted({2, 4, nodes} & set(range(2, nodes + 1))):
        blocks = range(nodes // count)
        rings = [
            tuple((block * count + i) * each + local for i in range(count))
            for block in blocks
            for local in range(each)
        ]
        yield Grouping("data, one a node", tuple(rings[::each]), 1)
        yield Grouping("data", tuple(rings), each)
    yield Grouping("job", (tuple(range(nodes * each)),), 1)


def _consecutive(name: str, starts: list[int], size: int, on_node: int) -> Grouping:
    return Grouping(name, tuple(tuple(range(at, at + size)) for at in starts), on_node)


def pairings(nodes: int, each: int, socket: int) -> list[Grouping]:
    """Pairs of ranks that send to each other, as neighbouring stages do."""
    return [g for g in groupings(nodes, each, socket) if g.size == 2]
