"""What a job was charged, on random ranks, beside a count of every single nanosecond."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow_analysis.apportion import apportion
from alpenglow_analysis.charge import MEASURED, OUTSIDE, PART_OF_KIND, SegmentCharge, charge
from alpenglow_analysis.segment import Segment
from alpenglow_profiling.kind import OUTER, ROW, SUM, Kind
from alpenglow_profiling.node_events import CLOCK, NodeEvents, sorted_rows, sorted_sums, split
from alpenglow_profiling.segment_events import Events
from alpenglow_profiling.self_time import sums

INNER = (
    Kind.DATA_WAIT, Kind.FORWARD, Kind.BACKWARD, Kind.P2P, Kind.WEIGHT_GRAD, Kind.GRADIENT_REDUCE,
    Kind.OPTIMIZER,
)  # fmt: skip
WORLD, PER_NODE = 4, 2
END = 1000
"""ns of a job: a record's times hold whole microseconds."""

Inner = list[tuple[Kind, int, int]]
"""Spans of a step: kind, ns, and ns of recomputation inside."""


@dataclass
class Rank:
    """The time of one rank, laid down span after span and painted ns by ns."""

    number: int
    lost_from: int = 99
    """Steps from this one on are given up by a later job."""
    now: int = 0
    rows: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    paint: list[str | tuple[int, str]] = field(default_factory=list)
    """By ns: a piece of the charge, or of which whole step it is what part."""
    steps: list[int] = field(default_factory=list)
    """Numbers of the whole steps, in the order of their spans."""

    def wait(self, ns: int) -> None:
        """Nothing is recorded; before the first span and after the last it is launch."""
        self._colour(ns, "between")

    def outside(self, kind: Kind, ns: int, step: int = 0) -> None:
        """A span beside a step, or inside one."""
        self.rows.append((step, kind, -1, self.now, self.now + ns))
        self._colour(ns, OUTSIDE[kind])

    def spans(self, step: int, inner: Inner, *, cut: bool = False) -> None:
        """Spans of a step, one after the other."""
        for kind, ns, redone in inner:
            begin = self.now
            self._colour(ns, "lost" if cut else (len(self.steps), PART_OF_KIND[kind]))
            if redone:
                self.rows.append((step, Kind.RECOMPUTE, -1, self.now, self.now + redone))
                self._colour(redone, "lost" if cut else (len(self.steps), "recompute"))
            self.rows.append((step, kind, 0, begin, self.now))

    def step(self, number: int, inner: Inner, rest: int, save: int) -> None:
        """A whole step: at its end perhaps a checkpoint inside, and a moment in no span."""
        begin = self.now
        self.spans(number, inner)
        if save:
            self.outside(Kind.CHECKPOINT, save, number)
        self._colour(rest, (len(self.steps), "inside"))
        self.rows.append((number, Kind.STEP, -1, begin, self.now))
        self.steps.append(number)

    def drain(self, begin: int, end: int) -> None:
        """A copy in the background: it counts where nothing else goes on."""
        self.rows.append((0, Kind.DRAIN, -1, begin, end))
        for ns in range(begin, end):
            if self.paint[ns] == "between":
                self.paint[ns] = OUTSIDE[Kind.DRAIN]

    def _colour(self, ns: int, mark: str | tuple[int, str]) -> None:
        self.paint += [mark] * ns
        self.now += ns

    def given_up(self, nth: int) -> bool:
        """Whether the n-th whole step was trained again."""
        number = self.steps[nth]
        return number >= self.lost_from or any(n <= number for n in self.steps[nth + 1 :])

    def end(self, *, behind: bool) -> int:
        """Where its record ends; where a log breaks off, with the last whole span."""
        return max(row[4] for row in self.rows if row[1] in OUTER or not behind)

    def counted(self, most: int, ended: int) -> Counter[str]:
        """ns by piece, and by part of kept steps.

        Args:
            most: steps of the rank that has most.
            ended: where the last record of all ranks ends.
        """
        behind = len(self.steps) + 1 < most
        begin, end = min(row[3] for row in self.rows), self.end(behind=behind)
        found: Counter[str] = Counter()
        for ns in range(END):
            if not begin <= ns < end:
                found["unrecorded" if behind and end <= ns < ended else "launch"] += 1
                continue
            mark = self.paint[ns]
            if isinstance(mark, tuple):
                mark = "lost" if self.given_up(mark[0]) else mark[1]
            found[mark] += 1
        return found

    def node(self) -> NodeEvents:
        """The rank as it left its events, on a node of its own."""
        rows = np.zeros(len(self.rows), ROW)
        for name in ("bytes", "group", "peer"):
            rows[name] = -1
        rows["rank"] = self.number
        for place, name in enumerate(("step", "kind", "micro_batch", "begin_ns", "end_ns")):
            rows[name] = [row[place] for row in self.rows]
        outer, inner = split(sorted_rows(rows))
        return NodeEvents(
            f"n{self.number}", outer, np.zeros(0, CLOCK), WORLD, (self.number,), {},
            inner=inner, totals=sorted_sums(sums(rows)),
        )  # fmt: skip


