"""The nodes of a segment, for its record: asked, used, spare, charged, and which they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alpenglow_lsf.flight import Flight
from alpenglow_lsf.machine import Machine
from alpenglow_lsf.ranks import compute_hosts
from alpenglow_lsf.srun import find_step


def planned(command: Sequence[str], machine: Machine, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the nodes that a command is to run on, before any pre-flight.

    Args:
        command: of the step; its options are read where it is a jsrun or srun line.
        machine: where it runs.
        environ: names the hosts of the job.

    Raises:
        GeometryError: the machine cannot hold the step.
        OptionError: the command line cannot be read.
    """
    hosts = compute_hosts(environ, machine.target.reserved_hosts)
    asked = int(environ.get("ALPENGLOW_NODES_ASKED") or len(hosts) or 1)
    stand_in = machine.stand_in
    step = find_step(command)
    places = [] if step is None else step.places(machine, asked)
    used = sorted({place.host for place in places})
    return {
        "nodes_asked": asked,
        "nodes_used": len(used),
        "nodes_spare": 0,
        # Whole nodes that the job holds; a stand-in holds no more than it has.
        "nodes_charged": asked if stand_in is None else min(asked, stand_in.nodes),
        "ranks": len(places) or 1,
        "hosts": [hosts[i] for i in used if i < len(hosts)],
        "left_out": [],
    }


def chosen(flight: Flight, before: int) -> dict[str, Any]:
    """Return the nodes that a pre-flight has chosen out of `before`."""
    return {
        "nodes_used": len(flight.hosts),
        "nodes_spare": max(0, before - len(flight.hosts)),
        "ranks": flight.ranks,
        "hosts": list(flight.hosts),
        "left_out": list(flight.left_out),
    }
