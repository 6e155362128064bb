"""Sums made beside training against those made from the rows, and which steps' spans are kept."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow_profiling.events import ROW, Kind, Recorder, read
from alpenglow_profiling.kind import OUTER, SUM, Sums
from alpenglow_profiling.log import read_log
from alpenglow_profiling.sampling import FEWEST, FIRST, StepSampling
from alpenglow_profiling.self_time import sums
from alpenglow_profiling.step_sums import Span, pack, step_sums

SPANS = st.lists(
    st.tuples(
        st.integers(1, 2), st.sampled_from(Kind), st.integers(0, 30), st.integers(0, 20),
        st.sampled_from([-1, 0, 7]),
    ),
    max_size=10,
)  # fmt: skip


def as_spans(drawn: list[tuple[int, Kind, int, int, int]]) -> list[Span]:
    return [(s, int(k), -1, begin, begin + n, nbytes, -1, -1) for s, k, begin, n, nbytes in drawn]


def nested(dice: random.Random, begin: int, end: int, depth: int) -> list[Span]:
    """Spans inside each other as a program leaves them: the inner ones first."""
    found: list[Span] = []
    at = begin
    while at < end and dice.random() < 0.8:
        start = dice.randint(at, end)
        stop = dice.randint(start, end)
        if depth:
            found += nested(dice, start, stop, depth - 1)
        kind = dice.choice([k for k in Kind if k is not Kind.STEP])
        found.append((1, int(kind), -1, start, stop, dice.choice([-1, 5]), -1, -1))
        at = stop
    return found


@settings(max_examples=400, deadline=None)
@given(SPANS)
def test_any_spans_give_the_sums_of_their_rows(
    drawn: list[tuple[int, Kind, int, int, int]],
) -> None:
    spans = as_spans(drawn)
    mine = np.frombuffer(step_sums(3, spans), SUM)
    assert mine.tolist() == sums(np.frombuffer(pack(3, spans), ROW)).tolist()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6))
def test_nested_spans_give_the_sums_of_their_rows(seed: int) -> None:
    spans = nested(random.Random(seed), 0, 1000, 3)
    spans.append((1, int(Kind.STEP), -1, 0, 1000, -1, -1, -1))
    mine = np.frombuffer(step_sums(3, spans), SUM)
    assert mine.tolist() == sums(np.frombuffer(pack(3, spans), ROW)).tolist()


def play(recorder: Recorder, step: int, *, work: bool = True) -> None:
    """One step as a trainer records it, with what lies between it and the next."""
    recorder.step = step
    with recorder.span(Kind.STEP):
        for micro_batch in range(2):
            with recorder.span(Kind.FORWARD, micro_batch=micro_batch):
                with recorder.span(Kind.TENSOR_REDUCE, bytes=4096, group=1):
                    sum(range(200 if work else 0))
                with recorder.span(Kind.TENSOR_REDUCE, bytes=4096, group=1):
                    pass
        begin = time.monotonic_ns()
        recorder.record(Kind.P2P, begin, time.monotonic_ns(), bytes=9, peer=1)
    if step % 3 == 0:
        with recorder.span(Kind.EVALUATE), recorder.span(Kind.FORWARD):
            pass


def by_step(table: Sums) -> list[tuple[int, ...]]:
    return sorted(table[table["count"] > 0].tolist(), key=lambda row: (row[1], row[2]))


def test_a_recorder_writes_the_sums_of_its_spans(tmp_path: Path) -> None:
    """Every step's spans are kept here, so that its sums can be made from them."""
    with Recorder(tmp_path, 2, "h", world_size=3, flush_seconds=0.001) as recorder:
        drain = threading.Thread(target=lambda: drained(recorder))
        recorder.step = 1
        drain.start()
        for step in range(1, 101):
            play(recorder, step)
        drain.join()
    log = read_log(recorder.path)
    assert by_step(log.sums) == by_step(sums(log.rows))
    assert Kind.DRAIN not in log.sums["kind"]
    assert np.count_nonzero(log.rows["kind"] == Kind.DRAIN) == 1
    events = read(tmp_path)
    steps = events.outer[events.outer["kind"] == Kind.STEP]
    lengths = steps["end_ns"] - steps["begin_ns"]
    assert (events.sums.own_ns[:, 2].sum(axis=1) == lengths).all()
    assert (events.sums.own_ns[:, 2] >= 0).all()
    # A forward pass inside an evaluation is none of the step's.
    assert (events.sums.count[:, 2, events.sums.kinds.index(Kind.FORWARD)] == 2).all()


