"""Geometry: jsrun resource sets, whether a node holds them, and where each rank runs.

The rules are those of Summit's guide and of radical.pilot's jsrun launcher: a set never spans
nodes, cores and GPUs of all sets of a host fit the host, `-n` is a multiple of `-r`, and
`packed:K` gives each of the set's tasks K of the set's cores (`packed:smt:K`: K hardware threads).
Which cores and GPUs that are is in alpenglow_lsf.picture.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from alpenglow_lsf.machine import Node


class GeometryError(ValueError):
    """A request that a machine cannot hold; the message is one sentence with both numbers."""


@dataclass(frozen=True)
class ResourceSet:
    """What jsrun's -n -r -a -c -g -b -d -l ask for; all sets of one jsrun are equal."""

    sets: int | None = None
    """-n: number of sets; None means as many as the hosts take."""
    per_host: int | None = None
    """-r: sets on each host; None means as many as fit."""
    tasks: int = 1
    """-a: tasks (ranks) in each set."""
    cores: int = 1
    """-c: cores (not hardware threads) of each set."""
    gpus: int = 0
    """-g: GPUs of each set."""
    bind: str = "packed:1"
    """-b: none, rs, packed:K, packed:smt:K or proportional-packed:K."""
    distribution: str = "packed"
    """-d: order of ranks over sets: packed, cyclic or plane:K."""
    latency: str = "cpu-cpu"
    """-l: which parts of a set lie close together; lower case only."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("-n", self.sets, 1),
            ("-r", self.per_host, 1),
            ("-a", self.tasks, 1),
            ("-c", self.cores, 1),
            ("-g", self.gpus, 0),
        ):
            if value is not None and value < least:
                raise GeometryError(f"{name} {value} should be {least} or more")
        if self.latency not in ("gpu-cpu", "cpu-gpu", "cpu-mem", "cpu-cpu", "gpu-gpu", "mem-cpu"):
            lower = " (capitals allocate wrongly)" if self.latency != self.latency.lower() else ""
            raise GeometryError(f"-l {self.latency}: choose gpu-cpu, cpu-mem or cpu-cpu{lower}")
        self.plane  # noqa: B018 - refuses a -d that does not exist
        kind, width = self.binding
        if kind in ("packed", "proportional-packed") and self.tasks * width > self.cores:
            raise GeometryError(
                f"-b {self.bind} binds -a {self.tasks} tasks to {self.tasks * width} cores, "
                f"but the set has -c {self.cores}"
            )

    @property
    def binding(self) -> tuple[str, int]:
        """Kind of -b and its width: cores a task, hardware threads for `packed:smt`."""
        words = self.bind.split(":")
        if words in (["none"], ["rs"]):
            return words[0], self.cores
        kind = ":".join(words[:-1])
        if kind in ("packed", "packed:smt", "proportional-packed") and _count(words[-1]):
            return kind, int(words[-1])
        if self.bind in ("packed", "proportional-packed"):
            return self.bind, 1
        raise GeometryError(
            f"-b {self.bind}: choose none, rs, packed:K, packed:smt:K or proportional-packed:K"
        )

    @property
    def plane(self) -> int:
        """Consecutive ranks that a set gets at a time (all of them for `packed`)."""
        if self.distribution == "packed":
            return self.tasks
        if self.distribution == "cyclic":
            return 1
        kind, _, width = self.distribution.partition(":")
        if kind == "plane" and _count(width):
            return int(width)
        raise GeometryError(f"-d {self.distribution}: choose packed, cyclic or plane:K")

    def threads(self, smt: int = 1) -> int:
        """Threads that one task may use without sharing a hardware thread (OMP_NUM_THREADS)."""
        kind, width = self.binding
        if kind == "packed:smt":
            return width
        cores = width if kind.endswith("packed") else max(1, self.cores // self.tasks)
        return cores * smt

    def words(self) -> list[str]:
        """Write the request as jsrun options that read back to it; defaults are left out."""
        found: list[tuple[str, object, object]] = [
            ("-n", self.sets, None),
            ("-r", self.per_host, None),
            ("-a", self.tasks, 1),
            ("-c", self.cores, 1),
            ("-g", self.gpus, 0),
            ("-b", self.bind, ResourceSet.bind),
            ("-d", self.distribution, ResourceSet.distribution),
            ("-l", self.latency, ResourceSet.latency),
        ]
        return [
            word for flag, value, usual in found if value != usual for word in (flag, f"{value}")
        ]

    def fit(self, node: Node, nodes: int, smt: int | None = None) -> tuple[int, int]:
        """Return (number of sets, sets a host) on `nodes` nodes.

        Args:
            node: what a node has.
            nodes: nodes of the allocation.
            smt: hardware threads a core in the job's SMT mode; None means the node's own.

        Raises:
            GeometryError: the node or the allocation does not hold the request.
        """
        threads = node.smt if smt is None else smt
        kind, width = self.binding
        if kind == "packed:smt" and self.tasks * width > self.cores * threads:
            raise GeometryError(
                f"-b {self.bind} binds -a {self.tasks} tasks to {self.tasks * width} hardware "
                f"threads, but -c {self.cores} cores have {self.cores * threads} "
                f"in SMT mode {threads}"
            )
        for what, each, has in (("core", self.cores, node.cores), ("GPU", self.gpus, node.gpus)):
            flag = "-c" if what == "core" else "-g"
            if each > has:
                raise GeometryError(f"{flag} {each} asks for {each} {what}s, but a node has {has}")
            if self.per_host is not None and self.per_host * each > has:
                raise GeometryError(
                    f"-r {self.per_host} sets of {flag} {each} ask for {self.per_host * each} "
                    f"{what}s, but a node has {has}"
                )
        most = min(node.cores // self.cores, node.gpus // self.gpus if self.gpus else node.cores)
        per_host = self.per_host if self.per_host is not None else most
        sets = self.sets if self.sets is not None else per_host * nodes
        if sets > per_host * nodes:
            raise GeometryError(
                f"-n {sets} sets do not fit: {nodes} nodes hold {per_host} each, "
                f"{per_host * nodes} in all"
            )
        if self.sets is not None and self.per_host is not None and sets % per_host:
            raise GeometryError(
                f"-n {sets} is no multiple of -r {per_host}: the sets spread unevenly"
            )
        return sets, per_host

    def warnings(self, node: Node) -> list[str]:
        """Sentences about a request that fits but is probably not meant."""
        found = []
        cores, gpus = node.cores // node.sockets, node.gpus // node.sockets
        if cores < self.cores < node.cores:
            found.append(f"a set of -c {self.cores} straddles sockets of {cores} cores")
        if gpus < self.gpus < node.gpus:
            found.append(f"a set of -g {self.gpus} straddles sockets of {gpus} GPUs")
        if self.bind in ("packed", "packed:1") and self.cores > self.tasks:
            found.append(
                f"-b packed:1 leaves each task one core of its set's {self.cores}; "
                f"-b packed:{self.cores // self.tasks} uses them"
            )
        return found

    def uneven(self, node: Node, nodes: int) -> list[str]:
        """Sentences about shares that do not come out even over hosts, GPUs or hardware threads."""
        found = []
        sets, per_host = self.fit(node, nodes)
        if sets > per_host and sets % per_host:
            found.append(
                f"-n {sets} sets fill hosts of {per_host} unevenly: the last has {sets % per_host}"
            )
        used = -(-sets // per_host)
        if used < nodes:
            found.append(f"the step runs on {used} of {nodes} nodes; all {nodes} are charged")
        if self.gpus and max(self.tasks, self.gpus) % min(self.tasks, self.gpus):
            found.append(f"-a {self.tasks} tasks share -g {self.gpus} GPUs of their set unevenly")
        idle = node.gpus - per_host * self.gpus
        if self.gpus and idle:
            found.append(f"{idle} of a node's {node.gpus} GPUs belong to no set")
        return found


@dataclass(frozen=True)
class Place:
    """Where one rank runs."""

    rank: int
    host: int
    """Index of the host among the allocation's compute hosts."""
    local_rank: int
    local_size: int


def place(request: ResourceSet, node: Node, nodes: int) -> list[Place]:
    """Place every rank of a step.

    Sets fill the hosts in order; `-d` says in which order ranks go to sets.

    Raises:
        GeometryError: the request does not fit.
    """
    sets, per_host = request.fit(node, nodes)
    plane = request.plane
    turns: list[int] = []
    room = [request.tasks] * sets
    while any(room):
        for index in range(sets):
            take = min(plane, room[index])
            room[index] -= take
            turns += [index // per_host] * take
    return _numbered(turns)


def cut(places: list[Place], nodes: int, tasks_per_node: int) -> list[Place]:
    """Keep the first `nodes` hosts and the first `tasks_per_node` ranks of each; renumber."""
    kept = [p.host for p in places if p.host < nodes and p.local_rank < tasks_per_node]
    return _numbered(kept)


def _numbered(hosts: list[int]) -> list[Place]:
    sizes = Counter(hosts)
    seen: Counter[int] = Counter()
    places = []
    for rank, host in enumerate(hosts):
        places.append(Place(rank, host, seen[host], sizes[host]))
        seen[host] += 1
    return places


def _count(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0
