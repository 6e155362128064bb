"""Nodes whose messages between stages take longer than others'.

The transfer of a message (from the last arrival to the end) over the median of the same border in
the same step, over all replicas, tells a slow pair of nodes; a node of which most pairs are slow is
slow itself, and its partners are not. Only nodes show, as the cards of a node share its injection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.sample import Sample

LEAST = 1.3
"""A link is called slow from this factor on."""
FEW = 3
"""Replicas; with fewer there is no middle to compare with."""
WORTH = 1e-4
"""Of a step; messages that take less time than this more than others are no matter."""


@dataclass(frozen=True)
class SlowLink:
    """A node whose messages were slow for a while."""

    node: str
    factor: float
    """Transfer of its messages over that of its peers', the mean over sampled steps in between."""
    first_step: int
    last_step: int
    """Sampled steps between which it was slow."""


def slow_links(sample: Sample, nodes: Sequence[str]) -> list[SlowLink]:
    """Find nodes with slow messages, the slowest first.

    Args:
        sample: the steps.
        nodes: host of each rank.
    """
    layout = sample.layout
    if layout.pipeline == 1 or layout.data < FEW:
        return []
    by_node: dict[str, list[npt.NDArray[np.float64]]] = defaultdict(list)
    for border in range(layout.pipeline - 1):
        both = (sample.down[:, border] + sample.up[:, border]).mean(axis=-1)  # [n, D]
        crossing = np.zeros(layout.data, bool)
        ends = []
        for replica in range(layout.data):
            pair = [nodes[layout.rank(border + side, replica, 0)] for side in (0, 1)]
            crossing[replica] = pair[0] != pair[1]
            ends.append(pair)
        if crossing.sum() < FEW:
            continue
        middle = np.median(both[:, crossing], axis=1, keepdims=True)
        ratio = np.divide(both, middle, out=np.ones_like(both), where=middle > 0)
        more = sample.micro_batches * (both - middle)
        ratio[more < WORTH * sample.duration[:, None]] = 1.0
        for replica in np.flatnonzero(crossing).tolist():
            for node in ends[replica]:
                by_node[node].append(ratio[:, replica])
    found = []
    for node, ratios in by_node.items():
        if node == "unknown":
            continue
        # Of a slow node all pairs are slow; of its partner one is, among others that are not.
        least = np.min(ratios, axis=0)
        slow = least > LEAST
        if slow.sum() >= min(3, len(slow)) and len(slow):
            steps = sample.step[slow]
            found.append(SlowLink(node, float(least[slow].mean()), int(steps[0]), int(steps[-1])))
    return sorted(_without_partners(found, sample, nodes), key=lambda link: -link.factor)


def _without_partners(
    found: list[SlowLink], sample: Sample, nodes: Sequence[str]
) -> list[SlowLink]:
    """Leave out nodes all of whose partners are slow too while those have partners that are not."""
    layout = sample.layout
    partners: dict[str, set[str]] = defaultdict(set)
    for border in range(layout.pipeline - 1):
        for replica in range(layout.data):
            one, other = (nodes[layout.rank(border + side, replica, 0)] for side in (0, 1))
            if one != other:
                partners[one].add(other)
                partners[other].add(one)
    names = {link.node for link in found}
    kept = []
    for link in found:
        mine = partners[link.node]
        blamed = [other for other in mine if other in names and len(partners[other]) > len(mine)]
        if not blamed:
            kept.append(link)
    return kept
