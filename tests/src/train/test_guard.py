"""What the guard does about bad gradients, spikes and corruption; always on real ranks."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from disturbances import flip_and_drag, raise_loss, spoil
from training_ranks import STEPS, assert_same_checkpoint, metrics, tiny_recipe, train

from alpenglow.train.guard_policy import GuardRecipe
from alpenglow.train.slow_ranks import SlowRank, SlowRanks
from alpenglow.train.stop import MORE_TO_DO

pytestmark = pytest.mark.distributed
LAST = f"checkpoints/step-{STEPS:08d}"


@pytest.mark.parametrize(
    ("world", "pipeline", "tensor", "dtype", "where"),
    [(4, 2, 1, "fp32", 1), (2, 1, 2, "fp32", 1), (4, 1, 2, "bf16", 3)],
    ids=["pp2 dp2", "tp2", "tp2 dp2 bf16"],
)
def test_a_passing_and_a_lasting_bad_gradient(
    tmp_path: Path, world: int, pipeline: int, tensor: int, dtype: str, where: int
) -> None:
    """On one rank alone; under tensor parallelism in a copy that no norm counts."""
    recipe = tiny_recipe(pipeline, tensor, precision={"dtype": dtype})
    quiet, passing = tmp_path / "quiet", tmp_path / "passing"
    train(recipe, world, quiet)
    ranks = train(
        recipe, world, passing, disturb=functools.partial(spoil, where=where, step=3, times=1)
    )
    assert [rank["counts"] for rank in ranks] == [{"reruns": 1}] * world
    assert "run again from the same state" in ranks[0]["messages"][0]
    assert_same_checkpoint(passing / LAST, quiet / LAST)
    assert [line.get("reruns") for line in metrics(passing)] == [None, None, 1, None, None, None]

    lasting, skipping = tmp_path / "lasting", tmp_path / "skipping"
    ranks = train(
        recipe, world, lasting, disturb=functools.partial(spoil, where=where, step=3, times=99)
    )
    assert [rank["counts"] for rank in ranks] == [{"reruns": 1, "skipped": 1}] * world
    assert {rank["updates"] for rank in ranks} == {STEPS - 1}
    (record,) = map(json.loads, (lasting / "skips.jsonl").read_text().splitlines())
    assert (record["first"], record["last"], record["reason"]) == (32, 47, "nonfinite")
    named = tiny_recipe(pipeline, tensor, precision={"dtype": dtype}, guard={"skip": ((40, 41),)})
    ranks = train(named, world, skipping)
    assert [rank["counts"] for rank in ranks] == [{"skipped": 1}] * world
    assert not (skipping / "skips.jsonl").exists()
    assert_same_checkpoint(lasting / LAST, skipping / LAST)
    for run in (lasting, skipping):
        assert [line["applied"] for line in metrics(run)] == [True, True, False, True, True, True]


def test_a_decision_outlives_its_reason(tmp_path: Path) -> None:
    """Skipped in one segment, the samples stay skipped where a later one could learn them."""
    recipe = tiny_recipe()
    bad = functools.partial(spoil, where=0, step=2, times=99)
    once, twice = tmp_path / "once", tmp_path / "twice"
    train(recipe, 1, once, disturb=bad)
    train(recipe, 1, twice, stop_after=3, disturb=bad)
    for folder in (twice / "checkpoints").iterdir():
        (folder / "manifest.json").unlink()  # all is lost but the decision
    (rank,) = train(recipe, 1, twice)
    assert rank["resumed"] == 0
    assert rank["counts"] == {"skipped": 1}
    assert_same_checkpoint(twice / LAST, once / LAST)


def test_a_range_named_later_takes_the_run_back(tmp_path: Path) -> None:
    table = {"checkpoint_every": 2, "keep_last": 9}
    train(tiny_recipe(train=table), 1, tmp_path / "late", stop_after=5)
    named = tiny_recipe(train=table, guard={"skip": ((50, 50),)})  # of step 4
    (rank,) = train(named, 1, tmp_path / "late")
    assert rank["resumed"] == 2
    passed = [text for text in rank["messages"] if "passed over" in text]
    assert len(passed) == 2  # those of steps 5 and 4
    assert all("it has learnt samples 50 to 50, which guard.skip names" in text for text in passed)
    train(named, 1, tmp_path / "quiet")
    assert_same_checkpoint(tmp_path / "late" / LAST, tmp_path / "quiet" / LAST)


def test_a_spike_goes_back_and_leaves_its_batches_out(tmp_path: Path) -> None:
    train_table = {"steps": 20, "checkpoint_every": 5, "keep_last": 9}
    policy = {"spike": "rewind", "spike_window": 8, "spike_before": 3, "spike_after": 2}
    recipe = tiny_recipe(2, 1, train=train_table, guard=policy)
    rewound, quiet = tmp_path / "rewound", tmp_path / "quiet"
    disturb = functools.partial(raise_loss, step=12)
    first = train(recipe, 2, rewound, disturb=disturb)
    # Steps 9 to 14 are left out, so step 10's checkpoint has learnt too much: back to step 5.
    assert [rank["counts"] for rank in first] == [{"spikes": 1, "rewinds": 1, "skipped": 6}] * 2
    assert "step 12: loss" in first[0]["messages"][0]
    assert [line["step"] for line in metrics(rewound)] == [*range(1, 13), *range(6, 21)]
    (record,) = map(json.loads, (rewound / "skips.jsonl").read_text().splitlines())
    assert (record["first"], record["last"]) == (16 * 8, 16 * 14 - 1)

    skip = ((record["first"], record["last"]),)
    named = tiny_recipe(2, 1, train=train_table, guard={"skip": skip, "spike": "off"})
    train(named, 2, quiet)
    last = "checkpoints/step-00000020"
    assert_same_checkpoint(rewound / last, quiet / last)


def test_a_spike_before_any_checkpoint_starts_the_run_over(tmp_path: Path) -> None:
    policy = {"spike": "rewind", "spike_window": 8, "spike_before": 1, "spike_after": 0}
    length = {"steps": 8, "checkpoint_every": 100}
    recipe = tiny_recipe(train=length, guard=policy)
    disturb = functools.partial(raise_loss, step=6)
    (first,) = train(recipe, 1, tmp_path / "spiked", disturb=disturb)
    assert (first["code"], first["counts"]) == (MORE_TO_DO, {"spikes": 1, "rewinds": 1})
    (second,) = train(recipe, 1, tmp_path / "spiked", disturb=disturb)
    assert (second["code"], second["resumed"], second["counts"]) == (0, 0, {"skipped": 2})
    named = tiny_recipe(train=length, guard={"skip": ((64, 95),)})
    train(named, 1, tmp_path / "quiet")
    last = "checkpoints/step-00000008"
    assert_same_checkpoint(tmp_path / "spiked" / last, tmp_path / "quiet" / last)


@pytest.mark.parametrize(
    ("dtype", "schedule"),
    [("fp32", "1f1b"), ("bf16", "1f1b"), ("fp16", "1f1b"), ("fp32", "zb-h1"), ("bf16", "zb-h1")],
)
def test_a_cross_check_leaves_no_trace(tmp_path: Path, dtype: str, schedule: str) -> None:
    tables = {"precision": {"dtype": dtype}, "parallel": {"schedule": schedule}}
    plain, checked = tmp_path / "plain", tmp_path / "checked"
    train(tiny_recipe(2, 1, **tables), 4, plain)
    ranks = train(tiny_recipe(2, 1, **tables, guard={"verify_every": 2}), 4, checked)
    assert all(rank["counts"] == {} for rank in ranks)
    assert_same_checkpoint(checked / LAST, plain / LAST)


def test_a_rank_that_computes_wrongly_and_a_slow_one_are_named(tmp_path: Path) -> None:
    guard = {"verify_every": 2, "slow_every": 2, "slow_windows": 2, "slow_factor": 2.0}
    ranks = train(tiny_recipe(guard=guard), 4, tmp_path, disturb=flip_and_drag)
    wrong, slow = ranks[0]["messages"]
    assert wrong.startswith("before step 4 rank 2 on node00 had other gradients")
    assert "4 compared" in wrong
    assert slow.startswith("rank 1 on node00 is slow")
    assert "stage 0, 2 windows of 2 steps" in slow
    assert ranks[3]["counts"] == {"disagreements": 1, "slow_ranks": 1}


def test_slow_is_against_the_ranks_of_the_same_stage() -> None:
    slow = SlowRanks([0, 0, 0, 1, 1], factor=1.5, windows=3)
    quiet = [1.0, 1.1, 0.9, 9.0, 9.5]  # stage 1 does more work, and is not slow for that
    late = [1.0, 1.1, 2.2, 9.0, 18.0]
    assert slow.look(late) == slow.look(late) == []
    assert slow.look(late) == [SlowRank(2, 0, 2.0), SlowRank(4, 1, 2.0)]
    assert slow.look(quiet) == slow.look(late) == slow.look(late) == []
    assert len(slow.look(late)) == 2
    assert SlowRanks([0, 1], 1.1, 1).look([1.0, 5.0]) == []  # nobody to compare with


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"skip": ((5, 3),)}, "guard.skip holds [5, 3]"),
        ({"skip": ((1, 2, 3),)}, "two sample numbers"),
        ({"hang_s": -1.0}, "guard.hang_s = -1.0"),
        ({"slow_factor": 0.5}, "at least 1"),
    ],
)
def test_policies_that_make_no_sense(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="guard") as error:
        GuardRecipe(**changes)
    assert sentence in str(error.value)