def counted(there: list[Rank]) -> list[Counter[str]]:
    """Of each rank."""
    most = max(len(rank.steps) for rank in there)
    ended = max(rank.end(behind=len(rank.steps) + 1 < most) for rank in there)
    return [rank.counted(most, ended) for rank in there]


@st.composite
def inners(draw: st.DrawFn) -> Inner:
    length = st.integers(1, 9)
    kinds = draw(st.lists(st.sampled_from(INNER), max_size=4))
    return [(kind, draw(length), draw(length) if kind is Kind.BACKWARD else 0) for kind in kinds]


@st.composite
def jobs(draw: st.DrawFn, *, rewinds: bool) -> tuple[list[Rank], int]:
    """Ranks that left events, of a job of four, and the first step that was trained again."""
    lost_from, length = draw(st.sampled_from([99, 99, 3, 1])), st.integers(1, 12)
    there = [
        Rank(number, lost_from)
        for number in sorted(draw(st.sets(st.integers(0, WORLD - 1), min_size=1)))
    ]
    numbers, step = [], 1
    for _ in range(draw(st.integers(0, 6))):  # ranks step together, and go back together
        numbers.append(step)
        step = draw(st.integers(1, step + 1)) if rewinds else step + 1
    for rank in there:
        rank.wait(draw(st.integers(0, 20)))
        rank.outside(Kind.STARTUP, draw(length))
        if draw(st.booleans()):
            rank.outside(Kind.RESTART, draw(length))
        broken = draw(st.sampled_from([0, 0, 0, 1, 3]))
        for number in numbers[: max(0, len(numbers) - broken)]:
            rank.wait(draw(st.integers(0, 4)))
            rank.step(number, draw(inners()), draw(length), draw(st.sampled_from([0, 0, 5])))
            kinds = (None, None, Kind.CHECKPOINT, Kind.EVALUATE)
            if after := draw(st.sampled_from(kinds)):
                rank.outside(after, draw(length), number)
        last = min(row[3] for row in rank.rows)
        if rank.now - last > 2 and draw(st.booleans()):
            begin = draw(st.integers(last, rank.now - 2))
            rank.drain(begin, draw(st.integers(begin + 1, rank.now)))
        if draw(st.booleans()):
            under_way = rank.steps[-1] + 1 if rank.steps else 1
            rank.spans(under_way, draw(inners()), cut=True)
    return there, lost_from


def segment(elapsed: int, nodes: int) -> Segment:
    return Segment(
        name="1.0", activity="pretrain", submitted=None, started=0.0, ended=elapsed / 1e9,
        estimated=False, nodes=nodes, nodes_asked=nodes, ranks=WORLD, ranks_per_node=PER_NODE,
        hosts=(), resumed_from_step=0, last_step=0, last_checkpoint=0, exit_code=0,
        reason="complete", reason_text="",
    )  # fmt: skip


def whole(got: SegmentCharge) -> int:
    return sum(got.pieces.values()) + int(got.duration.sum()) + got.untold


