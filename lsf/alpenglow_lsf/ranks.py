"""Ranks: who this process is in its job step, read from whatever launcher started it.

A rank program calls this before torch or DeepSpeed start, so their own discovery (ssh, hostname,
mpi4py) is never used:

    ranks = Ranks.from_environment()
    ranks.check_master()
    ranks.export(os.environ)

Launchers in the order of reading: our own variables, jsrun (JSM_), Open MPI and Spectrum MPI
(OMPI_), PMIx, Slurm. Without any of them the process is rank 0 of 1.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FAMILIES: tuple[tuple[str, str, str, str], ...] = (
    ("ALPENGLOW_RANK", "ALPENGLOW_WORLD_SIZE", "ALPENGLOW_LOCAL_RANK", "ALPENGLOW_LOCAL_SIZE"),
    (
        "JSM_NAMESPACE_RANK",
        "JSM_NAMESPACE_SIZE",
        "JSM_NAMESPACE_LOCAL_RANK",
        "JSM_NAMESPACE_LOCAL_SIZE",
    ),
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("PMIX_RANK", "PMIX_SIZE", "PMIX_LOCAL_RANK", "PMIX_LOCAL_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)
"""Rank, world size, local rank and local size as each launcher names them, in order of reading."""

RESERVED_VARIABLE = "ALPENGLOW_RESERVED_HOSTS"
"""Prefixes of launch and login hosts, separated by commas; set by alpenglow_lsf.run."""

HOST_ADDRESS_VARIABLE = "ALPENGLOW_HOST_ADDRESS"
"""Where other nodes reach this rank's; set by the stand-in, whose nodes' names lead nowhere."""


class RanksError(RuntimeError):
    """The environment does not say who this rank is; the message is one sentence."""


class PortInUse(RanksError):
    """Something else listens on the port that the ranks would meet at."""


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of its step."""

    rank: int
    local_rank: int
    world_size: int
    local_size: int
    host: str
    master_address: str
    master_port: int
    job_id: str | None = None
    deadline: float | None = None
    """Unix seconds at which the scheduler ends the job; None where there is no limit."""
    host_address: str | None = None
    """Address of a pretend node; None where the host's name leads to it."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Ranks:
        """Read the launcher's variables.

        Raises:
            RanksError: variables that contradict each other or are incomplete; the message names
                what was found and what is missing.
        """
        env = os.environ if environ is None else environ
        names = ("ALPENGLOW_JOB_ID", "LSB_JOBID", "SLURM_JOB_ID")
        job_id = next((env[name] for name in names if env.get(name)), None)
        values = _values(env)
        rank, world_size, local_rank, local_size = values or (0, 1, 0, 1)
        host = env.get("ALPENGLOW_HOST") or env.get("SLURMD_NODENAME") or socket.gethostname()
        reserved = reserved_hosts(env)
        if values and reserved and host.startswith(reserved):
            raise RanksError(
                f"rank {rank} runs on {host}, a launch or login host "
                f"(prefixes {', '.join(reserved)}): start it through jsrun"
            )
        return cls(
            rank=rank,
            local_rank=local_rank,
            world_size=world_size,
            local_size=local_size,
            host=host,
            master_address=_master_address(env, world_size == local_size),
            master_port=_master_port(env, job_id),
            job_id=job_id,
            deadline=_deadline(env),
            host_address=env.get(HOST_ADDRESS_VARIABLE),
        )

    def export(self, environ: MutableMapping[str, str]) -> None:
        """Set the variables that torch and DeepSpeed read: RANK, WORLD_SIZE, MASTER_ADDR ..."""
        environ["RANK"] = str(self.rank)
        environ["LOCAL_RANK"] = str(self.local_rank)
        environ["WORLD_SIZE"] = str(self.world_size)
        environ["LOCAL_SIZE"] = str(self.local_size)
        environ["MASTER_ADDR"] = self.master_address
        environ["MASTER_PORT"] = str(self.master_port)

    def time_left(self, now: float | None = None) -> float | None:
        """Seconds until the deadline; None where there is none."""
        if self.deadline is None:
            return None
        return self.deadline - (time.time() if now is None else now)

    def check_master(self) -> None:
        """On rank 0, confirm that the others will find it; other ranks return at once.

        Raises:
            RanksError: rank 0 does not run on the master address.
            PortInUse: the master port is taken on this host.
        """
        if self.rank != 0 or self.world_size == 1:
            return
        own = self.host_address or self.host
        if self.host_address is not None:  # every loopback address is local, but one is the node's
            same = self.master_address == self.host_address
        else:
            same = self.master_address in ("localhost", "::1")
            same = same or self.master_address.startswith("127.")
            same = same or _short(self.host) == _short(self.master_address)
            same = same or _is_local(self.master_address)
        if not same:
            raise RanksError(
                f"rank 0 runs on {self.host} but the master address is {self.master_address}: "
                f"the other ranks would wait there for ever; set ALPENGLOW_MASTER_ADDR={own}"
            )
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As torch's store does: a port that only lingers from a closed connection is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", self.master_port))
                probe.listen(1)
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                raise PortInUse(
                    f"port {self.master_port} on {self.host}, where the ranks would meet, is in "
                    f"use: set ALPENGLOW_MASTER_PORT to a free one"
                ) from None


def reserved_hosts(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the prefixes of launch and login hosts that the parent has exported."""
    text = environ.get(RESERVED_VARIABLE, "")
    return tuple(prefix for prefix in text.split(",") if prefix)


