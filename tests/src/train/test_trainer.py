"""One segment: where its time is recorded, what fp16 does to it, what it leaves."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from training_ranks import losses, metrics, tiny_recipe, train

from alpenglow.parallel.schedule import Action, one_forward_one_backward
from alpenglow.train.learning_rate import CosineSchedule
from alpenglow_profiling.events import Kind, Rows, read
from alpenglow_profiling.kind import ACTIVATION, GRADIENT
from alpenglow_profiling.self_time import sums

pytestmark = pytest.mark.distributed


def rows_of(rows: Rows, kind: Kind) -> Rows:
    chosen: Rows = rows[rows["kind"] == kind]
    return chosen


def test_every_instruction_of_the_schedule_is_recorded(tmp_path: Path) -> None:
    """pipeline 2 x tensor 2 with recompute: counts, micro-batches, bytes and peers of one step."""
    recipe = tiny_recipe(
        2,
        2,
        parallel={"slice_transfers": False},
        train={"recompute": "full", "checkpoint_every": 4},
    )
    (segment,) = {rank["segment"] for rank in train(recipe, 4, tmp_path)}
    segment_events = read(tmp_path / "events" / segment)
    events = segment_events.rows
    activation = 4 * 16 * 32 * 4  # micro-batch x length x hidden x fp32
    wanted = {
        Action.load: Kind.DATA_WAIT,
        Action.forward: Kind.FORWARD,
        Action.backward: Kind.BACKWARD,
        Action.send_activation: Kind.P2P,
        Action.receive_activation: Kind.P2P,
        Action.send_gradient: Kind.P2P,
        Action.receive_gradient: Kind.P2P,
        Action.optimizer: Kind.OPTIMIZER,
    }
    for rank in range(4):
        step = events[(events["rank"] == rank) & (events["step"] == 4)]
        plan = one_forward_one_backward(2, 4, stage=rank // 2)
        counts = Counter(wanted[item.action] for item in plan if item.action in wanted)
        for kind, count in counts.items():
            assert len(rows_of(step, kind)) == count, (rank, kind)
        for kind in (Kind.FORWARD, Kind.BACKWARD):
            assert rows_of(step, kind)["micro_batch"].tolist() == [0, 1, 2, 3]
        p2p = rows_of(step, Kind.P2P)
        assert set(p2p["bytes"].tolist()) == {activation}
        assert set(p2p["peer"].tolist()) == {(rank + 2) % 4}
        moved = Counter(p2p["group"].tolist())
        assert moved == {ACTIVATION: 4, GRADIENT: 4}
        for direction in (ACTIVATION, GRADIENT):
            mine = p2p[p2p["group"] == direction]
            assert mine["micro_batch"].tolist() == [0, 1, 2, 3]
        assert len(rows_of(step, Kind.RECOMPUTE)) == 4
        assert len(rows_of(step, Kind.TENSOR_REDUCE)) > 0
        assert len(rows_of(step, Kind.CHECKPOINT)) == 1
        drains = events[(events["rank"] == rank) & (events["kind"] == Kind.DRAIN)]
        assert len(drains) == (4 if rank == 0 else 2)  # steps 4 and 6; rank 0 commits them
        assert len(rows_of(step, Kind.GRADIENT_REDUCE)) == 0  # one replica: nothing to reduce

        (whole,) = rows_of(step, Kind.STEP)
        beside = (Kind.STEP, Kind.CHECKPOINT, Kind.DRAIN)
        inside = step[~np.isin(step["kind"], beside)]
        assert (inside["begin_ns"] >= whole["begin_ns"]).all()
        assert (inside["end_ns"] <= whole["end_ns"]).all()
        # These follow each other on a rank and never overlap; tensor_reduce and recompute lie
        # inside forward and backward.
        nested = (Kind.TENSOR_REDUCE, Kind.RECOMPUTE)
        serial = np.sort(inside[~np.isin(inside["kind"], nested)], order="begin_ns")
        assert (serial["begin_ns"][1:] >= serial["end_ns"][:-1]).all()

        # The sums that were made while it ran are those of its spans, and make up its steps.
        told = segment_events.sums
        for row in sums(events[events["rank"] == rank]):
            place = told.step.tolist().index(row["step"]), rank, told.kinds.index(row["kind"])
            assert (told.own_ns[place], told.count[place]) == (row["own_ns"], row["count"])
        steps = rows_of(events[events["rank"] == rank], Kind.STEP)
        assert told.own_ns[:, rank].sum(axis=1).tolist() == [
            int(length) for length in steps["end_ns"] - steps["begin_ns"]
        ]


def test_overflow_spends_samples_but_no_update(tmp_path: Path) -> None:
    """The rule: a skipped step counts as a step, its samples are not seen again, and neither
    Adam's count nor the learning rate moves."""
    recipe = tiny_recipe(
        2,
        1,
        precision={"dtype": "fp16", "initial_scale_power": 24, "hysteresis": 1},
        train={"steps": 14, "checkpoint_every": 100},
    )
    ranks = train(recipe, 2, tmp_path)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [*range(1, 15)]
    assert [line["tokens"] for line in lines] == [256 * step for step in range(1, 15)]
    applied = [line["grad_norm"] is not None for line in lines]
    assert not applied[0], "a scale of 2^24 overflows at once"
    assert applied[-1], "the scale comes down until gradients are finite"
    scales = [line["loss_scale"] for line in lines]
    for before, after, good in zip(scales, scales[1:], applied, strict=False):
        assert after == (before if good else before / 2)
    schedule = CosineSchedule(3e-3, 3e-4, 2, 14)
    updates = [sum(applied[:index]) for index in range(14)]
    assert [line["lr"] for line in lines] == [schedule.at(update) for update in updates]
    assert {rank["updates"] for rank in ranks} == {sum(applied)}


def test_what_a_segment_leaves(tmp_path: Path) -> None:
    recipe = tiny_recipe(1, 1, train={"checkpoint_every": 2, "keep_last": 2})
    (rank,) = train(recipe, 1, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000004",
        "step-00000006",
    ]
    record = json.loads((tmp_path / f"segments/{rank['segment']}.rank0.json").read_text())
    assert record["resumed_from_step"] == 0
    assert record["last_step"] == record["last_durable_checkpoint"] == 6
    assert min(record["save_s"], record["drain_s"]) > 0
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["done"], progress["total"], progress["unit"]) == (6, 6, "step")
    line = metrics(tmp_path)[-1]
    assert {"segment", "step", "loss", "tokens", "lr", "grad_norm", "loss_scale"} < set(line)
    assert line["tokens_per_s"] == pytest.approx(256 / line["step_time_s"], rel=1e-3)
    assert len(losses(tmp_path)) == 6
