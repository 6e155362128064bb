"""Machines: what a site is made of, read from `env/machines/NAME.toml`.

Nothing about a site is in code; each number's source stands beside it in the file. A machine
either describes itself (node, queues, links) or stands in for another (`emulates`): then jobs are
checked against the emulated machine and cut to the sizes of its `[stand_in]` table.

    machine = current()            # named by ALPENGLOW_MACHINE
    machine.target.node.cores      # 42, on Summit and on a laptop that stands in for it
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


class MachineError(ValueError):
    """A machine file that cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class Bin:
    """A range of node counts and the longest walltime a job of that size may ask for."""

    nodes: tuple[int, ...]
    """Smallest and largest node count, both included."""
    hours: float
    boost_days: float = 0.0
    """Days of waiting that a job of this size is given at its submission, for its priority."""

    def __post_init__(self) -> None:
        if len(self.nodes) != 2 or not 1 <= self.nodes[0] <= self.nodes[1]:
            raise ValueError(f"nodes = {list(self.nodes)} should be [smallest, largest]")
        if not self.boost_days >= 0:
            raise ValueError(f"boost_days = {self.boost_days} should be 0 or more")

    def holds(self, nodes: int) -> bool:
        """Say whether a job of `nodes` nodes belongs to this bin."""
        return self.nodes[0] <= nodes <= self.nodes[1]


@dataclass(frozen=True)
class Queue:
    """A queue and its bins."""

    name: str
    bins: tuple[Bin, ...]
    chains: bool
    """Whether the site allows jobs that submit their successors."""
    eligible_jobs: int | None = None
    queued_jobs: int | None = None
    partition: str | None = None
    """Slurm: what -p names, where the site has partitions."""
    qos: str | None = None
    """Slurm: what -q names, where the site has qualities of service."""
    machine: str | None = None
    """Machine file of this queue's nodes, where they are of another kind."""
    constraint: str | None = None
    """Slurm: what -C names, where one partition holds several kinds of node."""

    def bin(self, nodes: int) -> Bin | None:
        """Return the bin of a job of `nodes` nodes, None where the queue takes no such job."""
        return next((b for b in self.bins if b.holds(nodes)), None)


@dataclass(frozen=True)
class Node:
    """One compute node; sizes in bytes, bandwidths in bytes a second."""

    nodes: int
    """How many of them the machine has."""
    cores: int
    """Usable cores, those isolated for the system left out."""
    sockets: int
    smt: int
    gpus: int
    memory_bytes: float
    gpu_memory_bytes: float
    gpu_memory_bandwidth: float
    socket_threads: tuple[int, ...] = ()
    """First hardware thread of each socket, as the system numbers them; empty where unknown."""
    nvme_bytes: float | None = None
    nvme_read_bandwidth: float | None = None
    nvme_write_bandwidth: float | None = None
    nvme_path: str | None = None

    def __post_init__(self) -> None:
        for name in ("nodes", "cores", "sockets", "smt"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} should be 1 or more")
        for name in ("cores", "gpus"):
            if getattr(self, name) % self.sockets:
                raise ValueError(
                    f"{name} = {getattr(self, name)} do not divide over sockets = {self.sockets}"
                )
        if self.socket_threads and len(self.socket_threads) != self.sockets:
            raise ValueError(
                f"socket_threads = {list(self.socket_threads)} should name {self.sockets} threads"
            )


@dataclass(frozen=True)
class Links:
    """Bandwidths one way, bytes a second."""

    network: float
    """A node's injection bandwidth."""
    nvlink: float | None = None
    """Between two GPUs of a socket; absent where no figure has a source."""
    socket: float | None = None
    """Between the sockets of a node; absent where there is one socket."""
    network_port: float | None = None
    """What one port, and so one message, reaches."""
    fabric: float | None = None
    """A node's share when all nodes send at once; absent means all of its injection."""
    switched: bool = False
    """Whether a switch joins the node's GPUs, so that any pair has all of `nvlink`, one at a time;
    else it is the link of a pair, and a GPU uses those to several peers at once."""
    library: Literal["nccl", "gloo"] = "nccl"
    """Whose collectives run here; alpenglow.parallel.collectives knows their algorithms."""
    start_seconds: float | None = None
    """Latency of any collective, beside its steps; absent means NCCL's own figure, as below."""
    message_seconds: float | None = None
    """The same of a message from rank to rank; absent means as a collective's."""
    nvlink_seconds: float | None = None
    """Latency of one step of a ring over an NVLink."""
    socket_seconds: float | None = None
    """Of one between sockets."""
    network_seconds: float | None = None
    """Of one between nodes."""

    def __post_init__(self) -> None:
        for kind in ("start", "message", "nvlink", "socket", "network"):
            name = f"{kind}_seconds"
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} = {seconds} should be above 0")


