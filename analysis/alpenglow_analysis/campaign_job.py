"""One job of a campaign: what it asks the scheduler for, by the rules of the machine's queues."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alpenglow_analysis.facts_table import some
from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.machine import Bin, Machine, Queue
from alpenglow_lsf.validate import check_job


class CampaignError(ValueError):
    """A campaign that cannot be; the message is one sentence with the nearest that works."""


@dataclass(frozen=True)
class Job:
    """What each job of the chain asks the scheduler for."""

    nodes: int
    """Nodes asked for and charged, spare ones included."""
    walltime_s: float
    gpus_per_node: int
    machine: str
    queue: str
    bin: Bin | None = None
    spare: int = 0
    """Nodes among them that train nothing until another one fails."""

    def __post_init__(self) -> None:
        if not 0 <= self.spare < self.nodes:
            raise CampaignError(
                f"{self.spare:,} spare nodes of {self.nodes:,} leave none to train: at most "
                f"{self.nodes - 1:,} can be spare"
            )
        if not (math.isfinite(self.walltime_s) and self.walltime_s > 0):
            raise CampaignError(f"a walltime of {self.walltime_s / 3600:g} h: it must be above 0")

    @property
    def training(self) -> int:
        """Nodes that train."""
        return self.nodes - self.spare

    @property
    def gpus(self) -> int:
        """GPUs that train (ranks, where a node has none)."""
        return self.training * max(1, self.gpus_per_node)

    @classmethod
    def of(
        cls,
        machine: Machine,
        nodes: int,
        *,
        hours: float | None = None,
        queue: str | None = None,
        spare: int = 0,
    ) -> Job:
        """A job on a machine, by the rules that `alpenglow jobs check` has.

        Args:
            machine: a machine file.
            nodes: nodes asked for.
            hours: walltime; None takes the longest of the bin.
            queue: None takes the machine's default.
            spare: nodes among them that are spare.

        Raises:
            CampaignError: the site would refuse the job; says the nearest that it takes.
            MachineError: the file of the queue's own nodes is not usable.
        """
        name = machine.queue_name(queue)
        found = machine.queue(name)
        held = None if found is None else found.bin(nodes)
        if hours is not None and not (math.isfinite(hours) and hours > 0):
            raise CampaignError(f"a walltime of {hours:g} h: it must be above 0")
        minutes = None if hours is None else math.ceil(60 * hours)
        for finding in check_job(JobSpec(queue=name, nodes=nodes, walltime=minutes or 1), machine):
            cure = finding.cure if found is None else _nearest(found, nodes, hours)
            raise CampaignError(f"{finding.message}; {cure}")
        if found is None or held is None:  # check_job has found it
            raise CampaignError(f"{machine.target.name} has no place for {nodes:,} nodes")
        if not found.chains:
            allowed = ", ".join(q.name for q in machine.target.queues if q.chains) or "none"
            raise CampaignError(
                f"queue {name} of {machine.target.name} forbids chains of jobs, and a campaign is "
                f"one; queues that allow them: {allowed}"
            )
        of_queue = machine.of_queue(queue)
        return cls(
            nodes=nodes,
            walltime_s=3600 * (held.hours if hours is None else hours),
            gpus_per_node=of_queue.compute.gpus,
            machine=machine.target.name,
            queue=name,
            bin=held,
            spare=spare,
        )


def _nearest(queue: Queue, nodes: int, hours: float | None) -> str:
    """The nearest request that a queue takes, in words."""
    held = queue.bin(nodes)
    if held is None:
        ends = [end for b in queue.bins for end in b.nodes]
        best = min(ends, key=lambda end: abs(end - nodes))
        found = queue.bin(best)
        return f"the nearest is {some(best, 'node')}, for up to {found.hours if found else 0:g} h"
    longer = [b.nodes[0] for b in queue.bins if b.hours >= (hours or 0.0)]
    enough = min(longer, key=lambda n: abs(n - nodes), default=0)
    more = f", or {some(enough, 'node')}" if enough else ""
    return f"the nearest is {held.hours:g} h{more}"
