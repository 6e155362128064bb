"""When a segment wants to stop."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from alpenglow.train.deadline import MARGIN_S, Deadline
from alpenglow.train.stop import SIGNALS, StopRequest


class Clocks:
    """A wall clock and a steady one."""

    def __init__(self) -> None:
        self.wall = 500.0
        self.steady = 7.0
        self.told: list[str] = []

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def deadline(self, unix: float | None) -> Deadline:
        return Deadline(
            unix, wall=lambda: self.wall, steady=lambda: self.steady, tell=self.told.append
        )


def test_the_deadline_leaves_room_for_a_save() -> None:
    clocks = Clocks()
    stop = StopRequest(clocks.deadline(1000.0), save_s=20.0)
    stop.step_s = 3.0
    assert stop.reserve() == 1.5 * 20 + 2 * 3 + MARGIN_S
    clocks.go(500 - stop.reserve() - 0.1)
    assert stop.wanted() is None
    clocks.go(0.2)
    assert stop.wanted() == "walltime"
    clocks.go(920 - clocks.wall)
    stop.saved(60.0, 4.0)
    assert stop.wanted() == "walltime"
    stop.saved(1.0, 8.0)  # one quick save does not make the next one quick
    assert (stop.save_s, stop.drain_s) == (60.0, 8.0)
    stop.leave_s = 2.0
    assert stop.reserve() == 1.5 * (60 + 8 + 2) + 2 * 3 + MARGIN_S
    stop.drains_ahead = 1  # the last save waits for the one under way
    assert stop.reserve() == 1.5 * (60 + 2 * 8 + 2) + 2 * 3 + MARGIN_S
    clocks.go(1e12)
    assert StopRequest(clocks.deadline(None), 1.0).wanted() is None


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0], ids=["ahead", "back"])
def test_a_clock_that_jumps_moves_no_deadline(jump: float) -> None:
    clocks = Clocks()
    stop = StopRequest(clocks.deadline(1000.0), save_s=10.0)
    clocks.wall += 2.0  # a time service slews: no jump
    assert (stop.wanted(), clocks.told) == (None, [])
    clocks.wall += jump
    clocks.go(400.0)
    assert stop.wanted() is None
    (told,) = clocks.told
    assert f"jumped {'ahead' if jump > 0 else 'back'} by 86,400 s" in told
    assert "the deadline stays 100 s from now" in told
    clocks.go(80.0)
    assert stop.wanted() == "walltime"
    assert len(clocks.told) == 1


def test_a_guess_is_used_once_and_a_measured_save_is_kept() -> None:
    first = StopRequest(Deadline(None), save_s=300.0, drain_s=900.0)
    first.saved(20.0, 40.0)
    assert (first.save_s, first.drain_s) == (20.0, 40.0)
    second = StopRequest(Deadline(None), save_s=20.0, drain_s=40.0, measured=True)
    second.saved(5.0, 50.0)
    assert (second.save_s, second.drain_s) == (20.0, 50.0)


def test_the_stop_file_is_seen_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("alpenglow.train.stop.time.monotonic", lambda: clock[0])
    stop = StopRequest(Deadline(None), 1.0, file=tmp_path / "STOP")
    assert stop.wanted() is None
    (tmp_path / "STOP").touch()
    assert stop.wanted() is None  # not a look at the file system in every step
    clock[0] += 1.0
    assert stop.wanted() == "STOP"
    assert StopRequest(Deadline(None), 1.0).wanted() is None  # the other ranks do not look


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_only_noted(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    try:
        stop = StopRequest(Deadline(None), 1.0)
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
        stop = StopRequest(Deadline(None), 1.0)
        stop.install()
        signal.raise_signal(signal.SIGINT)
        assert stop.wanted() == "signal INT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        for one, handler in zip(SIGNALS, before, strict=True):
            signal.signal(one, handler)
