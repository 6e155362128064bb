"""Which cores and GPUs each rank of a node gets, and a picture of it in text.

    seats = seat(step.request, machine.compute, smt=4)
    for line in draw(seats, machine.compute, tensor=2): print(line)

A model of jsrun's default resource manager: sets take cores in order and stay within a socket while
one has room; with `-l gpu-...` or `...-gpu` GPUs are those of the set's own socket, else the lowest
free ones. A task that may use several GPUs of its set takes the one of its own index, as
alpenglow.train does. Nothing here has been compared with a machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alpenglow_lsf.geometry import GeometryError, ResourceSet
from alpenglow_lsf.machine import Node


@dataclass(frozen=True)
class Seat:
    """What one rank of a node has."""

    local_rank: int
    resource_set: int
    cores: tuple[int, ...]
    """Cores that the rank is bound to; all of the node's with `-b none`."""
    visible: tuple[int, ...]
    """GPUs of the set, all of which the rank sees."""
    gpu: int | None
    """GPU that the rank takes; None without GPUs."""

    def sockets(self, node: Node) -> list[int]:
        """Sockets of the rank's cores."""
        return sorted({core * node.sockets // node.cores for core in self.cores})

    def gpu_socket(self, node: Node) -> int | None:
        """Socket of the rank's GPU."""
        return None if self.gpu is None else self.gpu * node.sockets // node.gpus


def seat(request: ResourceSet, node: Node, smt: int | None = None) -> list[Seat]:
    """Seat the ranks of one full node, in the order of their local ranks.

    Raises:
        GeometryError: the node does not hold the request.
    """
    _, per_host = request.fit(node, 1 if request.sets is None else request.sets, smt)
    if request.sets is not None:
        per_host = min(per_host, request.sets)
    free_cores, free_gpus = list(range(node.cores)), list(range(node.gpus))
    held = []
    for _ in range(per_host):
        cores, gpus = _take(request, node, free_cores, free_gpus)
        free_cores = [core for core in free_cores if core not in cores]
        free_gpus = [gpu for gpu in free_gpus if gpu not in gpus]
        held.append((cores, gpus))
    turns: list[tuple[int, int]] = []
    seated = [0] * per_host
    while len(turns) < per_host * request.tasks:
        for index in range(per_host):
            for _ in range(min(request.plane, request.tasks - seated[index])):
                turns.append((index, seated[index]))
                seated[index] += 1
    seats = []
    for local_rank, (index, task) in enumerate(turns):
        cores, gpus = held[index]
        bound = _bound(request, node, task, cores, node.smt if smt is None else smt)
        gpu = gpus[task % len(gpus)] if gpus else None
        seats.append(Seat(local_rank, index, tuple(bound), tuple(gpus), gpu))
    return seats


def straddles(seats: Sequence[Seat], node: Node, tensor: int = 1) -> list[str]:
    """Sentences about ranks, and groups of `tensor` neighbouring ranks, that span two sockets."""
    found = []
    bound = [s for s in seats if len(s.cores) < node.cores]
    split = [s.local_rank for s in bound if len(s.sockets(node)) > 1]
    if split and len(seats) > 1:
        found.append(f"local {_ranks(split)} bound to cores of two sockets")
    far = [s.local_rank for s in bound if s.gpu is not None and _far(s, node)]
    if far:
        found.append(f"local {_ranks(far)} bound to one socket, with a GPU of the other")
    across = [group for group in _groups(seats, tensor) if len(_gpu_sockets(group, node)) > 1]
    for group in across:
        ranks = "-".join(str(s.local_rank) for s in group)
        found.append(f"tensor-parallel ranks {ranks} of a node talk across the sockets' bus")
    if tensor > 1 and len(seats) % tensor:
        found.append(
            f"{len(seats)} ranks a node do not divide by tensor = {tensor}: some groups span nodes"
        )
    return found


def draw(
    seats: Sequence[Seat], node: Node, *, tensor: int = 1, smt: int | None = None
) -> list[str]:
    """Draw one node: each socket with its GPUs, cores and ranks, then what straddles.

    Args:
        seats: of `seat`.
        node: the node.
        tensor: size of a tensor-parallel group: that many neighbouring ranks.
        smt: hardware threads a core in use; None means the node's own.
    """
    lines = []
    each_core, each_gpu = node.cores // node.sockets, node.gpus // node.sockets
    threads = node.smt if smt is None else smt
    for socket in range(node.sockets):
        first, first_gpu = socket * each_core, socket * each_gpu
        gpus = f", GPUs {_span(range(first_gpu, first_gpu + each_gpu))}" if each_gpu else ""
        known = ""
        if node.socket_threads:
            begin = node.socket_threads[socket]
            known = f" (hardware threads {begin}-{begin + each_core * node.smt - 1})"
        lines.append(
            f"socket {socket}: cores {_span(range(first, first + each_core))}{known}{gpus}"
        )
        owner = ["."] * each_core
        for s in seats:
            for core in s.cores:
                if first <= core < first + each_core:
                    sign = _sign(s.local_rank)
                    owner[core - first] = sign if owner[core - first] in (".", sign) else "*"
        lines.append(f"  cores |{''.join(owner)}|")
        if each_gpu:
            takers = {g: [s.local_rank for s in seats if s.gpu == g] for g in range(node.gpus)}
            cells = [
                f"[{g}: {','.join(map(str, takers[g])) or 'idle'}]"
                for g in range(first_gpu, first_gpu + each_gpu)
            ]
            lines.append(f"  GPUs  {' '.join(cells)}")
    lines.append("rank  set  cores              GPU  sees")
    for s in seats:
        cores = _span(s.cores) + (f" x{threads} threads" if threads > 1 else "")
        gpu = "-" if s.gpu is None else str(s.gpu)
        lines.append(
            f"{s.local_rank:>4}  {s.resource_set:>3}  {cores:<17}  {gpu:>3}  {_span(s.visible)}"
        )
    for group in _groups(seats, tensor):
        sockets = _gpu_sockets(group, node)
        ranks = "-".join(str(s.local_rank) for s in group)
        place = f"within socket {sockets[0]}" if len(sockets) == 1 else "ACROSS the sockets' bus"
        lines.append(f"tensor group {ranks}: {place}")
    return lines


def _take(
    request: ResourceSet, node: Node, cores: list[int], gpus: list[int]
) -> tuple[list[int], list[int]]:
    if len(cores) < request.cores or len(gpus) < request.gpus:
        raise GeometryError("a node does not hold the sets")  # fit() refused this before
    near = "gpu" in request.latency
    each_core, each_gpu = node.cores // node.sockets, max(1, node.gpus // node.sockets)
    for socket in range(node.sockets):
        own = [c for c in cores if c // each_core == socket]
        own_gpus = [g for g in gpus if g // each_gpu == socket] if near else gpus
        if len(own) >= request.cores and len(own_gpus) >= request.gpus:
            return own[: request.cores], own_gpus[: request.gpus]
    return cores[: request.cores], gpus[: request.gpus]


def _bound(
    request: ResourceSet, node: Node, task: int, cores: list[int], smt: int
) -> Sequence[int]:
    kind, width = request.binding
    if kind == "none":
        return range(node.cores)
    if kind == "rs":
        return cores
    if kind == "packed:smt":
        return cores[task * width // smt : ((task + 1) * width - 1) // smt + 1]
    begin = task * (len(cores) // request.tasks if kind == "proportional-packed" else width)
    return cores[begin : begin + width]


def _groups(seats: Sequence[Seat], tensor: int) -> list[Sequence[Seat]]:
    if tensor < 2 or len(seats) % tensor or any(s.gpu is None for s in seats):
        return []
    return [seats[i : i + tensor] for i in range(0, len(seats), tensor)]


def _gpu_sockets(group: Sequence[Seat], node: Node) -> list[int]:
    return sorted({s for one in group if (s := one.gpu_socket(node)) is not None})


def _far(one: Seat, node: Node) -> bool:
    return one.gpu_socket(node) not in one.sockets(node)


def _sign(rank: int) -> str:
    signs = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return signs[rank] if rank < len(signs) else "+"


def _span(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts) or "-"


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]} is" if len(ranks) == 1 else f"ranks {_span(ranks)} are"
