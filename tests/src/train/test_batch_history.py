"""The global batches of a run, and what follows from them for its length."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpenglow.train.batch_history import BatchChange, BatchHistory


def test_a_lost_node_makes_more_steps_of_the_same_samples() -> None:
    """1.001 T tokens: 238,657 steps of 2,048 sequences; from step 100,000 on 2,032."""
    total = -(-1_001_000_000_000 // 2048)
    history = BatchHistory(2048).then(0, 0, 2048)
    assert history.total_steps(total) == 238_657
    history = history.then(100_000, 100_000 * 2048, 2032)
    assert history.total_steps(total) == 100_000 + -(-(total - 204_800_000) // 2032) == 239_749
    history = history.then(100_050, 204_800_000 + 50 * 2032, 2032)
    assert len(history.changes) == 2
    whole = history.then(100_100, 204_800_000 + 100 * 2032, 2048)
    assert [change.global_batch_size for change in whole.changes] == [2048, 2032, 2048]
    assert whole.total_steps(total) == 238_658


def test_going_back_forgets_what_came_later() -> None:
    history = BatchHistory(16).then(0, 0, 16).then(6, 96, 12).then(9, 132, 8)
    assert history.then(6, 96, 16).changes == (BatchChange(0, 0, 16),)
    assert history.then(7, 108, 8).changes[-2:] == (BatchChange(6, 96, 12), BatchChange(7, 108, 8))


def test_the_file_and_the_state_say_the_same(tmp_path: Path) -> None:
    assert BatchHistory.read(tmp_path) is None
    history = BatchHistory(16)
    for step, samples, batch in ((0, 0, 16), (3, 48, 12), (3, 48, 12), (5, 72, 8)):
        history = history.then(step, samples, batch)
        history.write(tmp_path, "1.0")
    assert len((tmp_path / "batches.jsonl").read_text().splitlines()) == 3
    with (tmp_path / "batches.jsonl").open("a") as file:
        file.write('{"segment": "1.0", "first": 16, "st')  # cut by a kill
    assert BatchHistory.read(tmp_path) == history
    back = history.then(4, 60, 12)  # from a checkpoint of before the last change
    back.write(tmp_path, "2.0")
    assert BatchHistory.of_state({"batches": back.tables()}) == back
    assert back.total_steps(96) == 7


@pytest.mark.parametrize(
    ("state", "batches"),
    [({"step": 4, "samples": 64}, 16), ({"step": 0, "samples": 0}, None), ({}, None)],
)
def test_a_checkpoint_of_before_has_one_batch(state: dict[str, int], batches: int | None) -> None:
    history = BatchHistory.of_state(state)
    assert (None if history is None else history.first) == batches
