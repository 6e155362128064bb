"""The benchmark of the recorder does what it says, and stays within what the README claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alpenglow_profiling.bench import (
    MICRO_BATCHES,
    StageStep,
    median_interval,
    row_sizes,
    span_cost,
    step_share,
)
from alpenglow_profiling.events import Kind, NullRecorder, Recorder, SpanRecorder, read


def test_a_span_is_cheap_and_a_row_small(tmp_path: Path) -> None:
    with Recorder(tmp_path / "cost", 0, "h", world_size=1) as recorder:
        # Measured at 1.4 us; the bound leaves room for a busy machine.
        assert span_cost(recorder, 50_000) < 15e-6
    size = row_sizes(tmp_path / "size", 150)
    assert size["log"] < 41.5
    assert size["spans"] < 10
    assert size["sums"] < 5


def test_the_share_of_a_step_is_measured_in_pairs(tmp_path: Path) -> None:
    asked = []

    def step(recorder: SpanRecorder) -> None:
        asked.append(type(recorder))
        with recorder.span(Kind.STEP), recorder.span(Kind.FORWARD):
            pass

    with Recorder(tmp_path, 0, "h", world_size=1) as recorder:
        without, ratios, loads = step_share(step, recorder, 10)
    assert len(without) == len(ratios) == len(loads) == 10
    pairs = list(zip(asked[::2], asked[1::2], strict=True))
    assert {*pairs} == {(Recorder, NullRecorder), (NullRecorder, Recorder)}
    assert np.count_nonzero(read(tmp_path).outer["kind"] == Kind.STEP) == 12
    assert median_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    middle, low, high = median_interval(range(101))
    assert (middle, low, high) == (50, 40, 60)


def test_a_real_step_has_its_spans(tmp_path: Path) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1) as recorder:
        recorder.step = 1
        StageStep("cpu", 16, 4)(recorder)
    events_of = read(tmp_path)
    assert len(events_of.rows) == 3 + 6 * MICRO_BATCHES
    assert events_of.sums.own_ns.sum() == np.diff(events_of.extent or (0, 0))
