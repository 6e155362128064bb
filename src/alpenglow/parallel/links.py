"""The links between the ranks of a layout: their classes, and what goes over each of them.

Torch-free; alpenglow.parallel.placement says what is sent and what it costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from alpenglow.parallel.layout import Layout
from alpenglow_lsf.machine import Machine

Link = Literal["nvlink", "bus", "network"]
RATE = 0.5
"""Share of the peak that matrix products are taken to reach: 62 of a V100's 125 TFLOP/s."""


@dataclass(frozen=True)
class Site:
    """A node as its ranks see it; bandwidths in bytes a second, one way.

    Args:
        sockets: socket of each local rank's GPU.
        nvlink: between GPUs of a socket.
        bus: between sockets; None where there is one.
        network: what a node sends into the network, or the fabric carries for it if that is less.
        port: what one rank's message reaches at most.
        flops: FLOP/s that a GPU is taken to reach.
    """

    sockets: tuple[int, ...]
    nvlink: float
    bus: float | None
    network: float
    port: float
    flops: float

    @classmethod
    def of(cls, machine: Machine, world: int, dtype: str = "fp16") -> Site | None:
        """Read a machine file; None where it lacks GPUs, a link's or the peak's figure.

        Local rank i has GPU i. The same on every rank of a job, whatever its own node holds.
        """
        node, links = machine.node, machine.links
        peak = machine.peak_flops.get(dtype)
        if node is None or links is None or not node.gpus or links.nvlink is None or peak is None:
            return None
        sockets = 1 if links.switched else node.sockets
        if sockets > 1 and links.socket is None:
            return None
        ranks = min(world, node.gpus)
        fabric = links.network if links.fabric is None else links.fabric
        return cls(
            tuple(local * sockets // node.gpus for local in range(ranks)),
            links.nvlink,
            links.socket if sockets > 1 else None,
            min(links.network, fabric),
            links.network if links.network_port is None else links.network_port,
            RATE * peak,
        )

    def bandwidth(self, link: Link) -> float:
        """Bytes a second one way; all of a node's together for `bus` and `network`."""
        if link == "network":
            return self.network
        return self.nvlink if link == "nvlink" or self.bus is None else self.bus


class RankMap:
    """Ranks of a layout on a site, worked out once.

    Args:
        layout: which rank is which.
        site: which rank is where.
    """

    def __init__(self, layout: Layout, site: Site) -> None:
        self.layout, self.site = layout, site
        degrees = range(layout.pipeline), range(layout.data)
        self.first = [[layout.rank(stage, data, 0) for data in degrees[1]] for stage in degrees[0]]
        each = len(site.sockets)
        self.node = [rank // each for rank in range(layout.world)]
        self.socket = [site.sockets[rank % each] for rank in range(layout.world)]

    def link(self, one: int, other: int) -> Link:
        """Class of the link between two global ranks."""
        if self.node[one] != self.node[other]:
            return "network"
        return "nvlink" if self.socket[one] == self.socket[other] else "bus"

    def ring(self, ranks: Sequence[int]) -> list[Link]:
        """Links of the ring through ranks in order, one for each rank's sending side."""
        return [self.link(a, b) for a, b in pairwise([*ranks, ranks[0]])] if len(ranks) > 1 else []


Sends = dict[Link, dict[int, float]]
"""Link class -> node -> bytes that the node sends over it."""


def _add(sends: Sends, link: Link, node: int, nbytes: float) -> None:
    by_node = sends.setdefault(link, {})
    by_node[node] = by_node.get(node, 0.0) + nbytes


def busiest(sends: Sends) -> dict[Link, float]:
    """Link class -> bytes of the node that sends most over it."""
    return {link: max(by_node.values()) for link, by_node in sends.items()}


def tensor_rings(
    ranks: RankMap, nbytes: Sequence[float]
) -> tuple[Sends, list[list[Link | None]], Counter[Link]]:
    """Bytes sent, the slowest link of each stage's and replica's group, rings that share a link.

    Args:
        ranks: the map.
        nbytes: what one rank of each stage sends in a step.
    """
    site, tensor = ranks.site, ranks.layout.tensor
    sends: Sends = {}
    slowest: list[list[Link | None]] = []
    crossing: Counter[tuple[int, Link]] = Counter()
    for stage, firsts in enumerate(ranks.first):
        slowest.append([])
        for first in firsts:
            group = range(first, first + tensor)
            links = ranks.ring(group)
            slowest[-1].append(_slowest(links, site))
            for rank, link in zip(group, links, strict=False):
                _add(sends, link, ranks.node[rank], nbytes[stage])
            crossing.update({(ranks.node[first], link) for link in links})
    sharing: Counter[Link] = Counter()
    for (_, link), count in crossing.items():
        sharing[link] = max(sharing[link], 1 if link == "nvlink" else count)
    return sends, slowest, sharing


def _slowest(links: Sequence[Link], site: Site) -> Link | None:
    if not links:
        return None
    slowest: Link = min(links, key=site.bandwidth)
    return slowest


def edges(
    ranks: RankMap, nbytes: float, micro_batches: int
) -> tuple[Sends, list[tuple[float, ...]]]:
    """Bytes sent both ways; seconds of one transfer from each stage to the next, by replica."""
    layout, site = ranks.layout, ranks.site
    sends: Sends = {}
    seconds = []
    for here, there in pairwise(ranks.first):
        hops = []
        for first, after in zip(here, there, strict=True):
            both = [(first + t, after + t) for t in range(layout.tensor)]
            hops.append([(ranks.node[a], ranks.link(a, b)) for a, b in both])
            for a, b in both:
                for sender in (a, b):  # activations one way, gradients the other
                    _add(sends, ranks.link(a, b), ranks.node[sender], nbytes * micro_batches)
        # Ranks of one stage and node send at the same moment and share the injection.
        together = Counter(node for hop in hops for node, link in hop if link == "network")
        seconds.append(
            tuple(
                max(
                    max(nbytes * together[node] / site.network, nbytes / site.port)
                    if link == "network"
                    else nbytes / site.bandwidth(link)
                    for node, link in hop
                )
                for hop in hops
            )
        )
    return sends, seconds


def data_rings(ranks: RankMap, payload: Sequence[float]) -> tuple[Sends, float]:
    """Bytes sent in one pass around all rings of replicas at once, and its seconds."""
    layout, site = ranks.layout, ranks.site
    sends: Sends = {}
    seconds = 0.0
    for stage, firsts in enumerate(ranks.first):
        nbytes = payload[stage] * (layout.data - 1) / layout.data
        for tensor in range(layout.tensor):
            group = [first + tensor for first in firsts]
            links = ranks.ring(group)
            for rank, link in zip(group, links, strict=False):
                _add(sends, link, ranks.node[rank], nbytes)
            if "nvlink" in links:
                seconds = max(seconds, nbytes / site.nvlink)
    for link in ("bus", "network"):
        if link in sends:
            seconds = max(seconds, max(sends[link].values()) / site.bandwidth(link))
    return sends, seconds
