"""Who a rank is in its step, and who it becomes when nodes are left out.

This package does not know alpenglow_lsf, which reads more launchers in more detail; both read our
own variables first, so that what `environment` sets holds for whatever the rank becomes.
"""

from __future__ import annotations

import socket
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

OWN = ("ALPENGLOW_RANK", "ALPENGLOW_WORLD_SIZE", "ALPENGLOW_LOCAL_RANK", "ALPENGLOW_LOCAL_SIZE")
_FAMILIES = (
    OWN,
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)


class PreflightError(RuntimeError):
    """The pre-flight cannot go on; the message is one sentence."""


@dataclass(frozen=True)
class Place:
    """This rank in its step."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    host: str = ""
    address: str = ""
    """Where other nodes reach this one; the host's name unless the launcher gave an address."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Place:
        """Read the launcher's variables; one rank of one without any.

        Raises:
            PreflightError: variables that are no numbers.
        """
        host = environ.get("ALPENGLOW_HOST") or socket.gethostname()
        address = environ.get("ALPENGLOW_HOST_ADDRESS") or host
        for names in _FAMILIES:
            if all(name in environ for name in names):
                try:
                    rank, size, local_rank, local_size = (
                        int(environ[name].partition("(")[0]) for name in names
                    )
                except ValueError:
                    raise PreflightError(
                        f"{', '.join(f'{n}={environ[n]!r}' for n in names)}: no rank numbers"
                    ) from None
                return cls(rank, size, local_rank, local_size, host, address)
        jsm = [environ.get(f"JSM_NAMESPACE_{name}", "") for name in ("RANK", "SIZE", "LOCAL_RANK")]
        if all(word.isdigit() for word in jsm):
            # JSM alone (--smpiargs=off) tells no local size; resource sets are spread evenly.
            rank, size, local_rank = map(int, jsm)
            local_size = size // max(1, len(expected_hosts(environ)))
            return cls(rank, size, local_rank, local_size, host, address)
        return cls(0, 1, 0, 1, host, address)

    @property
    def nodes(self) -> int:
        """How many nodes the step runs on."""
        return -(-self.world_size // self.local_size)

    def among(self, ranks: Sequence[int]) -> Place:
        """Return this rank's place among those that go on.

        The order is kept, whatever distribution it came from: packed ranks stay packed, so that
        neighbours (a tensor-parallel group) stay on a node, and cyclic ones stay cyclic.

        Args:
            ranks: numbers of the ranks that go on, ascending; this one is among them.
        """
        return replace(self, rank=bisect_left(ranks, self.rank), world_size=len(ranks))

    def environment(self, master: str) -> dict[str, str]:
        """Variables that make a program take this place.

        Args:
            master: address of the node of rank 0.
        """
        numbers = (self.rank, self.world_size, self.local_rank, self.local_size)
        named = {name: str(number) for name, number in zip(OWN, numbers, strict=True)}
        return {**named, "ALPENGLOW_MASTER_ADDR": master}


def expected_hosts(environ: Mapping[str, str]) -> list[str]:
    """Compute hosts that LSF gave the job, in its order; empty where no list is there."""
    listing = environ.get("LSB_DJOB_HOSTFILE")
    names: list[str] = []
    if listing and Path(listing).is_file():
        names = Path(listing).read_text(encoding="utf-8").split()
    reserved = environ.get("ALPENGLOW_RESERVED_HOSTS", "batch,login").split(",")
    kept = [name for name in names if not name.startswith(tuple(filter(None, reserved)))]
    return list(dict.fromkeys(kept))


def spare_here(spare: int, nodes: int, environ: Mapping[str, str]) -> int:
    """Spare nodes of a step; fewer, in proportion, where a stand-in has cut it to fewer nodes.

    Args:
        spare: how many the script asks for.
        nodes: nodes of the step as it runs.
        environ: ALPENGLOW_STEP_NODES says how many the script's machine would have given it.
    """
    whole = int(environ.get("ALPENGLOW_STEP_NODES") or nodes)
    return spare if whole <= nodes else spare * nodes // whole