@dataclass(frozen=True)
class GpuRates:
    """Constants of a GPU that only measuring tells; alpenglow.parallel.gemm says what they do."""

    multiprocessors: int
    sustained: float
    """Share of the peak that the inner loop of a large matrix product keeps up."""
    stream: float
    """Share of the memory's bandwidth that kernels reach."""
    cache_ratio: float
    """Bandwidth of the second-level cache, in units of the memory's."""
    fill_seconds: float
    """Until a thread block's first operands have come."""
    kernel_seconds: float
    """Least time of a kernel, with the gap to the next."""
    transposed: float = 1.0
    """Share of the rate left where a product's first operand lies along the summed dimension."""
    transposed_stream: float = 1.0
    """Share of the bandwidth left there, where a side of the product is at most 128."""
    host_seconds: float = 8e-6
    """What the host needs to start an operation."""
    fused_attention: float = 0.3
    """Share of the sustained rate that fused attention reaches."""

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            if not getattr(self, spec.name) > 0:
                raise ValueError(f"{spec.name} = {getattr(self, spec.name)} should be above 0")
        for name in ("sustained", "stream", "transposed", "transposed_stream", "fused_attention"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} = {getattr(self, name)} is a share, at most 1")


@dataclass(frozen=True)
class Signals:
    """How long the scheduler waits between its signals."""

    kill_after_minutes: float
    bkill_interval_seconds: float


@dataclass(frozen=True)
class Failures:
    """How often something ends a job that nobody planned to end."""

    gpu_hours: float
    """GPU-hours for one unexpected stop; the file says whose, where the site publishes none."""

    def __post_init__(self) -> None:
        if not self.gpu_hours > 0:
            raise ValueError(f"failures.gpu_hours = {self.gpu_hours} should be greater than 0")


@dataclass(frozen=True)
class StandIn:
    """Sizes to which a stand-in cuts the jobs of the machine that it emulates."""

    nodes: int
    tasks_per_node: int
    threads_per_task: int
    jobs_at_once: int
    spool: str
    """Folder of the job records; `$VARIABLES` are expanded, ALPENGLOW_SPOOL goes before it."""

    def __post_init__(self) -> None:
        for name in ("nodes", "tasks_per_node", "threads_per_task", "jobs_at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} should be 1 or more")


@dataclass(frozen=True)
class Machine:
    """A machine file. Fields that a stand-in lacks are its `target`'s."""

    name: str
    description: str
    scheduler: Literal["lsf", "slurm", "local"]
    emulates: str | None = None
    stand_in: StandIn | None = None
    submit_form: Literal["file", "stdin"] = "file"
    reserved_hosts: tuple[str, ...] = ()
    """Prefixes of the names of launch and login hosts, where no rank may run."""
    project_required: bool = False
    refuse_tmpdir: bool = False
    charge: str = "nodes x elapsed"
    price_per_node_hour: float | None = None
    """Dollars; absent means unknown."""
    default_queue: str | None = None
    """Queue of a job that names none; absent means the first of `queues`."""
    unverified: tuple[str, ...] = ()
    """Dotted keys of numbers that no source of the site itself confirms."""
    node: Node | None = None
    peak_flops: Mapping[str, float] = field(default_factory=dict)
    """FLOP/s by precision of one GPU, or of one rank where there is none; sourced, not guessed."""
    links: Links | None = None
    gpu: GpuRates | None = None
    """Absent where nobody measured them; predictions then say what they took instead."""
    signals: Signals | None = None
    failures: Failures | None = None
    """Absent where no rate is known."""
    queues: tuple[Queue, ...] = ()
    emulated: Machine | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.emulates is None:
            absent = [n for n in ("node", "links", "signals") if getattr(self, n) is None]
            absent += [] if self.queues else ["queues"]
            if absent:
                raise ValueError(
                    f"{absent[0]} is missing (only a machine that emulates another lacks it)"
                )
            known = [q.name for q in self.queues]
            if self.default_queue is not None and self.default_queue not in known:
                raise ValueError(
                    f"default_queue = {self.default_queue!r}; choose from {', '.join(known)}"
                )
        elif self.stand_in is None:
            raise ValueError(f"emulates = {self.emulates!r} needs a [stand_in] table")

    @property
    def target(self) -> Machine:
        """The machine whose rules hold: the emulated one, or this one."""
        return self if self.emulated is None else self.emulated

    @property
    def compute(self) -> Node:
        """The compute node of the target."""
        node = self.target.node
        if node is None:
            raise MachineError(f"machine {self.target.name}: node is missing")
        return node

    def queue(self, name: str) -> Queue | None:
        """Return a queue of the target by name; None where there is no such queue."""
        return next((q for q in self.target.queues if q.name == name), None)

    def queue_name(self, asked: str | None) -> str:
        """Return the queue that was asked for, or the one that the target takes without a name."""
        target = self.target
        return asked or target.default_queue or target.queues[0].name

    def of_queue(self, asked: str | None) -> Machine:
        """Return the machine whose nodes a queue has: this one, or the one its entry names.

        Raises:
            MachineError: that file is not usable.
        """
        queue = self.queue(self.queue_name(asked))
        if queue is None or queue.machine in (None, self.target.name):
            return self
        return load(queue.machine or "")

    def peak(self, precision: str) -> float | None:
        """Peak FLOP/s of one GPU (or rank) of THIS machine; None where nobody measured it."""
        return self.peak_flops.get(precision)

    def mean_time_s(self, gpus: int) -> float | None:
        """Mean time between failures of a job on THIS machine, seconds; None where unknown.

        Args:
            gpus: GPUs that the job has; each fails on its own.
        """
        return None if self.failures is None else 3600 * self.failures.gpu_hours / gpus


