"""Clocks of nodes found from what came before what: the truth lies within the stated error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lawful_steps import LawfulSteps

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.clocks import Alignment, align
from alpenglow_analysis.messages import collectives, transfers
from alpenglow_profiling.kind import Kind

MS = 1_000_000


class Clocks:
    """A clock for each node: off by up to 50 ms, fast or slow by up to 50 ppm."""

    def __init__(self, seed: int, offset_ms: float = 50, ppm: float = 50) -> None:
        self.dice = np.random.default_rng([seed, 7])
        self.numbers = self.dice.uniform(-1, 1, (10_000, 3))
        self.offset_ns, self.ppm = offset_ms * MS, ppm

    def clock(self, node: int, true: Any) -> Any:
        """CLOCK_MONOTONIC at a true time: since boot, some days ago."""
        boot = (1 + node) * 86_400 * 10**9
        drift = np.rint(true * (self.numbers[node, 1] * self.ppm * 1e-6)).astype(np.int64)
        return true + drift + boot

    def wall_error(self, node: int) -> int:
        return int(self.numbers[node, 0] * self.offset_ns)


def lawful(seed: int, layout: Layout, **options: Any) -> LawfulSteps:
    clocks = Clocks(seed, options.pop("offset_ms", 50), options.pop("ppm", 50))
    return LawfulSteps(
        layout, seed=seed, clock=clocks.clock, wall_error=clocks.wall_error, **options
    )


def furthest(played: LawfulSteps, found: Alignment) -> dict[str, float]:
    """Of each node: how far its clock is from the reference's in any of the steps, ns."""
    longest = int(played.true_rows()["end_ns"].max()) - (len(played.steps) - 1) * played.apart
    moments = np.array([n * played.apart for n in range(len(played.steps))])
    moments = np.concatenate([moments, moments + longest // 2, moments + longest])
    nodes = range(-(-played.layout.world // played.ranks_per_node))
    shown = {
        played.node_name(node): found.clocks[played.node_name(node)].at(played.clock(node, moments))
        for node in nodes
    }
    return {
        name: float(np.abs(time - shown[found.reference]).max()) for name, time in shown.items()
    }


LAYOUTS = (
    (Layout(4, 1, 4), 2),
    (Layout(4, 1, 4, order="data-major"), 4),
    (Layout(3, 2, 2, seats=(2, 0, 1)), 3),
    (Layout(1, 4, 2), 2),
    (Layout(2, 1, 2), 1),
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    place=st.sampled_from(LAYOUTS),
    schedule=st.sampled_from(["1f1b", "gpipe", "zb-h1"]),
    apart=st.sampled_from([2_000, 5_000, 100_000]),
    count=st.integers(1, 8),
    overlapped=st.booleans(),
)
def test_the_truth_is_within_the_error(
    seed: int, place: tuple[Layout, int], schedule: str, apart: int, count: int, overlapped: bool
) -> None:
    """Any seed, layout, schedule and spacing of steps: every node, all through every step."""
    layout, on_node = place
    played = lawful(
        seed, layout, ranks_per_node=on_node, schedule=schedule, steps=tuple(range(1, count + 1)),
        apart=apart * MS, overlapped=overlapped,
    )  # fmt: skip
    found = align(played.events(), layout, 4, schedule, played.steps)
    off = furthest(played, found)
    assert off.keys() == found.error_ns.keys()
    for node, error in found.error_ns.items():
        assert off[node] <= error, (node, off[node], error, found.sentences)
    assert found.error_ns[found.reference] == 0
    assert len(found.sentences) == 1, found.sentences


@pytest.mark.parametrize("place", LAYOUTS[:3])
def test_drift_and_the_parts_of_messages_come_back(place: tuple[Layout, int]) -> None:
    layout, on_node = place
    played = lawful(5, layout, ranks_per_node=on_node, steps=tuple(range(1, 9)), apart=200_000 * MS)
    events = played.events()
    found = align(events, layout, 4, "1f1b", played.steps)
    assert max(found.error_ns.values()) < 8 * MS
    clocks = Clocks(5)
    for node in range(layout.world // on_node):
        right = (clocks.numbers[0, 1] - clocks.numbers[node, 1]) * clocks.ppm * 1e-6
        assert found.rate[played.node_name(node)] == pytest.approx(right, abs=8e-6)
    truth = played.true_rows()
    moved = events.moved(found.clocks).spans(played.steps)
    for kind in (Kind.OPTIMIZER, Kind.GRADIENT_REDUCE):
        right_, seen = (collectives(rows, layout, kind) for rows in (truth, moved))
        error = 2 * max(found.error_ns.values())
        assert np.abs(right_.wait - seen.wait).max() <= error
        assert np.abs(right_.transfer - seen.transfer).max() <= error
    real, seen_ = (transfers(rows, layout, 4) for rows in (truth, moved))
    assert (real.sender == seen_.sender).all()
    name = np.array([played.node_name(played.node(rank)) for rank in range(layout.world)])
    error_of = np.array([found.error_ns[each] for each in name])
    allowed = error_of[real.sender] + error_of[real.receiver] + 2e-4 * 500 * MS
    for part in ("wait_sender", "wait_receiver", "transfer"):
        assert (np.abs(getattr(real, part) - getattr(seen_, part)) <= allowed).all()
