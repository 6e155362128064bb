"""How much longer steps take than they would if all ranks were alike, and who is to blame.

After Lin et al. 2025 (OSDI'25, "Understanding Stragglers in Large Model Training Using What-if
Analysis"): the slowdown S = T actual / T ideal, where the ideal step is the recorded one played
again with each pass as long as the mean of its kind and each transfer as long as the median of its
kind. The schedule's own bubble is in both. T actual is the replay of the step as recorded, so that
what no replay explains is in neither. What a stage is to blame for is the share of the slowdown
that is left when it alone stays as it was and all others are ideal. What a node is to blame for is
what it adds, as it was, to steps in which each pass takes what it does in the middle replica, as a
share of what all add to them: that some stages have more work than others is no fault of nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.episodes import Episode
from alpenglow_analysis.heat import Heat
from alpenglow_analysis.replayed import Lengths, played, recorded
from alpenglow_analysis.sample import Sample

MOST_BLAMED = 16
"""Nodes and ranks whose blame is replayed, those first that computed longest beside their peers."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Blame:
    """What one node or rank is to blame for."""

    where: str
    ranks: tuple[int, ...]
    stages: tuple[int, ...]
    factor: float
    """Its compute over that of its peers, in the sampled steps."""
    slowdown: float
    """Of the sampled steps with it alone as it was, over those with it like its peers."""
    share: float
    """Of what all ranks and transfers add to such steps."""


@dataclass(frozen=True)
class Straggling:
    """The slowdown of sampled steps and where it comes from."""

    slowdown: float
    """S over the steps that the sample stands for."""
    step: npt.NDArray[np.int64]
    by_step: Floats
    """[n]: S of each sampled step."""
    by_stage: tuple[float, ...]
    """[S]: share of S - 1 that is left with this stage alone as it was; they need not sum to 1."""
    transfers: float
    """Share of S - 1 that is left with the transfers alone as they were."""
    nodes: tuple[Blame, ...]
    """By what they are to blame for, the most first."""
    episodes: tuple[Episode, ...]
    """Slow spells over all steps."""

    @property
    def wasted(self) -> float:
        """Share of the sampled steps' time that stragglers cost: 1 - 1 / S."""
        return 1 - 1 / self.slowdown if self.slowdown > 0 else 0.0


def stragglers(
    sample: Sample, heat: Heat | None, episodes: Sequence[Episode] = ()
) -> Straggling | None:
    """Find the slowdown and its causes; None where no step was sampled."""
    if not len(sample):
        return None
    weight = sample.weight
    actual, perfect = recorded(sample), ideal(sample)
    took, best = played(actual), played(perfect)
    excess = float(weight @ (took - best))
    whole = float(weight @ best)

    def left(lengths: Lengths) -> float:
        gain = float(weight @ (played(lengths) - best))
        return gain / excess if excess > 0 else 0.0

    by_stage = []
    for stage in range(sample.layout.pipeline):
        passes = perfect.passes.copy()
        passes[:, stage] = actual.passes[:, stage]
        by_stage.append(left(replace(perfect, passes=passes)))
    moved = replace(actual, passes=perfect.passes)
    # The lower median of the replicas: half of a stage may be slow and still be told from the rest.
    of_replica = np.sort(actual.passes.mean(axis=4, keepdims=True), axis=2)
    middle = (sample.layout.data - 1) // 2
    peers = np.broadcast_to(of_replica[:, :, middle : middle + 1], actual.passes.shape)
    level = float(weight @ played(replace(perfect, passes=peers)))
    blamed = []
    for where, ranks, factor in _suspects(sample, heat):
        passes = peers.copy()
        places = [sample.layout.coordinates(rank) for rank in ranks]
        for stage, data, _ in places:
            passes[:, stage, data] = actual.passes[:, stage, data]
        alone = float(weight @ played(replace(perfect, passes=passes)))
        beyond = float(weight @ took) - level
        share = max(0.0, alone - level) / beyond if beyond > 0 else 0.0
        stages = tuple(sorted({stage for stage, _, _ in places}))
        blamed.append(Blame(where, tuple(ranks), stages, factor, alone / level, share))
    blamed.sort(key=lambda blame: -blame.share)
    return Straggling(
        slowdown=float(weight @ took) / whole,
        step=sample.step,
        by_step=took / best,
        by_stage=tuple(by_stage),
        transfers=left(moved),
        nodes=tuple(blamed),
        episodes=tuple(episodes),
    )


def ideal(sample: Sample) -> Lengths:
    """Lengths with all ranks alike: passes the mean of their kind, transfers the median."""
    own = (sample.own + sample.recompute).mean(axis=(1, 2, 3, 5), keepdims=True)[:, :, :, 0]

    def median(values: Floats) -> Floats:
        axes = tuple(range(1, values.ndim))
        if not values.size:
            return values
        return np.broadcast_to(np.median(values, axis=axes, keepdims=True), values.shape)

    actual = recorded(sample)
    # Messages within a node and between nodes are two kinds: each border keeps its own median.
    return replace(
        actual,
        passes=np.broadcast_to(own, sample.joint.shape),
        tensor=np.broadcast_to(
            np.median(sample.tensor, axis=(1, 2, 4), keepdims=True), sample.tensor.shape
        ),
        down=_by_border(actual.down),
        up=_by_border(actual.up),
        load=np.zeros_like(actual.load),
        head=np.zeros_like(actual.head),
        gradient=median(actual.gradient),
        optimizer=median(actual.optimizer),
    )


def _by_border(values: Floats) -> Floats:
    """[n, S - 1, D, M]: the median of each pair of stages."""
    if not values.size:
        return values
    return np.broadcast_to(np.median(values, axis=(2, 3), keepdims=True), values.shape)


def _suspects(sample: Sample, heat: Heat | None) -> list[tuple[str, list[int], float]]:
    """Nodes (ranks of unknown ones) that computed longest beside the ranks of their stage."""
    layout = sample.layout
    busy = np.average(sample.busy, axis=0, weights=sample.weight)
    relative = busy / np.maximum(np.median(busy, axis=(1, 2), keepdims=True), 1)
    of_rank = np.array([relative[layout.coordinates(rank)] for rank in range(layout.world)])
    groups: dict[str, list[int]] = {}
    for rank in range(layout.world):
        node = "unknown" if heat is None else heat.nodes[rank]
        groups.setdefault(f"rank {rank}" if node == "unknown" else node, []).append(rank)
    found = [(where, ranks, float(of_rank[ranks].mean())) for where, ranks in groups.items()]
    for where, ranks in groups.items():
        # One rank that is far slower than its node is a suspect by itself.
        for rank in ranks if len(ranks) > 1 else ():
            if of_rank[rank] > 1.02 and of_rank[rank] - 1 > 2 * (of_rank[ranks].mean() - 1):
                found.append((f"rank {rank} on {where}", [rank], float(of_rank[rank])))
    found.sort(key=lambda one: -one[2])
    return found[:MOST_BLAMED]
