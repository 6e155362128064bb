"""Clocks of nodes found from what came before what: the truth lies within the stated error."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lawful_steps import LawfulSteps
from training_ranks import tiny_recipe, train

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.clocks import Alignment, align, main
from alpenglow_analysis.messages import collectives, coordinates, transfers
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_profiling.clock_exchange import Exchange
from alpenglow_profiling.clock_map import ClockMap
from alpenglow_profiling.events import read
from alpenglow_profiling.kind import Kind
from alpenglow_profiling.segment_events import Events

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


def changed(events: Events, node: int, **of_part: Any) -> Events:
    """The same with something else in one node's part."""
    parts = list(events.parts)
    parts[node] = dataclasses.replace(parts[node], **of_part)
    return Events(tuple(parts))


def test_halves_that_never_talk_are_named() -> None:
    """Without the optimizer's agreement two replicas on nodes of their own share nothing."""
    layout = Layout(2, 1, 2, order="data-major")
    played = lawful(2, layout, ranks_per_node=1, steps=(1, 2))
    rows = played.true_rows()
    rows = rows[~np.isin(rows["kind"], (Kind.OPTIMIZER, Kind.GRADIENT_REDUCE))]
    events = played.events(rows)
    found = align(events, layout, 4, "1f1b", (1, 2))
    assert found.error_ns["n0001"] < 5 * MS
    assert found.error_ns["n0002"] == found.error_ns["n0003"] == np.inf
    assert (
        "No message or collective connects n0002, n0003 with the other nodes"
        in (found.sentences[-1])
    )
    walls = {part.node: ClockMap.of_flushes(part.clock) for part in events.parts}
    for node in ("n0002", "n0003"):
        assert found.clocks[node].offset_ns == walls[node].offset_ns


