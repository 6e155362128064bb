"""What became of simulated campaigns: days, node-hours, and where the node-hours went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.campaign import Campaign
from alpenglow_analysis.utilisation import PIECES as ACCOUNT

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

STEPS = "steps"
PIECES: dict[str, str] = {
    **{
        name: ACCOUNT[name]
        for name in (
            "unused", "launch", "startup", "restart", "lost", "checkpoint", "evaluate",
            "slow_ranks",
        )
    },
    STEPS: "Steps that count",
}  # fmt: skip
"""Pieces of the charge in the report's words and order; `steps` is there divided further."""

PERCENTILES = (10, 50, 90)

DEFINITIONS = {
    "effective_training_time": (
        "Effective training time (MegaScale)",
        "iterations x iteration time / time of the jobs, queue left out (Jiang et al. 2024, "
        "MegaScale, arXiv 2402.15627, which reports over 90 %)",
    ),
    "ettr": (
        "Effective training time ratio, ETTR (Meta)",
        "productive time / (time of the jobs + time in the queue), evaluation not productive "
        "(Kokolis et al., HPCA 2025, arXiv 2410.21680)",
    ),
}
"""Name and definition, with its source."""


@dataclass(frozen=True)
class Outcome:
    """Simulated campaigns; arrays are [campaigns]."""

    campaign: Campaign
    wait_ns: Ints
    """In the queue, all jobs of a campaign together."""
    elapsed_ns: Ints
    """Of its jobs together."""
    pieces: dict[str, Ints]
    """ns of jobs by piece, `unused` left out; they sum to `elapsed_ns` exactly."""
    segments: Ints
    """Jobs."""
    failures: Ints
    relaunches: Ints
    """Failures that were gone over within the allocation."""
    killed: Ints
    """Jobs that the walltime cut before their last checkpoint was durable."""
    lost_steps: Ints
    """Whole steps that were trained again."""
    step_ns: Ints
    """What a step takes with no slow node."""

    def __len__(self) -> int:
        """Campaigns."""
        return len(self.elapsed_ns)

    @classmethod
    def empty(cls, campaign: Campaign, count: int, step_ns: Ints) -> Outcome:
        """Campaigns in which nothing has happened yet."""
        wait, elapsed, segments, failures, relaunches, killed, lost = np.zeros((7, count), np.int64)
        pieces = {name: np.zeros(count, np.int64) for name in PIECES if name != "unused"}
        return cls(
            campaign, wait, elapsed, pieces, segments, failures, relaunches, killed, lost, step_ns
        )

    @classmethod
    def joined(cls, campaign: Campaign, parts: Sequence[Outcome]) -> Outcome:
        """Outcomes of the same plan behind one another."""

        def column(name: str) -> Ints:
            return np.concatenate([getattr(part, name) for part in parts])

        pieces = {
            name: np.concatenate([part.pieces[name] for part in parts]) for name in parts[0].pieces
        }
        return cls(
            campaign, column("wait_ns"), column("elapsed_ns"), pieces, column("segments"),
            column("failures"), column("relaunches"), column("killed"), column("lost_steps"),
            column("step_ns"),
        )  # fmt: skip

    @property
    def days(self) -> Floats:
        """Calendar days from the first submission to the end."""
        return np.asarray((self.wait_ns + self.elapsed_ns) / 8.64e13)

    @property
    def queue_days(self) -> Floats:
        """Days of them in the queue."""
        return np.asarray(self.wait_ns / 8.64e13)

    @property
    def node_hours(self) -> Floats:
        """Charged: nodes asked for x elapsed time."""
        return np.asarray(self.campaign.job.nodes * (self.elapsed_ns / 3.6e12))

    @property
    def dollars(self) -> Floats | None:
        """None where no price is known."""
        price = self.campaign.price
        return None if price is None else self.node_hours * price

    @property
    def mwh(self) -> Floats | None:
        """Energy of the charged nodes; None where their power is unknown."""
        watts = self.campaign.node_watts
        return None if watts is None else self.node_hours * watts / 1e6

    @property
    def effective_training_time(self) -> Floats:
        """See DEFINITIONS."""
        return np.asarray(self.pieces[STEPS] / self.elapsed_ns)

    @property
    def ettr(self) -> Floats:
        """See DEFINITIONS."""
        productive = self.pieces[STEPS] + self.pieces["slow_ranks"]
        return np.asarray(productive / (self.elapsed_ns + self.wait_ns))

    @property
    def failed_jobs(self) -> Ints:
        """Jobs that failed: what a chain's `--restarts` must allow."""
        return self.failures - self.relaunches

    def node_ns(self) -> dict[str, Ints]:
        """Node-ns of each campaign by piece; they sum to nodes asked x elapsed ns exactly.

        Held as Python integers where int64 would not hold them.
        """
        job = self.campaign.job
        wide = {name: ns.astype(object) * job.training for name, ns in self.pieces.items()}
        return {"unused": self.elapsed_ns.astype(object) * job.spare, **wide}

    def split(self) -> dict[str, float]:
        """Mean node-hours by piece, in the order of PIECES."""
        job = self.campaign.job
        mean = {name: job.training * float(ns.mean()) / 3.6e12 for name, ns in self.pieces.items()}
        mean["unused"] = job.spare * float(self.elapsed_ns.mean()) / 3.6e12
        return {name: mean[name] for name in PIECES}


def percentiles(values: Floats | Ints) -> tuple[float, ...]:
    """The values below which 10, 50 and 90 % of campaigns lie."""
    return tuple(float(v) for v in np.percentile(values, PERCENTILES))