def folder(environ: Mapping[str, str] | None = None) -> Path:
    """Folder of the machine files: in ALPENGLOW_ROOT, else in the checkout around this file."""
    root = (os.environ if environ is None else environ).get("ALPENGLOW_ROOT")
    found = Path(root) / "env" / "machines" if root else None
    if found is not None and found.is_dir():
        return found
    return Path(__file__).resolve().parents[2] / "env" / "machines"


def names() -> list[str]:
    """Names of all machine files."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def current(environ: Mapping[str, str] | None = None) -> Machine:
    """Load the machine that ALPENGLOW_MACHINE names.

    Raises:
        MachineError: the variable is not set, or its file is not usable.
    """
    name = (os.environ if environ is None else environ).get("ALPENGLOW_MACHINE")
    if not name:
        raise MachineError(
            "ALPENGLOW_MACHINE is not set: start through env/laptop or source env/summit.sh"
        )
    return load(name)


def load(name_or_path: str | Path) -> Machine:
    """Read a machine by its name or by the path of its file.

    Raises:
        MachineError: no such file, not TOML, or a key that is unknown, missing or of a wrong type.
    """
    return _load(name_or_path, ())


def _load(name_or_path: str | Path, above: tuple[str, ...]) -> Machine:
    text = str(name_or_path)
    path = Path(text) if text.endswith(".toml") else folder() / f"{text}.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        near = difflib.get_close_matches(text, names(), n=1, cutoff=0.4)
        cure = f"did you mean {near[0]}?" if near else f"known: {', '.join(names())}"
        raise MachineError(f"machine {text}: no file {path}; {cure}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MachineError(f"{path}: not valid TOML: {error}") from None
    machine: Machine = _build(Machine, tables, str(path), "")
    for key in machine.unverified:
        if not _holds(tables, key.split(".")):
            raise MachineError(f"{path}: unverified names {key}, which the file does not hold")
    if machine.emulates is not None:
        if machine.name in above:
            raise MachineError(f"{path}: emulates = {machine.emulates!r} goes round in a circle")
        beside = path.with_name(f"{machine.emulates}.toml")
        source = beside if beside.exists() else machine.emulates
        object.__setattr__(machine, "emulated", _load(source, (*above, machine.name)).target)
    return machine


def _holds(table: Any, keys: list[str]) -> bool:
    """Say whether a dotted key leads anywhere; a list of tables is looked up by `name`."""
    for key in keys:
        if isinstance(table, list):
            table = next(
                (t for t in table if isinstance(t, Mapping) and t.get("name") == key), None
            )
        elif isinstance(table, Mapping):
            table = table.get(key)
        if table is None:
            return False
    return True


def _build(schema: Any, table: Any, where: str, prefix: str) -> Any:
    if not isinstance(table, Mapping):
        raise MachineError(f"{where}: {prefix.rstrip('.')} should be a table")
    fields = {f.name: f for f in dataclasses.fields(schema) if f.init}
    hints = typing.get_type_hints(schema)
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.4)
            cure = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(fields)}"
            raise MachineError(f"{where}: unknown key {prefix}{key}; {cure}")
    for name, spec in fields.items():
        required = (
            spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        )
        if required and name not in table:
            raise MachineError(f"{where}: {prefix}{name} is missing")
    values = {k: _convert(hints[k], v, where, f"{prefix}{k}") for k, v in table.items()}
    try:
        return schema(**values)
    except ValueError as error:
        raise MachineError(f"{where}: {prefix}{error}") from None


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        hint = next(a for a in arguments if a is not type(None))
        return _convert(hint, value, where, key)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where, f"{key}.")
    if origin is Literal:
        if value in arguments:
            return value
        raise MachineError(f"{where}: {key} = {value!r}; choose from {', '.join(arguments)}")
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], v, where, f"{key}[{i}]") for i, v in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {k: _convert(arguments[1], v, where, f"{key}.{k}") for k, v in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    wanted = getattr(hint if origin is None else origin, "__name__", str(hint))
    raise MachineError(f"{where}: {key} = {value!r} should be of type {wanted}")
