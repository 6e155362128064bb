"""When a segment wants to stop."""

from __future__ import annotations

import signal

import pytest

from alpenglow.train.stop import MARGIN_S, SIGNALS, StopRequest


def test_the_deadline_leaves_room_for_a_save() -> None:
    stop = StopRequest(deadline=1000.0, save_s=20.0)
    stop.step_s = 3.0
    assert stop.reserve() == 1.5 * 20 + 2 * 3 + MARGIN_S
    assert stop.wanted(now=1000.0 - stop.reserve() - 0.1) is None
    assert stop.wanted(now=1000.0 - stop.reserve() + 0.1) == "walltime"
    stop.saved(60.0)
    assert stop.wanted(now=920.0) == "walltime"
    stop.saved(1.0)  # one quick save does not make the next one quick
    assert stop.save_s == 60.0
    assert StopRequest(None, 1.0).wanted(now=1e12) is None


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
