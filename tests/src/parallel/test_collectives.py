"""Collectives: bandwidth and latency limits, algorithms, units."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpenglow.parallel.collectives import (
    Span,
    all_gather,
    all_reduce,
    reduce_scatter,
    send,
)

NODE = Span(8, 1, 240e9)
PAIR = Span(2, 1, 40e9)
WIDE = Span(128, 128, 24e9)


def test_large_messages_move_at_the_rings_bandwidth() -> None:
    for span in (NODE, PAIR, WIDE):
        n = span.ranks
        ring = 2 * (n - 1) / n * 100e9 / span.rate
        assert all_reduce(100e9, span) == pytest.approx(ring, rel=0.01)
        assert reduce_scatter(100e9, span) == pytest.approx(ring / 2, rel=0.01)
        assert all_gather(100e9, span) == reduce_scatter(100e9, span)


def test_small_messages_cost_latency() -> None:
    # nccl-tests on 8 A100 of a node show 20 to 30 us, on 32 nodes 63 us (NVIDIA/nccl issue 652).
    assert 5e-6 < all_reduce(8.0, NODE) < 30e-6
    assert 40e-6 < all_reduce(8.0, Span(256, 32, 96e9)) < 120e-6
    assert all_reduce(8.0, NODE) == pytest.approx(all_reduce(1024.0, NODE), rel=0.1)


def test_a_tree_serves_small_messages_on_many_nodes() -> None:
    steps = 2 * (WIDE.ranks - 1) * 2.7e-6  # the least latency of a ring
    assert all_reduce(1e4, WIDE) < steps / 4
    assert all_reduce(1e4, Span(1024, 1024, 24e9)) < 2 * all_reduce(1e4, WIDE)


def test_nobody_to_talk_to() -> None:
    assert all_reduce(1e9, Span(1)) == reduce_scatter(1e9, Span(1)) == 0.0
    assert all_reduce(0.0, NODE) == 0.0


def test_a_message_takes_its_latency_and_its_bytes() -> None:
    assert send(25e9, "network", 25e9) == pytest.approx(1.0, rel=1e-4)
    assert send(0.0, "network", 25e9) > send(0.0, "nvlink", 25e9) > 0


@given(
    st.floats(1, 1e11),
    st.floats(1.01, 100),
    st.sampled_from([NODE, PAIR, WIDE, Span(24, 3, 192e9), Span(6, 1, 10e9, "bus")]),
)
def test_more_bytes_and_slower_links_take_longer(nbytes: float, more: float, span: Span) -> None:
    assert all_reduce(nbytes * more, span) >= all_reduce(nbytes, span)
    slow = Span(span.ranks, span.nodes, span.rate / more, span.inside)
    assert all_reduce(nbytes, slow) >= all_reduce(nbytes, span)
    both = reduce_scatter(nbytes, span) + all_gather(nbytes, span)
    assert all_reduce(nbytes, span) <= both * (1 + 1e-9)


def test_the_rate_of_a_lone_group_is_not_asked_for() -> None:
    assert math.isinf(Span(1).rate)
