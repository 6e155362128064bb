"""Seconds of a collective from latency and bandwidth, as NCCL itself prices its algorithms.

Torch-free. A ring of n ranks moves 2 (n-1)/n of an all-reduce's bytes over its slowest link, in
2 (n-1) steps, each with the latency of the link it crosses; reduce-scatter and all-gather are half
of it. A tree moves every byte twice, in steps that grow with the logarithm of the nodes. Three
protocols trade bandwidth for latency. The cheapest of all is taken, which is what NCCL does with
the same numbers (NVIDIA/nccl 2.8, src/graph/tuning.cc: `baseLat`, `hwLat`, and the shares of
bandwidth in `ncclTopoTuneModel`). What a link carries of its signalling rate is NCCL's too: 20 of
25 GB/s of an NVLink (src/graph/topo.h, `SM70_NVLINK_WIDTH`); of a network port 24 of 25, which
NCCL's users and authors report (NVIDIA/nccl-tests, issues 119 and 175).

A machine file may name latencies of its own, measured; all protocols then keep their proportions.
gloo has one protocol and rings only, and torch's reduce-scatter on it is an all-reduce.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from alpenglow.parallel.links import Link
from alpenglow_lsf.machine import Links

NVLINK_SHARE = 0.8
NETWORK_SHARE = 0.96

_US = 1e-6
_RING = (
    (1.0, 8.4 * _US, {"nvlink": 3.4 * _US, "bus": 5.7 * _US, "network": 9.6 * _US}),
    (0.92, 10.0 * _US, {"nvlink": 1.9 * _US, "bus": 2.5 * _US, "network": 4.0 * _US}),
    (0.25, 3.6 * _US, {"nvlink": 0.47 * _US, "bus": 1.0 * _US, "network": 2.7 * _US}),
)
"""Protocols Simple, LL128 and LL: share of the bandwidth, base latency, latency of a step."""
_TREE = (
    (0.9, 0.0, {"nvlink": 28 * _US, "bus": 28 * _US, "network": 50 * _US}),
    (0.9 * 0.915, 4.4 * _US, {"nvlink": 1.2 * _US, "bus": 1.9 * _US, "network": 8.5 * _US}),
    (0.9 * 0.26, 4.4 * _US, {"nvlink": 0.52 * _US, "bus": 1.0 * _US, "network": 5.0 * _US}),
)


@dataclass(frozen=True)
class Library:
    """Whose algorithms move the bytes, and its latencies in units of NCCL's own."""

    gloo: bool = False
    start: float = 1.0
    nvlink: float = 1.0
    bus: float = 1.0
    network: float = 1.0
    message: float | None = None
    """Start of a message; None means as of a collective."""

    @classmethod
    def of(cls, links: Links) -> Library:
        """Read a machine's."""
        _, start, hop = _RING[0]
        return cls(
            links.library == "gloo",
            (links.start_seconds or start) / start,
            (links.nvlink_seconds or hop["nvlink"]) / hop["nvlink"],
            (links.socket_seconds or hop["bus"]) / hop["bus"],
            (links.network_seconds or hop["network"]) / hop["network"],
            None if links.message_seconds is None else links.message_seconds / start,
        )

    def hop(self, link: Link) -> float:
        """Latency of a step over a link, in units of NCCL's."""
        return {"nvlink": self.nvlink, "bus": self.bus, "network": self.network}[link]


NCCL = Library()


@dataclass(frozen=True)
class Span:
    """How the ranks of a group lie on nodes, and what their ring carries."""

    ranks: int
    nodes: int = 1
    rate: float = math.inf
    """Bytes a second over the ring's slowest link, other rings on that link counted."""
    inside: Link = "nvlink"
    """The slowest link within a node."""
    library: Library = NCCL


@lru_cache(maxsize=4096)
def all_reduce(nbytes: float, span: Span) -> float:
    """Seconds until every rank has the sum of `nbytes` of every other."""
    n, nodes, library = span.ranks, span.nodes, span.library
    if n < 2 or not nbytes:
        return 0.0
    ring = _ring(2, nbytes, span)
    if library.gloo:
        return ring
    inside, between = library.hop(span.inside), library.network
    local, levels = max(0, n // nodes - 1), math.ceil(math.log2(nodes))
    tree = min(
        library.start * base
        + 2 * (local * hop[span.inside] * inside + levels * hop["network"] * between)
        # A rank that receives from one child or two sends half of what it could.
        + 2 * nbytes / (span.rate * share)
        for share, base, hop in _TREE
    )
    return min(ring, tree)


@lru_cache(maxsize=4096)
def reduce_scatter(nbytes: float, span: Span) -> float:
    """Seconds until every rank has its n-th of the sum of `nbytes`."""
    if span.library.gloo:
        return all_reduce(nbytes, span)
    return _ring(1, nbytes, span) if span.ranks > 1 and nbytes else 0.0


def all_gather(nbytes: float, span: Span) -> float:
    """Seconds until every rank has all `nbytes`, of which each had its n-th."""
    return _ring(1, nbytes, span) if span.ranks > 1 and nbytes else 0.0


def send(nbytes: float, link: Link, rate: float, library: Library = NCCL) -> float:
    """Seconds of one message between two ranks, at `rate` bytes a second."""
    _, base, hop = _RING[0]
    start = library.start if library.message is None else library.message
    return start * base + library.hop(link) * hop[link] + nbytes / rate


def _ring(turns: int, nbytes: float, span: Span) -> float:
    n, nodes = span.ranks, span.nodes
    across = turns * (nodes - 1)
    within = turns * (n - 1) - across
    moved = turns * (n - 1) / n * nbytes
    library = span.library
    inside, between = library.hop(span.inside), library.network
    return min(
        library.start * base
        + within * hop[span.inside] * inside
        + across * hop["network"] * between
        + moved / (span.rate * share)
        for share, base, hop in (_RING[:1] if library.gloo else _RING)
    )