def jumped(events: Events, node: int) -> Events:
    """The same, but in the midst of step 3 the clock of a node jumps ahead."""
    inner = events.parts[node].inner
    assert inner is not None
    rows: Any = inner.copy()
    outer: Any = events.parts[node].outer.copy()
    third = np.flatnonzero(rows["step"] == 3)
    for name in ("begin_ns", "end_ns"):
        rows[name][third[len(third) // 2 :]] += 400 * MS
    outer["end_ns"][outer["step"] == 3] += 400 * MS
    return changed(events, node, inner=rows, outer=outer)


@pytest.mark.parametrize("node", [0, 3])
def test_a_clock_that_jumps_within_a_step_is_left_out_there(node: int) -> None:
    layout = Layout(4, 1, 4)
    played = lawful(3, layout, ranks_per_node=2, steps=(1, 2, 3, 4))
    events = played.events()
    events = jumped(events, node)
    found = align(events, layout, 4, "1f1b", played.steps)
    # The first node shares all its messages with one other, and with all only the end of the step.
    who = "The clock of n0003 contradicts the others"
    if node == 0:
        who = "One or more of the clocks of n0000, n0002 contradict the others"
    assert found.sentences[1] == f"{who} in step 3 (a jump, or damaged rows): left out there."
    gone = ["Step 3 says nothing of the clocks for that reason."] if node == 0 else []
    assert list(found.sentences[2:]) == gone  # the reference's own: nothing to compare with
    for name, off in furthest(played, found).items():
        assert off <= found.error_ns[name] < 20 * MS


def test_two_clocks_that_jump_in_one_step_are_told_from_those_they_talk_to() -> None:
    layout = Layout(6, 1, 6)
    played = lawful(3, layout, ranks_per_node=2, steps=(1, 2, 3, 4))
    events = jumped(jumped(played.events(), 7), 9)
    found = align(events, layout, 4, "1f1b", played.steps)
    named = {name for name in found.clocks for told in found.sentences[1:] if name in told}
    assert named == {"n0007", "n0009"}
    for name, off in furthest(played, found).items():
        assert off <= found.error_ns[name] < 20 * MS


def test_a_clock_that_is_set_between_steps_is_followed() -> None:
    """No straight line: true in every step, and said."""
    layout = Layout(4, 1, 2)
    clocks = Clocks(4)

    def clock(node: int, true: Any) -> Any:
        shown = clocks.clock(node, true)
        return shown + 80 * MS * (true > 22_000 * MS) if node == 2 else shown

    played = LawfulSteps(
        layout, seed=4, clock=clock, wall_error=clocks.wall_error, ranks_per_node=2,
        steps=tuple(range(1, 9)),
    )  # fmt: skip
    found = align(played.events(), layout, 4, "1f1b", played.steps)
    assert "No straight line fits the clock of n0002 " in found.sentences[1]
    for name, off in furthest(played, found).items():
        assert off <= found.error_ns[name] < 30 * MS


def test_buffered_sends_are_told_by_what_they_contradict() -> None:
    layout = Layout(4, 1, 2)
    played = lawful(6, layout, ranks_per_node=2, steps=(1, 2, 3), directions=True)
    rows: Any = played.true_rows()
    stage = coordinates(layout)[0]
    away = stage[rows["peer"]] - stage[rows["rank"]]
    sends = (rows["kind"] == Kind.P2P) & ((away > 0) == (rows["group"] == 0))
    rows["end_ns"][sends] = rows["begin_ns"][sends] + 10_000
    found = align(played.events(rows), layout, 4, "1f1b", played.steps)
    assert found.sentences[1].startswith("Sends end before their receives begin")
    assert len(found.sentences) == 2
    for name, off in furthest(played, found).items():
        assert off <= found.error_ns[name] < 100 * MS


def test_a_node_without_events_or_flushes_and_rows_that_run_backwards() -> None:
    layout = Layout(4, 1, 2)
    played = lawful(8, layout, ranks_per_node=2, steps=(1, 2, 3))
    events = played.events()
    first = events.parts[1].inner
    assert first is not None
    wrong: Any = first.copy()
    back = np.flatnonzero(wrong["kind"] == Kind.P2P)[5:8]
    wrong["end_ns"][back] = wrong["begin_ns"][back] - 1
    events = changed(events, 1, inner=wrong)
    events = changed(events, 3, clock=events.parts[3].clock[:0])  # its wall clock is unknown
    found = align(Events(events.parts[:2] + events.parts[3:]), layout, 4, "1f1b", played.steps)
    assert found.clocks.keys() == {"n0000", "n0001", "n0003"}
    assert found.sentences[1] == (
        "n0001: 3 spans end before they begin (a clock that ran backwards, or damaged rows): "
        "left out"
    )
    moments = np.arange(3) * played.apart
    reference = found.clocks["n0000"].at(played.clock(0, moments))
    for node in (1, 3):
        off = found.clocks[f"n{node:04d}"].at(played.clock(node, moments)) - reference
        assert np.abs(off).max() <= found.error_ns[f"n{node:04d}"] < 100 * MS


def test_one_node_and_no_steps() -> None:
    layout = Layout(2, 1, 1)
    played = lawful(1, layout, ranks_per_node=2, steps=(1,))
    found = align(played.events(), layout, 4, "1f1b", (1,))
    assert found.sentences == ("All ranks are on n0000: one clock, nothing to align.",)
    assert found.error_ns == {"n0000": 0.0}
    assert align(Events(()), layout, 4).clocks == {}
    apart = lawful(1, layout, ranks_per_node=1, steps=(1,))
    rows = apart.true_rows()
    found = align(apart.events(rows[rows["kind"] == Kind.STEP]), layout, 4)  # no step was kept
    assert found.error_ns == {"n0000": 0.0, "n0001": np.inf}
    assert found.sentences[0].startswith("No whole step has its spans")


def test_ping_pongs_are_compared_and_have_no_part() -> None:
    layout = Layout(4, 1, 2)
    played = lawful(9, layout, ranks_per_node=2, steps=(1, 2, 3), apart=60_000 * MS)
    moments = np.array([-5_000 * MS, 130_000 * MS])
    here = played.clock(0, moments)
    right = [
        Exchange(int(when), f"n{node:04d}", int(there - when + 20_000), 40_000, "n0000")
        for node in (1, 2, 3)
        for when, there in zip(here, played.clock(node, moments), strict=True)
    ]
    wrong = dataclasses.replace(right[-1], offset_ns=right[-1].offset_ns + 30 * MS)
    events = played.events()
    found = align(events, layout, 4, "1f1b", played.steps, right)
    assert all(each.agrees for each in found.checked) and len(found.checked) == 6
    assert found.sentences[1].startswith("6 of 6 ping-pongs agree with that within both errors")
    assert found.error_ns == align(events, layout, 4, "1f1b", played.steps).error_ns
    found = align(events, layout, 4, "1f1b", played.steps, [*right, wrong])
    assert [each.agrees for each in found.checked] == [True] * 6 + [False]
    assert found.checked[-1].difference_ns == pytest.approx(30 * MS, abs=4 * MS)
    assert found.sentences[2].startswith("The ping-pong of n0003 is ")


def test_the_clocks_of_a_run_are_told_by_segment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = Synthetic(Layout(2, 1, 2), 2, (Segment(1, 3), Segment(4, 6)), ranks_per_node=2)
    path = spec.write(tmp_path / "run")
    (path / "events" / "1002.0" / "clock_exchange.json").write_text("{")
    assert main([str(path)]) == 0
    first, second, damage = capsys.readouterr().out.splitlines()
    assert first.startswith("1001.0: Clocks of 2 nodes are aligned with n000 ")
    assert second.startswith("1002.0: Clocks of 2 nodes ")
    assert damage.startswith("1002.0: ") and "clock_exchange.json" in damage
    assert main([str(tmp_path / "none")]) == 1
    assert "no such run directory" in capsys.readouterr().err


def test_tensor_groups_that_leave_a_node_bind_it() -> None:
    """Two nodes share tensor groups and nothing else that is quick: the bounds are theirs."""
    layout = Layout(1, 4, 1)
    played = lawful(10, layout, ranks_per_node=2, steps=(1, 2), reduce=(90 * MS, 99 * MS))
    found = align(played.events(), layout, 4, "1f1b", (1, 2))
    assert furthest(played, found)["n0001"] <= found.error_ns["n0001"] < 20 * MS


@pytest.mark.distributed
@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_ranks_of_one_machine_are_found_to_share_a_clock(tmp_path: Path, schedule: str) -> None:
    """Real training, each rank taken for a node: nothing is off by more than is said."""
    recipe = tiny_recipe(2, 1, parallel={"schedule": schedule})
    (segment,) = {rank["segment"] for rank in train(recipe, 4, tmp_path)}
    (node,) = read(tmp_path / "events" / segment).parts
    rows, outer = node.spans(), node.outer
    parts = [
        dataclasses.replace(
            node, node=f"n{rank}", ranks=(rank,), inner=rows[rows["rank"] == rank],
            outer=outer[outer["rank"] == rank], clock=node.clock[node.clock["rank"] == rank],
            path=None,
        )
        for rank in range(4)
    ]  # fmt: skip
    steps = [1, 2, 3, 4, 5, 6]
    layout = Layout(2, 1, 2)
    m = recipe.micro_batches(layout)
    sent = transfers(Events(tuple(parts)).spans(steps), layout, m, schedule)
    assert (len(sent), sent.unmatched, sent.clamped) == (sent.expected, 0, 0)
    shared = collectives(Events(tuple(parts)).spans(steps), layout, Kind.OPTIMIZER)
    assert (len(shared), shared.unmatched, shared.clamped) == (len(steps), 0, 0)
    # Wall clocks that are wrong on purpose, by up to 50 ms.
    dice = np.random.default_rng(1)
    for part in parts[1:]:
        part.clock["wall_ns"] += dice.integers(-50 * MS, 50 * MS)
    found = align(Events(tuple(parts)), layout, m, schedule, steps)
    assert len(found.sentences) == 1, found.sentences
    whole = outer[(outer["kind"] == Kind.STEP) & np.isin(outer["step"], steps)]
    moments = np.concatenate([whole["begin_ns"], whole["end_ns"]])
    reference = found.clocks["n0"].at(moments)
    for name, error in found.error_ns.items():
        assert np.abs(found.clocks[name].at(moments) - reference).max() <= error < 50 * MS
