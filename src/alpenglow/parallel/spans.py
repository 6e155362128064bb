"""Where the groups of a layout lie on a machine: their spans, and the hops between stages.

Torch-free, and without a list of ranks: groups are arithmetic progressions, so 12,288 ranks cost no
more than 8. Local rank i has GPU i. Within a node:

- GPUs behind a switch have one NVLink rate to anybody; a ring uses it once;
- GPUs linked pair by pair: a group of k on one socket lays k - 1 rings beside one another, each
  over other links (Summit's triplets: two rings of 50 GB/s);
- a group over two sockets is as slow as the bus, shared by all groups of the node that cross it;
- a group over several nodes is as slow as a node's injection, shared by all such groups of the
  node, and a rank that is alone on its node has one network port.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from alpenglow.parallel.collectives import NETWORK_SHARE, NVLINK_SHARE, Span, send
from alpenglow.parallel.hardware import Hardware
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.links import Link


@dataclass(frozen=True)
class Pattern:
    """How one replica lies on nodes; replicas a whole number of nodes apart lie alike."""

    tensor: tuple[Span, ...]
    """Of each stage."""
    hops: tuple[Link, ...]
    """From each stage to the next, and from the last to the first."""


def inside(hardware: Hardware, sockets: tuple[int, ...], crossing: int) -> tuple[Link, float]:
    """Slowest link of a ring through GPUs of one node, and its bytes a second.

    Args:
        hardware: the machine.
        sockets: of the ring's GPUs, in order.
        crossing: rings of the node that cross the bus at once.
    """
    site = hardware.site
    width = len(sockets)
    if len(set(sockets)) > 1 and site.bus is not None:
        return "bus", NVLINK_SHARE * site.bus / max(1, crossing)
    rings = 1 if hardware.switched else max(1, width - 1)
    return "nvlink", NVLINK_SHARE * site.nvlink * rings


def tensor_span(hardware: Hardware, tensor: int, offset: int) -> Span:
    """Span of the tensor group whose first rank is GPU `offset` of its node."""
    sockets, each = hardware.site.sockets, len(hardware.site.sockets)
    if tensor == 1:
        return Span(1)
    if offset + tensor <= each:
        own = sockets[offset : offset + tensor]
        starts = range(offset % tensor, each - tensor + 1, tensor)
        crossing = sum(len(set(sockets[i : i + tensor])) > 1 for i in starts)
        link, rate = inside(hardware, own, crossing)
        return Span(tensor, 1, rate, link, hardware.library)
    nodes = math.ceil((offset + tensor) / each)
    link, rate = inside(hardware, sockets[: min(each, tensor)], 1)
    share = NETWORK_SHARE * hardware.site.network
    return Span(tensor, nodes, min(rate, share), link, hardware.library)


def data_span(hardware: Hardware, layout: Layout) -> Span:
    """Span of the groups that reduce gradients, all of them at work at once."""
    return strided(hardware, layout.data, _stride(layout), layout.world)


def strided(hardware: Hardware, ranks: int, stride: int, world: int) -> Span:
    """Span of groups of `ranks`, each rank `stride` after the one before it."""
    site, each = hardware.site, len(hardware.site.sockets)
    if ranks == 1:
        return Span(1)
    here = min(ranks, (each - 1) // stride + 1)
    nodes = min(ranks, math.ceil(((ranks - 1) * stride + 1) / each))
    groups = max(1, min(world, each) // here)
    link, rate = inside(hardware, site.sockets[::stride][:here], groups)
    rate = rate if here > 1 else math.inf
    if nodes > 1:
        rate = min(rate, NETWORK_SHARE * min(site.network / groups, site.port * here))
    return Span(ranks, nodes, rate, link, hardware.library)


def ends_span(hardware: Hardware, layout: Layout) -> Span:
    """Span of the pairs of first and last stage that sum a tied embedding's gradient."""
    one, other = layout.rank(0, 0, 0), layout.rank(layout.pipeline - 1, 0, 0)
    return strided(hardware, 2, abs(other - one), layout.world)


def patterns(hardware: Hardware, layout: Layout) -> list[Pattern]:
    """How the first replicas lie on nodes; after them it repeats."""
    each, p = len(hardware.site.sockets), layout.pipeline
    apart = _stride(layout)
    kinds = each // math.gcd(each, apart)
    found: list[Pattern] = []
    spans: dict[int, Span] = {}
    for data in range(min(layout.data, kinds)):
        firsts = [layout.rank(stage, data, 0) for stage in range(p)]
        tensor = []
        for first in firsts:
            offset = first % each
            if offset not in spans:
                spans[offset] = tensor_span(hardware, layout.tensor, offset)
            tensor.append(spans[offset])
        hops = tuple(
            _link(hardware, firsts[stage], firsts[(stage + 1) % p], each) for stage in range(p)
        )
        found.append(Pattern(tuple(tensor), hops))
    return found


def _link(hardware: Hardware, one: int, other: int, each: int) -> Link:
    if one // each != other // each:
        return "network"
    sockets = hardware.site.sockets
    return "nvlink" if sockets[one % each] == sockets[other % each] else "bus"


def hop_seconds(hardware: Hardware, layout: Layout, link: Link, nbytes: float) -> float:
    """Seconds of what every rank of a stage sends to the next stage at the same moment."""
    site, each = hardware.site, len(hardware.site.sockets)
    library = hardware.library
    if link == "nvlink":
        return send(nbytes, link, NVLINK_SHARE * site.nvlink, library)
    together = min(each, layout.tensor * (layout.data if layout.order == "pipe-major" else 1))
    if link == "bus":
        rate = NVLINK_SHARE * (site.bus or site.nvlink) / layout.tensor
        return send(nbytes, link, rate, library)
    rate = NETWORK_SHARE * min(site.network / together, site.port)
    return send(nbytes, link, rate, library)


def _stride(layout: Layout) -> int:
    """Ranks between the same place of neighbouring replicas."""
    return layout.tensor * (1 if layout.order == "pipe-major" else layout.pipeline)
