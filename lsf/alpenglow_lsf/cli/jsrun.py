"""jsrun's stand-in: checks a step against the emulated machine, cuts it to size, starts its ranks.

jsrun -r1 -a6 -g6 -c42 -b packed:7 python -m alpenglow.train jobs/pretrain_7b.toml
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Sequence

from alpenglow_lsf.geometry import GeometryError
from alpenglow_lsf.launch import StepRun
from alpenglow_lsf.machine import Machine, MachineError, StandIn, current
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.orphans import die_with_parent
from alpenglow_lsf.ranks import compute_hosts
from alpenglow_lsf.step import JobStep
from alpenglow_lsf.tasks import LaunchError

STEP_NODES_VARIABLE = "ALPENGLOW_STEP_NODES"
"""Nodes that a step which was cut would have had; a pre-flight cuts its spare nodes likewise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a step and return its exit code; 1 where it was refused."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        machine = current()
        stand_in = machine.stand_in
        if stand_in is None:
            raise MachineError(f"this jsrun is a laptop's; machine {machine.name} has its own")
        step = JobStep.parse(words)
        if step.not_emulated:
            raise OptionError(f"jsrun: {step.not_emulated[0]} is not emulated on {machine.name}")
        return _run(step, machine, stand_in)
    except (GeometryError, LaunchError, MachineError, OptionError) as error:
        text = str(error)
        sys.stderr.write((text if text.startswith("jsrun:") else f"jsrun: {text}") + "\n")
        return 127 if isinstance(error, LaunchError) else 1


def _free_port() -> int:
    """Find a port below the range of outgoing connections; ranks listen on it seconds later."""
    for port in random.sample(range(10000, 30000), 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))  # as torch's store does: on every pretend node's address
            return port
    raise LaunchError("jsrun: none of 50 ports from 10000 to 29999 is free")


def _run(step: JobStep, machine: Machine, stand_in: StandIn) -> int:
    environ = dict(os.environ)
    if "LSB_JOBID" in environ:
        # The job's script may be killed with -9; then nobody else would end this step.
        die_with_parent(signal.SIGTERM)
    # Two checkouts on one computer have the same job ids; ports from these would meet.
    environ.setdefault("ALPENGLOW_MASTER_PORT", str(_free_port()))
    nodes = int(environ.get("ALPENGLOW_NODES_ASKED", stand_in.nodes))
    hosts = compute_hosts(environ, machine.target.reserved_hosts)
    hosts = hosts or [f"node{i + 1}" for i in range(stand_in.nodes)]
    places = step.places(machine, nodes)
    asked_nodes, asked_ranks = step.asked(machine, nodes)
    if len(places) != asked_ranks:
        used = len({p.host for p in places})
        environ[STEP_NODES_VARIABLE] = str(asked_nodes)
        sys.stderr.write(
            f"jsrun: {machine.name} stands in for {machine.target.name}: {asked_ranks} ranks on "
            f"{asked_nodes} nodes become {len(places)} ranks on {used} pretend nodes\n"
        )
        sys.stderr.flush()
    threads = min(stand_in.threads_per_task, step.request.threads())
    environ["OMP_NUM_THREADS"] = str(threads)
    # Output goes through a pipe: without this a rank's lines would come in blocks of 8 KiB.
    environ.setdefault("PYTHONUNBUFFERED", "1")
    return StepRun(step, places, hosts, environ).run()
