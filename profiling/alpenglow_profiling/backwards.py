"""Spans that end before they begin: a clock that ran backwards, or damaged rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alpenglow_profiling.kind import Rows

_NAMED = 3


def without_backwards(rows: Rows, nodes: Mapping[int, str]) -> tuple[Rows, tuple[str, ...]]:
    """Leave out the spans that end before they begin.

    Args:
        rows: spans of any ranks.
        nodes: rank to host name.

    Returns:
        The other rows (the very same array where none is left out), and a sentence for each node
        that had such spans; beyond a few nodes one sentence for all of the others.
    """
    wrong = rows["end_ns"] < rows["begin_ns"]
    if not wrong.any():
        return rows, ()
    ranks, counts = np.unique(rows["rank"][wrong], return_counts=True)
    by_node: dict[str, int] = {}
    for rank, count in zip(ranks.tolist(), counts.tolist(), strict=True):
        node = nodes.get(rank, f"an unknown node (rank {rank})")
        by_node[node] = by_node.get(node, 0) + count
    worst = sorted(by_node.items(), key=lambda item: (-item[1], item[0]))
    why = "end before they begin (a clock that ran backwards, or damaged rows): left out"
    sentences = [f"{node}: {count:,} spans {why}" for node, count in worst[:_NAMED]]
    if rest := worst[_NAMED:]:
        total = sum(count for _, count in rest)
        sentences.append(f"{len(rest)} more nodes: {total:,} spans {why}")
    return rows[~wrong], tuple(sentences)
