"""The schedule at its corners."""

from __future__ import annotations

import pytest

from alpenglow.train.learning_rate import CosineSchedule


def test_corners() -> None:
    schedule = CosineSchedule(lr=1.0, min_lr=0.1, warmup_steps=10, total_steps=111)
    assert schedule.at(0) == pytest.approx(0.1)
    assert schedule.at(9) == schedule.at(10) == 1.0
    assert schedule.at(60) == pytest.approx(0.55)
    assert schedule.at(110) == schedule.at(500) == pytest.approx(0.1)
    after = [schedule.at(step) for step in range(10, 111)]
    assert after == sorted(after, reverse=True)


def test_without_warm_up_and_with_nothing_else() -> None:
    assert CosineSchedule(1.0, 0.0, 0, 5).at(0) == 1.0
    assert [CosineSchedule(1.0, 0.5, 3, 3).at(step) for step in range(3)] == pytest.approx(
        [1 / 3, 2 / 3, 1.0]
    )
    assert CosineSchedule(1.0, 0.5, 0, 1).at(0) == 1.0
