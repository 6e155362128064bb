"""When a checkpoint is due."""

from __future__ import annotations

import math

import pytest

from alpenglow.train.save_interval import DEFAULT_S, SaveInterval, daly_interval

MEAN_TIME_S = 50.7e3 * 3600 / 3072


@pytest.mark.parametrize("save_s", [0.05, 5.0, 60.0, 300.0, 3000.0])
def test_the_interval_loses_least(save_s: float) -> None:
    """Against the model that Daly's formula approximates (his equation 13, without restart time):
    the wall time for a unit of work is M (e^((t + d) / M) - 1) / t."""

    def lost(interval: float) -> float:
        return MEAN_TIME_S * math.expm1((interval + save_s) / MEAN_TIME_S) / interval - 1

    chosen = daly_interval(save_s, MEAN_TIME_S)
    best = min(lost(chosen * 2 ** (i / 500)) for i in range(-1000, 1001))
    assert lost(chosen) == pytest.approx(best, rel=2e-3)
    young = math.sqrt(2 * save_s * MEAN_TIME_S)
    assert 0.7 * young < chosen < young


def test_a_save_longer_than_a_life() -> None:
    assert daly_interval(100.0, 40.0) == 40.0


def test_steps_decide_where_they_are_given() -> None:
    interval = SaveInterval(4, keep_every=6)
    assert [step for step in range(1, 13) if interval.due(step)] == [4, 6, 8, 12]
    assert interval.explain(1.0, 1.0) == "checkpoints: every 4 steps"


def test_time_decides_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("alpenglow.train.save_interval.time.monotonic", lambda: clock[0])
    interval = SaveInterval(None, keep_every=10, mean_time_s=MEAN_TIME_S)
    interval._last = clock[0]
    interval.measured(5.0, 2.0)
    assert interval.seconds == daly_interval(5.0, MEAN_TIME_S)
    assert "every 12.8 min (Daly 2006: a save costs 5 s" in interval.explain(5.0, 2.0)
    assert "a failure every 16.5 h" in interval.explain(5.0, 2.0)
    assert interval.due(10), "this one is to be kept"
    clock[0] += interval.seconds - 1
    assert not interval.due(11)
    clock[0] += 1
    assert interval.due(11)
    interval.saved()
    assert not interval.due(12)
    interval.measured(0.001, 30.0)
    assert interval.seconds == 300.0, "a drain may take a tenth of the time"


def test_without_a_failure_rate_a_default_is_named() -> None:
    interval = SaveInterval(None)
    interval.measured(5.0, 2.0)
    assert interval.seconds == DEFAULT_S
    assert "every 15 min (the default: no failure rate is known" in interval.explain(5.0, 2.0)
