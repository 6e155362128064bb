"""When a segment wants to stop."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from alpenglow.train.stop import MARGIN_S, SIGNALS, StopRequest


def test_the_deadline_leaves_room_for_a_save() -> None:
    stop = StopRequest(deadline=1000.0, save_s=20.0)
    stop.step_s = 3.0
    assert stop.reserve() == 1.5 * 20 + 2 * 3 + MARGIN_S
    assert stop.wanted(now=1000.0 - stop.reserve() - 0.1) is None
    assert stop.wanted(now=1000.0 - stop.reserve() + 0.1) == "walltime"
    stop.saved(60.0, 4.0)
    assert stop.wanted(now=920.0) == "walltime"
    stop.saved(1.0, 8.0)  # one quick save does not make the next one quick
    assert (stop.save_s, stop.drain_s) == (60.0, 8.0)
    stop.leave_s = 2.0
    assert stop.reserve() == 1.5 * (60 + 8 + 2) + 2 * 3 + MARGIN_S
    stop.drains_ahead = 1  # the last save waits for the one under way
    assert stop.reserve() == 1.5 * (60 + 2 * 8 + 2) + 2 * 3 + MARGIN_S
    assert StopRequest(None, 1.0).wanted(now=1e12) is None


def test_a_guess_is_used_once_and_a_measured_save_is_kept() -> None:
    first = StopRequest(None, save_s=300.0, drain_s=900.0)
    first.saved(20.0, 40.0)
    assert (first.save_s, first.drain_s) == (20.0, 40.0)
    second = StopRequest(None, save_s=20.0, drain_s=40.0, measured=True)
    second.saved(5.0, 50.0)
    assert (second.save_s, second.drain_s) == (20.0, 50.0)


def test_the_stop_file_is_seen_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("alpenglow.train.stop.time.monotonic", lambda: clock[0])
    stop = StopRequest(None, 1.0, file=tmp_path / "STOP")
    assert stop.wanted() is None
    (tmp_path / "STOP").touch()
    assert stop.wanted() is None  # not a look at the file system in every step
    clock[0] += 1.0
    assert stop.wanted() == "STOP"
    assert StopRequest(None, 1.0).wanted() is None  # the other ranks do not look


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_only_noted(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    try:
        stop = StopRequest(None, 1.0)
        stop.install()
        assert stop.wanted() is None
        signal.raise_signal(number)
        assert stop.wanted() == f"signal {number.name[3:]}"
    finally:
        for one, handler in zip(SIGNALS, before, strict=True):
            signal.signal(one, handler)


def test_a_second_interrupt_interrupts() -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    try:
        stop = StopRequest(None, 1.0)
        stop.install()
        signal.raise_signal(signal.SIGINT)
        assert stop.wanted() == "signal INT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        for one, handler in zip(SIGNALS, before, strict=True):
            signal.signal(one, handler)
