"""Stages in time: what is added to a played pipeline, and the closed form, against the whole."""

from __future__ import annotations

import random

import pytest

from alpenglow.parallel import pipeline_time
from alpenglow.parallel.framework import P2P
from alpenglow.parallel.pipeline_time import StageSeconds, finish
from alpenglow.parallel.timeline import Durations, timeline

MODES: tuple[P2P, ...] = ("blocking", "exchange", "buffered")


def stages(count: int, uneven: float = 0.0, again: float = 0.0) -> tuple[StageSeconds, ...]:
    draw = random.Random(count)
    sizes = [1 + uneven * draw.random() for _ in range(count)]
    return tuple(StageSeconds(size, size * (1 + again), size) for size in sizes)


def played(
    name: str, own: tuple[StageSeconds, ...], hops: tuple[float, ...], m: int, p2p: P2P
) -> tuple[float, ...]:
    """The whole schedule, nothing added."""
    return pipeline_time._played(name, own, hops, m, p2p)


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "zb-h1"])
def test_without_messages_it_is_the_timeline(name: str) -> None:
    own = stages(4, uneven=0.3)
    took = Durations(
        forward=[each.forward for each in own],
        backward_input=[each.inputs for each in own],
        backward_weight=[each.weights for each in own],
    )
    slots = timeline(name, 4, 8, took)
    assert max(finish(name, own, (0.0,) * 4, 8)) == pytest.approx(max(s.end for s in slots))


@pytest.mark.parametrize(
    ("name", "p2p"),
    [
        *((name, p2p) for name in ("1f1b", "zb-h1") for p2p in MODES),
        *((f"interleaved-{count}", p2p) for count in (2, 3) for p2p in MODES[1:]),
    ],
)
@pytest.mark.parametrize(("uneven", "hop"), [(0.0, 0.0), (0.3, 0.05)])
def test_added_micro_batches_are_those_of_the_whole_schedule(
    name: str, p2p: P2P, uneven: float, hop: float
) -> None:
    p, m = 4, 64
    own, hops = stages(p, uneven, again=1.0), (hop,) * p
    assert finish(name, own, hops, m, p2p) == pytest.approx(played(name, own, hops, m, p2p))


@pytest.mark.parametrize(
    ("name", "p2p"),
    [
        *((name, p2p) for name in ("1f1b", "zb-h1") for p2p in MODES),
        *(("interleaved-2", p2p) for p2p in MODES[1:]),  # it never blocks
    ],
)
@pytest.mark.parametrize(("p", "m"), [(4, 4), (8, 32), (12, 24)])
@pytest.mark.parametrize(("uneven", "hop"), [(0.0, 0.02), (0.2, 0.0)])
def test_the_closed_form_is_within_some_per_cent(
    name: str, p2p: P2P, p: int, m: int, uneven: float, hop: float
) -> None:
    own, hops = stages(p, uneven, again=1.0), (hop,) * p
    closed = pipeline_time._closed(name, own, hops, m, p2p)
    # Uneven stages shift warm-up and drain by parts of a pass, which no closed form here follows.
    bound = 0.04 if not uneven else 0.08
    assert max(closed) == pytest.approx(max(played(name, own, hops, m, p2p)), rel=bound)
    if not uneven and p2p == "exchange" and name != "zb-h1":
        assert closed == pytest.approx(played(name, own, hops, m, p2p), rel=0.04)


@pytest.mark.parametrize("chunks", [2, 3, 4])
def test_interleaving_divides_the_bubble(chunks: int) -> None:
    p, m = 4, 16
    whole = max(finish(f"interleaved-{chunks}", stages(p), (0.0,) * p, m, "exchange"))
    assert whole == pytest.approx(3 * m + 3 * (p - 1) / chunks)


def test_an_exchange_costs_a_hop_a_pass_and_a_block_up_to_two() -> None:
    p, m, hop = 6, 30, 0.1
    ideal, exchange, blocking = (
        max(finish("1f1b", stages(p), (e,) * p, m, mode))
        for e, mode in ((0.0, "exchange"), (hop, "exchange"), (hop, "blocking"))
    )
    buffered = max(finish("1f1b", stages(p), (hop,) * p, m, "buffered"))
    assert ideal < buffered < blocking and ideal < exchange < blocking
    assert exchange - ideal == pytest.approx(2 * hop * (m + p - 1))


def test_more_messages_of_an_interleaved_schedule_cost_more() -> None:
    p, m, hop = 4, 32, 0.05
    plain = max(finish("1f1b", stages(p), (hop,) * p, m, "exchange"))
    many = max(finish("interleaved-4", stages(p), (hop,) * p, m, "exchange"))
    bubbles = 3 * (p - 1) * (1 - 1 / 4)
    assert many > plain - bubbles + 2 * hop * m * 2


def test_one_stage_has_no_messages() -> None:
    assert finish("1f1b", stages(1), (9.0,), 8, "blocking") == pytest.approx((24.0,))


def test_later_stages_are_done_earlier() -> None:
    ends = finish("1f1b", stages(12), (0.01,) * 12, 24, "exchange")
    assert list(ends) == sorted(ends, reverse=True)
