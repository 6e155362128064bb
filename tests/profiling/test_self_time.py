"""Self-time of spans against a count of single ns."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow_profiling.events import ROW, Kind, Rows
from alpenglow_profiling.self_time import covered, self_times

INTERVALS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 20), st.booleans()), min_size=1, max_size=12
)


def table(spans: list[tuple[int, int, Kind]]) -> Rows:
    rows = [(0, 1, int(kind), -1, begin, end, -1, -1, -1) for begin, end, kind in spans]
    return np.array(rows, dtype=ROW)


def counted(rows: Rows) -> list[int]:
    """Who has each ns, one by one: the latest begun of the open spans, drains behind all."""
    own = [0] * len(rows)
    for now in range(int(rows["begin_ns"].min()), int(rows["end_ns"].max())):
        best = None
        for i, row in enumerate(rows):
            if row["begin_ns"] <= now < row["end_ns"]:
                key = (row["kind"] != Kind.DRAIN, i if row["kind"] != Kind.DRAIN else -i)
                if best is None or key > best[0]:
                    best = (key, i)
        if best is not None:
            own[best[1]] += 1
    return own


@settings(max_examples=300, deadline=None)
@given(INTERVALS)
def test_every_moment_is_counted_once(intervals: list[tuple[int, int, bool]]) -> None:
    rows = table([(b, b + n, Kind.DRAIN if drain else Kind.FORWARD) for b, n, drain in intervals])
    rows, own = self_times(rows)
    expected = counted(rows)
    fronts = rows["kind"] != Kind.DRAIN
    assert own[fronts].tolist() == [n for n, front in zip(expected, fronts, strict=True) if front]
    assert own[~fronts].sum() == sum(n for n, f in zip(expected, fronts, strict=True) if not f)
    assert own.min() >= 0


def test_a_collective_is_taken_from_the_pass_around_it() -> None:
    rows, own = self_times(
        table(
            [
                (0, 100, Kind.STEP),
                (10, 50, Kind.FORWARD),
                (20, 25, Kind.TENSOR_REDUCE),
                (30, 35, Kind.TENSOR_REDUCE),
                (50, 90, Kind.BACKWARD),
            ]
        )
    )
    assert dict(zip(rows["begin_ns"].tolist(), own.tolist(), strict=True)) == {
        0: 20,
        10: 30,
        20: 5,
        30: 5,
        50: 40,
    }


def test_a_drain_beside_training_costs_nothing() -> None:
    _, own = self_times(table([(0, 100, Kind.STEP), (90, 130, Kind.DRAIN)]))
    assert own.tolist() == [100, 30]


def test_rows_inside_steps_are_found() -> None:
    steps = table([(100, 200, Kind.STEP), (210, 300, Kind.STEP)])
    rows = table([(n, n + 5, Kind.P2P) for n in (95, 100, 199, 200, 205, 210, 299, 300)])
    assert covered(rows, steps).tolist() == [False, True, True, False, False, True, True, False]
    assert not covered(rows, steps[:0]).any()