def compute_hosts(environ: Mapping[str, str], reserved: Sequence[str]) -> list[str]:
    """Return the allocation's compute hosts.

    The order of the scheduler's list is kept, never sorted: rank 0 runs on its first compute
    host. Launch and login hosts and repeats are dropped.

    Args:
        environ: with LSB_DJOB_HOSTFILE, LSB_MCPU_HOSTS, LSB_HOSTS or SLURM_JOB_NODELIST.
        reserved: prefixes of launch and login hosts.
    """
    hosts: list[str] = []
    listing = environ.get("LSB_DJOB_HOSTFILE")
    if listing and Path(listing).is_file():
        hosts = Path(listing).read_text(encoding="utf-8").split()
    elif environ.get("LSB_MCPU_HOSTS"):
        hosts = environ["LSB_MCPU_HOSTS"].split()[::2]
    elif environ.get("LSB_HOSTS"):
        hosts = environ["LSB_HOSTS"].split()
    elif environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST"):
        listing = environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"]
        hosts = expand_hosts(listing)
    return [h for h in dict.fromkeys(hosts) if not h.startswith(tuple(reserved) or ("\0",))]


def expand_hosts(listing: str) -> list[str]:
    """Expand Slurm's list of nodes: `n[1-2,05],login` is n1, n2, n05, login.

    Raises:
        RanksError: brackets that do not match, or a range that runs backwards.
    """
    if not re.fullmatch(rf"{_HOST}(?:,{_HOST})*", listing):
        raise RanksError(f"SLURM_JOB_NODELIST={listing} is no list of hosts")
    found: list[str] = []
    for item in re.findall(_HOST, listing):
        hosts = [""]
        for part in re.findall(r"\[[^\]]*\]|[^\[]+", item):
            grown = _numbers(part[1:-1], listing) if part.startswith("[") else [part]
            hosts = [host + end for host in hosts for end in grown]
        found += hosts
    return found


_HOST = r"(?:[^,\[\]]|\[[^\[\]]+\])+"


