"""What the cost model says of each measured point of a machine's curves.

Torch-free. The points are those of alpenglow_profiling.curves: a product by shape, a streaming
kernel by bytes, fused attention by sequence, a collective or message by group and bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from alpenglow.parallel import collectives
from alpenglow.parallel.collectives import NETWORK_SHARE, NVLINK_SHARE, Span
from alpenglow.parallel.gemm import gemm_seconds
from alpenglow.parallel.hardware import Gpu, Hardware
from alpenglow.parallel.links import Link
from alpenglow.parallel.spans import inside

Point = Mapping[str, Any]
MESSAGES = ("message", "exchange")
COLLECTIVES: dict[str, Callable[[float, Span], float]] = {
    "all_reduce": collectives.all_reduce,
    "reduce_scatter": collectives.reduce_scatter,
    "all_gather": collectives.all_gather,
}
BACKWARD = 2.5
"""Products of fused attention's backward pass for one of its forward pass."""


def product(gpu: Gpu, point: Point, size: int) -> float:
    """Seconds of a matrix product of elements of `size` bytes."""
    return gemm_seconds(
        gpu,
        point["m"],
        point["n"],
        point["k"],
        batch=point.get("batch", 1),
        size=size,
        transposed=point["transposed_a"] == "T",
    )


def copy(gpu: Gpu, point: Point) -> float:
    """Seconds of a kernel that moves `bytes`."""
    return gpu.kernel_s + float(point["bytes"]) / gpu.bandwidth


def attention(gpu: Gpu, point: Point) -> float:
    """Seconds of causal fused attention, of which half the blocks are skipped."""
    once = 2.0 * int(point["heads"]) * int(point["sequence"]) ** 2 * int(point["head"])
    passes = BACKWARD if point["pass"] == "backward" else 1.0
    return gpu.kernel_s + passes * once / (gpu.rate * gpu.fused_attention)


def link(hardware: Hardware, point: Point, each: int) -> Link:
    """The slowest link that a point's groups use.

    Args:
        hardware: the machine.
        point: of the network's curve.
        each: ranks of a node in the measured job.
    """
    if span(hardware, point, each).nodes > 1:
        return "network"
    return span(hardware, point, each).inside


def span(hardware: Hardware, point: Point, each: int) -> Span:
    """How a point's groups lie; as alpenglow.parallel.spans.strided, with the groups at work."""
    site = hardware.site
    ranks, first, stride, together = (
        int(point[key]) for key in ("ranks", "first", "stride", "on_node")
    )
    local = first % each
    here = min(ranks, (each - 1 - local) // stride + 1)
    nodes = math.ceil((local + (ranks - 1) * stride + 1) / each)
    nodes = min(ranks, nodes)
    way, rate = inside(hardware, site.sockets[local::stride][:here], together)
    rate = rate if here > 1 else math.inf
    if nodes > 1:
        rate = min(rate, NETWORK_SHARE * min(site.network / together, site.port * here))
    return Span(ranks, nodes, rate, way, hardware.library)


def transfer(hardware: Hardware, point: Point, each: int) -> float:
    """Seconds of a collective or message."""
    found, nbytes = span(hardware, point, each), float(point["bytes"])
    if point["what"] in MESSAGES:
        site, together = hardware.site, int(point["on_node"])
        if found.nodes > 1:
            rate = NETWORK_SHARE * min(site.network / together, site.port)
            return collectives.send(nbytes, "network", rate, hardware.library)
        rate = NVLINK_SHARE * site.nvlink
        if found.inside == "bus":
            rate = NVLINK_SHARE * (site.bus or site.nvlink) / together
        return collectives.send(nbytes, found.inside, rate, hardware.library)
    return COLLECTIVES[point["what"]](nbytes, found)


def seconds(hardware: Hardware, curve: str, point: Point, size: int, each: int) -> float:
    """Seconds of a point of any curve.

    Args:
        hardware: the machine.
        curve: products, copies, attention or network.
        point: as it was measured; its own `seconds` are not looked at.
        size: bytes of an element.
        each: ranks of a node in the measured job.
    """
    if curve == "products":
        return product(hardware.gpu, point, size)
    if curve == "copies":
        return copy(hardware.gpu, point)
    if curve == "attention":
        return attention(hardware.gpu, point)
    return transfer(hardware, point, each)