@settings(max_examples=150, deadline=None)
@given(jobs(rewinds=False), st.integers(0, 2))
def test_every_ns_is_where_it_was_spent(job: tuple[list[Rank], int], spare: int) -> None:
    there, lost_from = job
    events = Events(tuple(rank.node() for rank in there))
    got = charge(segment(END, WORLD // PER_NODE + spare), events, lost_from)
    expected: Counter[str] = Counter()
    for rank, mine in zip(there, counted(there), strict=True):
        expected += mine
        parts = dict(zip(MEASURED, got.parts[rank.number].tolist(), strict=True))
        assert parts == {name: mine[name] for name in MEASURED}
    for piece in ("launch", "startup", "restart", "checkpoint", "evaluate", "between", "lost"):
        assert got.pieces[piece] == expected[piece], piece
    assert got.pieces["unrecorded"] == expected["unrecorded"] + (WORLD - len(there)) * END
    assert got.pieces["unused"] == PER_NODE * spare * END
    assert int(got.compute.sum()) == expected["compute"]
    assert int(got.recompute.sum()) == expected["recompute"]
    assert got.untold == 0
    assert whole(got) == got.charged == (WORLD + PER_NODE * spare) * END


@settings(max_examples=150, deadline=None)
@given(jobs(rewinds=True), st.integers(0, 120))
def test_a_job_that_went_back_or_ended_early_adds_up(
    job: tuple[list[Rank], int], early: int
) -> None:
    """Its sums hold steps that were trained twice, its spans reach beyond its end."""
    there, lost_from = job
    events = Events(tuple(rank.node() for rank in there))
    got = charge(segment(END, WORLD // PER_NODE), events, lost_from)
    expected = sum(counted(there), Counter[str]())
    assert got.pieces["lost"] == expected["lost"]
    assert int(got.duration.sum()) + got.untold == sum(expected[name] for name in MEASURED)
    for rank in there:  # the last `early` ns come after the job's end
        rank.rows = [(*row[:3], row[3] + END - early, row[4] + END - early) for row in rank.rows]
    late = charge(
        segment(END, WORLD // PER_NODE), Events(tuple(rank.node() for rank in there)), lost_from
    )
    for found in (got, late):
        assert whole(found) == found.charged == WORLD * END
        assert all(ns >= 0 for ns in found.pieces.values())
        assert (found.parts >= 0).all()
        assert (found.waiting >= 0).all()


def test_a_log_that_breaks_off_leaves_its_rank_unrecorded() -> None:
    """Not launch: the others say that the job went on."""
    there = [Rank(number) for number in range(WORLD)]
    for rank in there:
        rank.outside(Kind.STARTUP, 10)
        for number in range(1, 3 if rank.number == 2 else 21):
            rank.step(number, [(Kind.FORWARD, 12, 0)], 8, 0)
    there[2].spans(3, [(Kind.FORWARD, 5, 0)], cut=True)
    got = charge(segment(END, 2), Events(tuple(rank.node() for rank in there)), None)
    assert got.pieces["unrecorded"] == 18 * 20
    assert got.pieces["lost"] == 0
    assert got.pieces["launch"] == WORLD * (END - 410)
    assert got.ranks.tolist() == [4, 4, *[3] * 18]
    assert whole(got) == got.charged


def test_steps_without_sums_are_told_from_those_with_some() -> None:
    rank = Rank(0)
    rank.outside(Kind.STARTUP, 5)
    for number in (1, 2, 3):
        rank.step(number, [(Kind.FORWARD, 10, 0), (Kind.P2P, 6, 0)], 4, 0)
    node = rank.node()
    known = node.sums()[node.sums()["step"] != 2]
    known = known[(known["step"] != 3) | (known["kind"] == Kind.FORWARD)]
    assert known.dtype == SUM
    part = NodeEvents(
        node.node, node.outer, node.clock, 1, (0,), {}, inner=node.inner, totals=known
    )
    got = charge(segment(END, 2), Events((part,)), None)
    assert got.untold == 20, "of step 2 there are no sums"
    assert got.compute.tolist() == [10, 0, 10]
    assert got.duration.tolist() == [20, 0, 20], "what the sums of step 3 lack is in no span"
    assert whole(got) == got.charged


@given(
    st.integers(-(10**18), 10**18),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(-50, 100), min_size=1),
)
def test_parts_are_whole_and_sum_to_the_whole(ns: int, weights: dict[str, int]) -> None:
    total = sum(weights.values())
    if not total:
        with pytest.raises(ValueError, match="divide nothing"):
            apportion(ns, weights)
        return
    parts = apportion(ns, weights)
    assert sum(parts.values()) == ns
    assert all(
        abs(parts[key] * total - ns * weight) < abs(total) for key, weight in weights.items()
    )
