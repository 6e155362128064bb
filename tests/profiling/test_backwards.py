"""Spans that end before they begin are left out, and the nodes that have them named."""

from __future__ import annotations

from typing import Any

import numpy as np

from alpenglow_profiling.backwards import without_backwards
from alpenglow_profiling.kind import ROW


def test_spans_that_run_backwards_are_left_out_by_node() -> None:
    rows: Any = np.zeros(12, ROW)
    rows["rank"] = [0, 1, 2, 3, 4, 5] * 2
    rows["begin_ns"], rows["end_ns"] = 10, 20
    nodes = {rank: f"h{rank // 2}" for rank in range(5)}
    kept, told = without_backwards(rows, nodes)
    assert kept is rows and told == ()
    rows["end_ns"][[0, 1, 2, 6, 10]] = 9
    kept, told = without_backwards(rows, nodes)
    assert kept["rank"].tolist() == [3, 4, 5, 1, 2, 3, 5]
    assert [sentence.split(" end ")[0] for sentence in told] == [
        "h0: 3 spans",
        "h1: 1 spans",
        "h2: 1 spans",
    ]
    rows["end_ns"][[5, 11]] = 9
    told = without_backwards(rows, nodes)[1]
    assert len(told) == 4
    assert "an unknown node (rank 5): 2 spans" in told[1]
    assert told[3].startswith("1 more nodes: 1 spans end before they begin")