def _numbers(text: str, listing: str) -> list[str]:
    found: list[str] = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        last = last or first
        if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
            raise RanksError(f"SLURM_JOB_NODELIST={listing}: [{item}] is no range of numbers")
        found += [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    return found


def port_of_job(job_id: str) -> int:
    """Return a port for a job: 10000 to 29999, below the range of outgoing connections."""
    digits = re.match(r"\d+", job_id)
    if digits is None:
        raise RanksError(f"job id {job_id!r} does not begin with a number")
    return 10000 + int(digits.group()) % 20000


def _values(env: Mapping[str, str]) -> tuple[int, int, int, int] | None:
    chosen = next((family for family in FAMILIES if env.get(family[0])), None)
    if chosen is None or _is_batch_shell(chosen, env):
        return None
    rank = _integer(env, chosen[0])
    # A launcher may leave some of its variables out (PMIx sets no size, jsrun no local size):
    # another that runs beneath it fills the gap, provided that it speaks of the same rank.
    agreeing = [f for f in FAMILIES if f is chosen or env.get(f[0]) == env[chosen[0]]]
    values = [rank]
    for column, what in ((1, "world size"), (2, "local rank"), (3, "local size")):
        name = next((f[column] for f in agreeing if env.get(f[column])), None)
        if name is not None:
            values.append(_integer(env, name))
        elif column == 3 and _slurm_share(env):
            values.append(_slurm_share(env))
        elif column == 3 and _even_share(env, values[1]):
            values.append(_even_share(env, values[1]))
        else:
            raise RanksError(f"found {chosen[0]}={rank} but no {what}: {chosen[column]} is missing")
    rank, world_size, local_rank, local_size = values
    if not (0 <= rank < world_size and 0 <= local_rank < local_size <= world_size):
        raise RanksError(
            f"rank variables contradict each other: {chosen[0]}={rank} of {world_size}, "
            f"local rank {local_rank} of {local_size}"
        )
    return rank, world_size, local_rank, local_size


def _is_batch_shell(chosen: tuple[str, str, str, str], env: Mapping[str, str]) -> bool:
    """Whether these are the variables of Slurm's batch shell: it is task 0 of no step of ours."""
    return (
        chosen[0] == "SLURM_PROCID"
        and not env.get("SLURM_NTASKS")
        and bool(env.get("SLURM_JOB_ID"))
    )


def _slurm_share(env: Mapping[str, str]) -> int:
    """Tasks on this node, from `2(x3),1`: 2 on the first three nodes of the step, then 1."""
    counts: list[int] = []
    for item in env.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item)
        if match is None:
            return 0
        counts += [int(match[1])] * int(match[2] or 1)
    node = env.get("SLURM_NODEID", "")
    return counts[int(node)] if node.isdigit() and int(node) < len(counts) else 0


def _even_share(env: Mapping[str, str], world_size: int) -> int:
    hosts = len(compute_hosts(env, reserved_hosts(env)))
    return world_size // hosts if hosts and world_size % hosts == 0 else 0


def _master_address(env: Mapping[str, str], one_host: bool) -> str:
    if env.get("ALPENGLOW_MASTER_ADDR"):
        return env["ALPENGLOW_MASTER_ADDR"]
    if one_host:
        return "127.0.0.1"
    reserved = reserved_hosts(env)
    hosts = compute_hosts(env, reserved)
    if not hosts:
        raise RanksError(
            "no master address: LSB_DJOB_HOSTFILE, LSB_MCPU_HOSTS, LSB_HOSTS and "
            "SLURM_JOB_NODELIST name no compute host; set ALPENGLOW_MASTER_ADDR to the host of "
            "rank 0"
        )
    # Slurm lists compute nodes only: its batch shell runs on the first of them.
    if not reserved and not env.get("SLURM_JOB_NODELIST"):
        raise RanksError(
            f"found hosts {', '.join(hosts[:3])} ... but not which of them are launch hosts: "
            f"start through alpenglow_lsf.run, or set ALPENGLOW_MASTER_ADDR to the host of rank 0"
        )
    return hosts[0]


def _master_port(env: Mapping[str, str], job_id: str | None) -> int:
    if env.get("ALPENGLOW_MASTER_PORT"):
        port = _integer(env, "ALPENGLOW_MASTER_PORT")
        if not 0 < port < 65536:
            raise RanksError(f"ALPENGLOW_MASTER_PORT={port} is no port number")
        return port
    return 29500 if job_id is None else port_of_job(job_id)  # 29500 is torch's own default


def _deadline(env: Mapping[str, str]) -> float | None:
    text = env.get("ALPENGLOW_DEADLINE")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise RanksError(f"ALPENGLOW_DEADLINE={text} is no time in unix seconds") from None


def _integer(env: Mapping[str, str], name: str) -> int:
    text = env[name]
    if not re.fullmatch(r"\d+", text):
        raise RanksError(f"{name}={text} is no whole number")
    return int(text)


def _short(host: str) -> str:
    return host.partition(".")[0].lower()


def _is_local(address: str) -> bool:
    """Whether an address belongs to this host: only then can a socket be bound to it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