def drained(recorder: Recorder) -> None:
    with recorder.span(Kind.DRAIN, bytes=1):
        time.sleep(0.01)


def test_spans_of_some_steps_and_sums_of_all(tmp_path: Path) -> None:
    """Nothing of a step but the number decides here: lengths are given."""
    with Recorder(tmp_path, 0, "h", world_size=1, sample_every=7, flush_seconds=60) as recorder:
        for step in range(1, 51):
            recorder.step, now = step, step * 1000
            length = {30: 400}.get(step, 100)
            recorder.record(Kind.FORWARD, now + 10, now + 60, micro_batch=0)
            recorder.record(Kind.STEP, now, now + length)
            if step % 10 == 0:
                recorder.record(Kind.CHECKPOINT, now + 500, now + 700)
            if step % 4 == 0:
                recorder.flush()
    events = read(tmp_path)
    assert events.sample_every == 7
    regular = {7, 14, 21, 28, 35, 42, 49}
    assert set(events.kept.tolist()) == {1, 2, 29, 30, 31} | regular
    assert events.spans([30])["kind"].tolist() == [Kind.STEP, Kind.FORWARD, Kind.CHECKPOINT]
    assert events.sums.step.tolist() == list(range(1, 51))
    assert (events.sums.own(Kind.FORWARD) == 50).all()
    own = events.sums.own(Kind.STEP)[:, 0].tolist()
    assert own == [350 if step == 30 else 50 for step in range(1, 51)]
    assert np.count_nonzero(events.outer["kind"] == Kind.STEP) == 50
    assert np.count_nonzero(events.outer["kind"] == Kind.CHECKPOINT) == 5


def test_a_step_that_breaks_off_is_kept(tmp_path: Path) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1, sample_every=1000) as recorder:
        for step in range(1, 9):
            play(recorder, step)
        recorder.step = 9
        with pytest.raises(RuntimeError), recorder.span(Kind.STEP):
            with recorder.span(Kind.BACKWARD):
                pass
            raise RuntimeError("gradients")
    events = read(tmp_path)
    assert 9 in events.kept
    assert 8 in events.kept
    assert {int(kind) for kind in events.spans([9])["kind"]} == {Kind.STEP, Kind.BACKWARD}


def test_a_step_done_twice_counts_twice(tmp_path: Path) -> None:
    """After going back to a checkpoint a segment has the same numbers again."""
    with Recorder(tmp_path, 0, "h", world_size=1, sample_every=2) as recorder:
        for step in (1, 2, 3, 4, 3, 4, 5):
            recorder.step = step
            recorder.record(Kind.STEP, step * 100, step * 100 + 10)
            recorder.flush()
    sums_of = read(tmp_path).sums
    assert sums_of.own(Kind.STEP)[:, 0].tolist() == [10, 10, 20, 20, 10]


def test_the_sampling_of_steps() -> None:
    sampling = StepSampling(10)
    said = [sampling.look(step, 100) for step in range(101, 131)]
    first = [True] * FIRST
    assert [keep for keep, _ in said] == first + [s % 10 == 0 for s in range(101 + FIRST, 131)]
    assert not any(before for _, before in said)
    assert sampling.look(131, 151) == (True, True)
    assert sampling.look(132, 100) == (True, False)
    assert sampling.look(133, 149) == (False, False)
    # A run whose steps are slower from now on is not unlike for ever.
    assert not all(sampling.look(step, 300)[1] for step in range(134, 170))
    early = StepSampling(1000)
    assert not any(early.look(step, 10**step)[1] for step in range(1, FEWEST + 1))
    with pytest.raises(ValueError, match="at least 1"):
        StepSampling(0)


def test_outer_kinds_are_those_of_the_format() -> None:
    assert {kind.label for kind in OUTER} == {
        "startup", "restart", "checkpoint", "drain", "evaluate", "step",
    }  # fmt: skip
