"""The account on runs whose every ns is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.run import Run
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_analysis.utilisation import IN_STEP, PIECES, Account, account
from alpenglow_profiling.events import Kind, log_path


def made(path: Path, spec: Synthetic) -> tuple[Run, Account]:
    run = Run.load(spec.write(path / "run"))
    return run, account(run)


def plain(pipeline: int, tensor: int, data: int, micro_batches: int) -> Synthetic:
    return Synthetic(
        Layout(pipeline, tensor, data), micro_batches, (Segment(1, 6),), checkpoint_every=3
    )


@pytest.mark.parametrize(
    ("pipeline", "tensor", "data", "micro_batches"),
    [(1, 1, 1, 3), (2, 2, 2, 4), (2, 1, 1, 1), (4, 1, 2, 8), (3, 2, 1, 2)],
)
def test_every_piece_is_exact(
    tmp_path: Path, pipeline: int, tensor: int, data: int, micro_batches: int
) -> None:
    spec = plain(pipeline, tensor, data, micro_batches)
    _, got = made(tmp_path, spec)
    steps, ranks, m = 6, spec.ranks, micro_batches
    reduce = 2 * m * spec.tensor_reduce if tensor > 1 else 0
    one_bubble = (pipeline - 1) * (spec.forward + spec.backward)
    # The pipeline drains from the last stage to the first: stage s is done s backwards early.
    early = [s * spec.backward for s in range(pipeline)]
    slots = spec.nodes * spec.ranks_per_node
    # A collective of a pass on the way through the pipeline makes everybody wait.
    on_the_way = reduce // m * (pipeline - 1)
    expected = dict.fromkeys(PIECES, 0) | {
        "unused": (slots - ranks) * spec.elapsed(spec.segments[0]),
        "launch": ranks * (spec.launch + spec.shutdown),
        "startup": ranks * spec.startup,
        "checkpoint": ranks * 2 * spec.checkpoint,
        "between": ranks * steps * spec.pause,
        "data": ranks * steps * spec.data_wait,
        "bubble": steps * ranks * (one_bubble - on_the_way),
        "tensor": ranks * steps * (reduce + on_the_way),
        "gradient": ranks * steps * spec.gradient_reduce,
        "optimizer": ranks * steps * spec.optimizer,
        "compute": ranks * steps * (m * (spec.forward + spec.backward) - reduce),
    }
    # Causes come from floats of ns on clocks that are aligned to whole ns.
    assert got.pieces == pytest.approx(expected, abs=10_000)
    assert sum(got.pieces.values()) == got.charged_ns
    assert got.charged_ns == slots * spec.elapsed(spec.segments[0]) == sum(expected.values())
    assert got.step.tolist() == [1, 2, 3, 4, 5, 6]
    assert got.step_s == pytest.approx(np.full(6, spec.step / 1e9), rel=1e-12)
    # The bubble of theory is the waiting of this run, as nothing else makes its ranks wait.
    waiting = one_bubble / spec.makespan
    assert got.bubble == pytest.approx(waiting, rel=1e-12)
    assert got.step_pieces.sum(axis=1) == pytest.approx(np.full(ranks, spec.step / 1e9))
    assert got.step_pieces[-1, IN_STEP.index("optimizer")] == pytest.approx(
        (early[-1] + spec.optimizer) / 1e9
    )


def chain(**changes: float) -> Synthetic:
    """Three jobs: one whole, one killed after step 17, one that goes on from step 15."""
    spec = Synthetic(
        Layout(2, 2, 2),
        4,
        (Segment(1, 10, reason="more to do"), Segment(11, 17, killed=True), Segment(16, 24)),
        checkpoint_every=5,
    )
    return dataclasses.replace(spec, **changes)  # type: ignore[arg-type]


def test_steps_that_were_trained_again_are_lost_once(tmp_path: Path) -> None:
    spec = chain()
    run, got = made(tmp_path, spec)
    assert got.lost_steps == 2
    assert run.metrics.repeated == 2
    assert got.pieces["lost"] == 2 * spec.step * spec.ranks
    assert got.step.tolist() == list(range(1, 25))
    # The killed job's record is open: it ends with its last heartbeat, the pause after step 17.
    assert run.segments[1].estimated
    assert got.charged_ns == spec.ranks * sum(spec.elapsed(s) for s in spec.segments)
    assert sum(got.pieces.values()) == got.charged_ns
    assert got.pieces["compute"] == spec.ranks * 24 * (
        4 * (spec.forward + spec.backward) - 8 * spec.tensor_reduce
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_pieces_sum_to_the_charge_whatever_happens(tmp_path: Path, seed: int) -> None:
    spec = chain(jitter=0.2, slow_rank=3, slow_factor=1.5, seed=seed, spare_nodes=1)
    path = spec.write(tmp_path / "run")
    # A log cut in the middle, one gone, one whose clock runs 2 s ahead of the job's end.
    cut = log_path(path / "events" / "1001.0", 1)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    log_path(path / "events" / "1002.0", 5).unlink()
    record = path / "segments" / "1003.0.json"
    fields = json.loads(record.read_text())
    record.write_text(json.dumps(fields | {"ended": fields["ended"] - 4.0}))
    run = Run.load(path)
    got = account(run)
    slots = (spec.nodes + 1) * spec.ranks_per_node
    assert got.charged_ns == slots * sum(segment.elapsed_ns for segment in run.segments)
    assert sum(got.pieces.values()) == got.charged_ns
    assert all(ns >= 0 for key, ns in got.pieces.items() if key != "unexplained")
    outer = run.events["1001.0"].outer
    broken_off = int(outer["end_ns"].max() - outer["end_ns"][outer["rank"] == 1].max())
    assert broken_off > 0
    assert got.pieces["unrecorded"] == run.segments[1].elapsed_ns + broken_off
    assert got.pieces["unused"] == spec.ranks_per_node * sum(s.elapsed_ns for s in run.segments)
    assert any("rank-00001.log of n000" in damage for damage in run.damages)
    assert any("no events of 1 of 8 ranks (5)" in damage for damage in run.damages)


def test_a_slow_rank_makes_its_tensor_peer_wait(tmp_path: Path) -> None:
    spec = dataclasses.replace(plain(1, 2, 1, 4), slow_rank=1, slow_factor=1.25)
    _, got = made(tmp_path, spec)
    tensor, compute = IN_STEP.index("tensor"), IN_STEP.index("compute")
    waited = got.step_pieces[0, tensor] - got.step_pieces[1, tensor]
    assert waited == pytest.approx(4 * 0.25 * (0.090 - 2 * spec.tensor_reduce / 1e9))
    assert got.step_pieces[1, compute] - got.step_pieces[0, compute] == pytest.approx(waited)


def test_a_segment_without_events_is_charged_and_named(tmp_path: Path) -> None:
    path = chain().write(tmp_path / "run")
    for log in (path / "events" / "1001.0").iterdir():
        log.unlink()
    run = Run.load(path)
    got = account(run)
    assert got.pieces["unrecorded"] == 8 * run.segments[0].elapsed_ns
    assert sum(got.pieces.values()) == got.charged_ns
    assert "segment 1001.0 left no events" in run.damages
    assert got.step.tolist() == list(range(11, 25))


def test_the_step_that_a_kill_cut_short_is_lost_too(tmp_path: Path) -> None:
    spec = chain()
    path = spec.write(tmp_path / "run")
    for rank in range(spec.ranks):
        # Cut into the second half of the log: whole blocks only, so everything after step 14.
        log = log_path(path / "events" / "1002.0", rank)
        log.write_bytes(log.read_bytes()[:-10])
    run = Run.load(path)
    rows = run.events["1002.0"].rows
    got = account(run)
    assert sum(got.pieces.values()) == got.charged_ns
    last_whole = rows["step"][rows["kind"] == Kind.STEP].max()
    assert last_whole < 17
    assert set(got.step) == set(range(1, 25)) - set(range(int(last_whole) + 1, 16))


def test_a_segment_of_another_shape_counts_but_is_not_compared(tmp_path: Path) -> None:
    path = chain().write(tmp_path / "run")
    text = (path / "run.toml").read_text()
    (path / "run.toml").write_text(
        text.replace("data = 2", "data = 4").replace("ranks = 8", "ranks = 16")
    )
    run = Run.load(path)
    got = account(run)
    assert sum(got.pieces.values()) == got.charged_ns
    assert not len(got.step)
    assert any("ran 8 ranks, the run was laid out for 16" in damage for damage in run.damages)
