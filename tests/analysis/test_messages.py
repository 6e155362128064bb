"""Ends of messages and members of collectives: found in any layout, waits and transfers true."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lawful_steps import LawfulSteps

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.messages import collectives, coordinates, groups, in_words, transfers
from alpenglow_profiling.kind import ROW, Kind, Rows

LAYOUTS = (
    Layout(3, 2, 2),
    Layout(4, 1, 3, order="data-major"),
    Layout(3, 2, 2, seats=(2, 0, 1)),
    Layout(2, 1, 1),
)


def renamed(rows: Rows, **columns: Any) -> Rows:
    changed: Any = rows.copy()
    for name, value in columns.items():
        changed[name] = value
    return changed  # type: ignore[no-any-return]


@pytest.mark.parametrize("directions", [False, True])
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_message_has_its_two_ends(layout: Layout, schedule: str, directions: bool) -> None:
    """Every message of the schedule once, between the right ranks, none ending before it began."""
    lawful = LawfulSteps(layout, 5, schedule, directions=directions, steps=(4, 8))
    rows = lawful.true_rows()
    found = transfers(rows, layout, 5, schedule)
    assert (found.unmatched, found.clamped, found.reasons) == (0, 0, {})
    wanted = {
        (step, m, down, layout.rank(s + (not down), d, t), layout.rank(s + down, d, t))
        for step, m, down in itertools.product((4, 8), range(5), (True, False))
        for s in range(layout.pipeline - 1)
        for d, t in itertools.product(range(layout.data), range(layout.tensor))
    }
    columns = (found.step, found.micro_batch, found.down, found.sender, found.receiver)
    assert set(zip(*(column.tolist() for column in columns), strict=True)) == wanted
    assert len(found) == len(wanted) == found.expected
    least = np.where(found.down, lawful.down[0], lawful.up[0])
    most = np.where(found.down, lawful.down[1], lawful.up[1])
    assert ((found.transfer >= least) & (found.transfer <= most)).all()
    assert (np.minimum(found.wait_sender, found.wait_receiver) == 0).all()
    assert (found.wait_receiver + found.transfer == found.receive_end - found.receive_begin).all()
    assert (found.bytes == 1024).all()


@pytest.mark.parametrize("layout", LAYOUTS[:3])
@pytest.mark.parametrize("kind", [Kind.TENSOR_REDUCE, Kind.GRADIENT_REDUCE, Kind.OPTIMIZER])
def test_every_collective_has_its_members(layout: Layout, kind: Kind) -> None:
    lawful = LawfulSteps(layout, 3, steps=(4, 8))
    found = collectives(lawful.true_rows(), layout, kind)
    if kind is Kind.TENSOR_REDUCE and layout.tensor == 1:
        assert len(found) == 0
        return
    members = groups(layout, kind)
    each = 6 if kind is Kind.TENSOR_REDUCE else 1  # three forwards, three backwards
    assert len(found) == 2 * len(members) * each
    assert (found.unmatched, found.clamped) == (0, 0)
    assert (found.ranks == members[found.group]).all()
    least, most = lawful.tensor_reduce if kind is Kind.TENSOR_REDUCE else lawful.reduce
    assert ((found.transfer >= least) & (found.transfer <= most)).all()
    assert (found.wait.min(axis=1) == 0).all()
    assert (found.wait + found.transfer == found.end - found.begin).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), lost=st.integers(1, 30))
def test_what_is_missing_is_counted_and_the_rest_is_right(seed: int, lost: int) -> None:
    """Rows taken out at random: every row is in a message or counted; no message is a wrong one."""
    layout = Layout(3, 1, 2)
    lawful = LawfulSteps(layout, 4, steps=(1, 2), seed=seed)
    rows = lawful.true_rows()
    whole = transfers(rows, layout, 4)
    columns = [field.name for field in dataclasses.fields(whole)][:9]
    right = set(zip(*(getattr(whole, name).tolist() for name in columns), strict=True))
    dice = np.random.default_rng(seed)
    messages = np.flatnonzero(rows["kind"] == Kind.P2P)
    rows = np.delete(rows, dice.choice(messages, lost, replace=False))
    found = transfers(rows, layout, 4)
    assert set(zip(*(getattr(found, name).tolist() for name in columns), strict=True)) <= right
    assert 2 * len(found) + found.unmatched == len(messages) - lost
    assert found.unmatched > 0 or lost % 2 == 0
    assert found.expected == whole.expected


def test_rows_that_nobody_can_match_are_named() -> None:
    layout = Layout(2, 1, 2)
    rows = LawfulSteps(layout, 2, steps=(1,)).true_rows()
    messages = rows["kind"] == Kind.P2P
    silent = renamed(rows, peer=np.where(messages, -1, rows["peer"]))
    found = transfers(silent, layout, 2)
    assert (len(found), found.unmatched) == (0, messages.sum())
    assert in_words("messages", found.reasons) == [
        "16 spans of messages name no neighbouring stage or no micro-batch: left out"
    ]
    strangers = renamed(rows, rank=rows["rank"] + 2)
    assert transfers(strangers, layout, 2).reasons == {
        "are of ranks outside the layout": 8,
        "name no neighbouring stage or no micro-batch": 8,
    }
    twice = np.concatenate([rows, rows[messages]])
    assert set(transfers(twice, layout, 2).reasons) == {"do not tell a send from a receive"}
    told = LawfulSteps(layout, 2, steps=(1,), directions=True).true_rows()
    twice = np.concatenate([told, told[told["kind"] == Kind.P2P][:1]])
    found = transfers(twice, layout, 2)
    assert found.reasons == {"are there twice": 2, "have no other end": 1}
    assert len(found) == 7
    empty = transfers(np.empty(0, ROW), layout, 2)
    assert (len(empty), empty.expected, empty.unmatched) == (0, 0, 0)
    assert len(collectives(np.empty(0, ROW), layout, Kind.OPTIMIZER)) == 0
    with pytest.raises(ValueError, match="no collective"):
        collectives(rows, layout, Kind.FORWARD)
    with pytest.raises(ValueError, match="choose from"):
        transfers(rows, layout, 2, "none")


def test_messages_of_validation_are_none_of_the_step() -> None:
    """Validation right after a step sends activations under the step's number."""
    layout = Layout(2, 1, 1)
    rows = LawfulSteps(layout, 2, steps=(1,)).true_rows()
    end = int(rows["end_ns"].max())
    forward = rows[(rows["kind"] == Kind.P2P) & (rows["micro_batch"] == 0)][:2]
    late = renamed(
        forward, begin_ns=forward["begin_ns"] + end, end_ns=forward["end_ns"] + end + 100
    )
    found = transfers(np.concatenate([rows, late]), layout, 2)
    assert (len(found), found.unmatched) == (4, 0)


