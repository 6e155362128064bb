"""Sampled steps stand for all of them."""

from __future__ import annotations

import numpy as np
import pytest

from alpenglow_analysis.sample_weights import SMALLEST, calibrated


def steps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of 600 steps, longer from step 310 on, and what a fault cost in each."""
    dice = np.random.default_rng(seed)
    cost = 50e6 + 10e6 * dice.standard_normal(600)
    return 3e9 + cost + 3e6 * dice.standard_normal(600) + 3e8 * (np.arange(600) >= 310), cost


def test_the_sample_gets_the_mean_of_all_and_the_weights_sum_to_the_steps() -> None:
    length, _ = steps(1)
    group = (np.arange(600) % 3 == 0).astype(np.int64)
    chosen = np.arange(5, 600, 22)
    weight = calibrated(length, group, chosen)
    assert (weight > 0).all()
    for each in (0, 1):
        mine = group[chosen] == each
        assert weight[mine].sum() == pytest.approx((group == each).sum())
        seen = np.average(length[chosen][mine], weights=weight[mine])
        before = abs(length[chosen][mine].mean() - length[group == each].mean())
        assert abs(seen - length[group == each].mean()) < before / 5


def test_the_error_of_what_goes_with_length_falls() -> None:
    plain, better = [], []
    for seed in range(200):
        length, cost = steps(seed)
        chosen = np.arange(seed % 30, 600, 30)
        weight = calibrated(length, np.zeros(600, np.int64), chosen)
        plain.append(cost[chosen].mean() - cost.mean())
        better.append(weight @ cost[chosen] / 600 - cost.mean())
    assert np.std(better) < 0.6 * np.std(plain)
    assert abs(np.mean(better)) < 0.2 * np.std(plain)


def test_weights_stay_equal_where_little_is_known() -> None:
    even = np.full(100, 3e9)
    assert calibrated(even, np.zeros(100, np.int64), np.arange(0, 100, 10)).tolist() == [10] * 10
    length, _ = steps(3)
    few = calibrated(length, np.zeros(600, np.int64), np.array([1, 200, 400]))
    assert few.tolist() == [200] * 3
    assert calibrated(length, np.zeros(600, np.int64), np.arange(600)).tolist() == [1] * 600
    assert calibrated(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


def test_no_weight_vanishes_however_odd_the_sample() -> None:
    length, _ = steps(4)
    chosen = np.concatenate([np.arange(20), [599]])  # all but one of before step 310
    weight = calibrated(length, np.zeros(600, np.int64), chosen)
    assert weight.min() >= SMALLEST * 600 / 21 - 1e-9
    assert weight.sum() == pytest.approx(600)