def test_a_group_without_a_member_is_left_out_and_the_others_stay() -> None:
    layout = Layout(2, 2, 2)
    rows = LawfulSteps(layout, 2, steps=(1, 2)).true_rows()
    gone = layout.rank(1, 0, 1)
    less = rows[rows["rank"] != gone]
    found = collectives(less, layout, Kind.GRADIENT_REDUCE)
    assert not np.isin(layout.rank(1, 1, 1), found.ranks)
    assert (len(found), found.unmatched) == (6, 2)
    assert len(collectives(less, layout, Kind.OPTIMIZER)) == 0
    assert collectives(less, layout, Kind.OPTIMIZER).unmatched == 2 * 7


def test_a_tied_weight_is_no_collective_of_the_replicas() -> None:
    """First and last stage reduce it before their gradients: the last span is the replicas'."""
    layout = Layout(3, 1, 2)
    rows = LawfulSteps(layout, 2, steps=(1,)).true_rows()
    truth = collectives(rows, layout, Kind.GRADIENT_REDUCE)
    reduce = rows[rows["kind"] == Kind.GRADIENT_REDUCE]
    ends = reduce[np.isin(coordinates(layout)[0][reduce["rank"]], (0, 2))]
    tied = renamed(ends, begin_ns=ends["begin_ns"] - 1000, end_ns=ends["begin_ns"])
    found = collectives(np.concatenate([rows, tied]), layout, Kind.GRADIENT_REDUCE)
    assert found.begin.tolist() == truth.begin.tolist()
    assert found.unmatched == 0
