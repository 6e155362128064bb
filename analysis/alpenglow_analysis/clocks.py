"""The clocks of all nodes brought together, with what they may still be wrong by.

    alignment = align(events, layout, micro_batches, schedule, steps)
    events = events.moved(alignment.clocks)
    alignment.error_ns["h017"]

    python -m alpenglow_analysis.clocks runs/NAME       what is known of its clocks, by segment

Wall clocks of two nodes agree to about a millisecond, messages take less. What is sure is that
nothing ends before what it waits for has begun: `clock_bounds` makes intervals of that, one a node
and step, `clock_lines` a line through them, offset and drift. The error of a node is the furthest
that its intervals reach from the line in any of the steps, so it is a bound and no guess, whatever
the network's asymmetry; it is about the time of the fastest message there and back, halved, for
each hop from the reference. All ranks of a node share a clock.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.clock_bounds import Causality, Floats, Graph, Ints, Rates
from alpenglow_analysis.clock_evidence import kinds as evidence_kinds
from alpenglow_analysis.clock_evidence import tell
from alpenglow_analysis.clock_lines import FASTEST, Lines, fit, middles
from alpenglow_analysis.clock_words import Checked, Problems, in_words
from alpenglow_profiling.backwards import without_backwards
from alpenglow_profiling.clock_exchange import Exchange, ExchangeError, read_exchanges
from alpenglow_profiling.clock_map import ClockMap
from alpenglow_profiling.kind import ROW, Kind, Rows
from alpenglow_profiling.segment_events import Events

MOST_STEPS = 24
"""Of the kept ones, that are looked at where none are named."""
_PASSES = 5
_FAR = 10 * 86_400 * 10**9
"""ns: how far beyond the steps a line is drawn."""
_SECOND = 10**9
MIDDLE = 0.1
"""Standard deviation of the middle of bounds, by their width: the fastest message there and the
fastest one back differ by so much."""
NTP = 1e6
"""ns: standard deviation of a wall clock that contradicts nothing."""
ENDS = 1e5
"""ns: standard deviation of the moments at which nodes leave a collective that holds them all."""


@dataclass(frozen=True)
class Alignment:
    """The clocks of a segment."""

    clocks: dict[str, ClockMap]
    """By node, for `events.moved`."""
    error_ns: dict[str, float]
    """By node: at most so far is its clock from the reference's, in any of the steps, and between
    them where it runs evenly. Infinite where nothing binds it."""
    reference: str
    """The node that keeps its own wall clock."""
    sentences: tuple[str, ...]
    """For the report: the error first, then what is wrong."""
    checked: tuple[Checked, ...] = ()
    """Ping-pongs that were made beside, each against these clocks."""
    rate: dict[str, float] = field(default_factory=dict)
    """By node: how much slower its clock runs than the reference's, relatively."""


@dataclass(frozen=True)
class _Nodes:
    """The clocks as they are: wall clocks, one offset a node."""

    names: list[str]
    shift: Ints
    """[nodes]: from CLOCK_MONOTONIC to the time that lines start from."""
    of_rank: Ints
    """[world]: index of each rank's node; -1: it left nothing."""
    reference: int


def align(
    events: Events,
    layout: Layout,
    micro_batches: int,
    schedule: str = "1f1b",
    steps: Collection[int] | None = None,
    exchanges: Sequence[Exchange] = (),
) -> Alignment:
    """Find the clocks of all nodes of a segment.

    Args:
        events: of one segment.
        layout: of the run.
        micro_batches: a step.
        schedule: name of the run's schedule.
        steps: kept steps to look at; None: up to `MOST_STEPS`, spread evenly.
        exchanges: ping-pongs to compare with; they have no part in the result.

    Raises:
        ValueError: an unknown schedule.
    """
    if not events.parts:
        return Alignment({}, {}, "", ())
    if steps is None:
        kept = events.kept
        evenly = np.linspace(0, len(kept) - 1, min(MOST_STEPS, len(kept))).astype(int)
        steps = kept[evenly].tolist()
    table, nodes, damages = _read(events, layout, steps)
    problems = Problems(nodes.names, list(damages))
    flushes = {part.node: ClockMap.of_flushes(part.clock) for part in events.parts}
    reference = nodes.names[nodes.reference]
    if len(nodes.names) == 1:
        sentence = f"All ranks are on {reference}: one clock, nothing to align."
        return Alignment(flushes, {reference: 0.0}, reference, (sentence, *damages))
    if not (table["kind"] == Kind.STEP).any():
        sentence = "No whole step has its spans: nodes keep their wall clocks, error unknown."
        unknown = dict.fromkeys(nodes.names, np.inf) | {reference: 0.0}
        return Alignment(flushes, unknown, reference, (sentence, *damages))
    found = _solve(table, nodes, layout, micro_batches, schedule, problems)
    clocks, error = dict(flushes), dict.fromkeys(nodes.names, np.inf)
    rate = dict.fromkeys(nodes.names, 0.0)
    for index, name in enumerate(nodes.names):
        if index in problems.apart:
            continue
        error[name] = float(found.error[index])
        rate[name] = float(found.slope[index])
        if index != nodes.reference:
            clocks[name] = found.clock(index, nodes.shift)
    checked = tuple(
        _check(each, clocks, error, found, nodes.names)
        for each in exchanges
        if max(error.get(node, np.inf) for node in (each.node, each.reference)) < np.inf
    )
    sentences = in_words(reference, error, found.counts, problems, checked)
    return Alignment(clocks, error, reference, sentences, checked, rate)


@dataclass(frozen=True)
class _Solution:
    """Lines (or points) of all nodes; times from `origin`."""

    origin: int
    moment: Floats
    longest: float
    """Step, ns."""
    offset: Floats
    slope: Floats
    error: Floats
    doubt: Floats
    points: dict[int, tuple[Floats, Floats]]
    """Moments and corrections of the nodes that no line fits."""
    counts: tuple[int, int, int]
    """Messages, collectives, steps."""

    @property
    def span(self) -> tuple[int, int]:
        """First and last moment, on the reference's wall clock."""
        return self.origin + int(self.moment[0]), self.origin + int(self.moment[-1])

    def clock(self, node: int, shift: Ints) -> ClockMap:
        """From a node's CLOCK_MONOTONIC to the reference's wall clock."""
        far = np.array([self.moment[0] - _FAR, self.moment[-1] + _FAR])
        at, value = far, self.offset[node] + self.slope[node] * far
        if node in self.points:
            # Within a step, before the first and after the last it goes on as on the whole: it
            # bends, or was set, between them.
            inner, bend = self.points[node]
            gap = np.diff(inner, prepend=inner[0] - _FAR, append=inner[-1] + _FAR)
            near = np.minimum(self.longest, 0.45 * np.stack([gap[:-1], gap[1:]]))
            at = np.concatenate([far, inner - near[0], inner + near[1]])
            value = np.concatenate([bend[[0, -1]], bend, bend])
            value += self.slope[node] * (at - np.concatenate([inner[[0, -1]], inner, inner]))
            order = np.argsort(at)
            at, value = at[order], value[order]
        own = np.rint(at).astype(np.int64) + self.origin - shift[node]
        return ClockMap(own, np.rint(value).astype(np.int64) + shift[node])


def _read(
    events: Events, layout: Layout, steps: Collection[int]
) -> tuple[Rows, _Nodes, tuple[str, ...]]:
    """The spans that say something about clocks, on the wall clocks of their nodes."""
    names = [part.node for part in events.parts]
    shift = np.array([ClockMap.of_flushes(part.clock).offset_ns[0] for part in events.parts])
    of_rank = np.full(layout.world, -1)
    for index, part in enumerate(events.parts):
        of_rank[[rank for rank in part.ranks if rank < layout.world]] = index
    reference = max(int(of_rank[0]), 0)
    kinds = [int(kind) for kind in evidence_kinds(layout, of_rank)]
    tables = []
    for part in events.parts:
        outer, inner = part.outer, part.spans(steps)
        for rows in (outer[np.isin(outer["step"], [*steps])], inner):
            tables.append(rows[np.isin(rows["kind"], kinds)])
    whole = [rows[rows["kind"] == Kind.STEP] for rows in tables[::2]]
    shift = shift + _gross(whole, shift, reference)
    for index, rows in enumerate(tables):
        moved: Any = rows
        for name in ("begin_ns", "end_ns"):
            moved[name] += shift[index // 2]
    rows, damages = without_backwards(np.concatenate([np.empty(0, ROW), *tables]), events.nodes)
    return rows, _Nodes(names, shift, of_rank, reference), damages


def _gross(whole: list[Rows], shift: Ints, reference: int) -> Ints:
    """What brings steps together that wall clocks set seconds apart, or that have none."""
    more = np.zeros(len(whole), np.int64)
    begins = [dict(zip(w["step"].tolist(), w["begin_ns"].tolist(), strict=True)) for w in whole]
    for index, mine in enumerate(begins):
        both = sorted(mine.keys() & begins[reference].keys())
        apart = [begins[reference][step] - mine[step] for step in both[:1]]
        off = sum(apart) + int(shift[reference] - shift[index])
        more[index] = off if abs(off) > _SECOND else 0
    return more


def _solve(
    rows: Rows, nodes: _Nodes, layout: Layout, micro_batches: int, schedule: str, problems: Problems
) -> _Solution:
    """Bounds, lines, and again with times that the lines have straightened."""
    whole = rows[rows["kind"] == Kind.STEP]
    steps = np.unique(whole["step"])
    rows = rows[np.isin(rows["step"], steps)]  # one that was cut short has no such span
    origin = int(whole["begin_ns"].min()) if len(whole) else 0
    middle = (whole["begin_ns"] - origin + (whole["end_ns"] - whole["begin_ns"]) / 2)[:, None]
    moment = np.array([float(np.median(middle[whole["step"] == step])) for step in steps])
    longest = float((whole["end_ns"] - whole["begin_ns"]).max(initial=0))
    mine = np.arange(len(nodes.names)) != nodes.reference
    nothing = np.zeros(len(mine))
    rates = Rates(nothing, nothing, np.where(mine, FASTEST, 0.0))
    for buffered in (False, True):
        said = Causality(len(nodes.names), moment)
        shape = (nodes.of_rank, layout, micro_batches, schedule)
        counts = tell(said, rows, origin, steps, *shape, rendezvous=not buffered)
        graph = said.graph()
        problems.buffered = buffered
        if len(graph.bounds(rates, nodes.reference)[2]) * 2 <= len(steps):
            break  # else sends may not wait for their receivers here
    found = graph.judge(rates, nodes.reference)
    problems.contradictions = [each._replace(step=int(steps[each.step])) for each in found]
    best: tuple[Rates, Lines, Floats, Floats, Floats] | None = None
    for _ in range(_PASSES):
        lower, upper, bad = graph.bounds(rates, nodes.reference)
        if best is not None and len(bad):
            break  # a clock that bends within its bounds was taken for a line: keep what was sure
        guess, about = _guess(graph, rates, nodes.reference, lower, upper)
        lines = fit(moment, lower, upper, guess, about, rates.slope)
        best = (rates, lines, lower, upper, guess)
        problems.likely_ns = about
        offset, slope = rates.offset + lines.offset, rates.slope + lines.slope
        doubt = np.where(mine, lines.doubt, 0.0)
        settled = (doubt > 0.7 * rates.doubt)[mine].all()
        rates = Rates(offset, slope, doubt)
        if settled:
            break
    assert best is not None
    return _solution(origin, moment, longest, *best, problems, counts)


def _guess(
    graph: Graph, rates: Rates, reference: int, lower: Floats, upper: Floats
) -> tuple[Floats, float]:
    """Where between its bounds each node's clock is thought to be, and its standard deviation.

    The middles contradict nothing, and are right where messages take as long one way as the other.
    So does what makes all nodes leave the optimizer's collective at once, when it gives way just so
    far, or where there is none, what is left of the wall clocks. Which of the two counts more is a
    matter of their variances: of the middles a share of the bounds' width, of the other what it had
    to give way, and no less than such ends, or NTP, differ by.
    """
    there, middle = middles(lower, upper)
    wish, usual = graph.meeting(rates, reference), ENDS
    if np.isnan(wish).any():
        wish, usual = -(rates.offset + graph.moment[:, None] * rates.slope), NTP
    near = graph.nearest(rates, wish)
    gave_way = np.abs(near - wish).max(initial=0)
    near = np.where(there, near - near[:, [reference]], 0)
    width = np.median(upper[there] - lower[there]) if there.any() else 0.0
    of_middles = (MIDDLE * width) ** 2
    of_near = max(usual, float(gave_way)) ** 2
    share = of_middles / (of_middles + of_near)
    return np.asarray(middle + share * (near - middle)), float(np.sqrt(share * of_near))


def _reach(moment: Floats, upper: Floats, lower: Floats, value: Floats, doubt: Floats) -> Floats:
    """[nodes]: how far a clock can be from its line in any step.

    What bounds it in one step bounds it in another too, less tightly the further that is: its rate
    is no further from the line's than the doubt.
    """
    furthest = np.zeros(len(doubt))
    for now in moment:
        away = doubt * np.abs(moment - now)[:, None]
        above = (upper - value + away).min(axis=0)
        below = (value - lower + away).min(axis=0)
        furthest = np.maximum(furthest, np.maximum(above, below))
    return furthest


def _solution(
    origin: int,
    moment: Floats,
    longest: float,
    rates: Rates,
    lines: Lines,
    lower: Floats,
    upper: Floats,
    guess: Floats,
    problems: Problems,
    counts: tuple[int, int, int],
) -> _Solution:
    """The corrections, and how far the bounds reach from them."""
    there = np.isfinite(lower) & np.isfinite(upper)
    problems.apart = np.flatnonzero(~there.any(axis=0)).tolist()
    value = lines.at(moment)
    points: dict[int, tuple[Floats, Floats]] = {}
    for node in np.flatnonzero(~lines.fits & there.any(axis=0)).tolist():
        mine = there[:, node]
        value[mine, node] = guess[mine, node]
        known = rates.offset[node] + rates.slope[node] * moment[mine]
        points[node] = (moment[mine], known + value[mine, node])
    problems.bent = sorted(points)
    reach = np.where(there, np.maximum(upper - value, value - lower), 0)
    error = np.where(
        lines.fits, _reach(moment, upper, lower, value, lines.doubt), reach.max(axis=0)
    )
    # Within a step a clock may go another way than its line; a line is read at a time that is
    # itself off by the correction; offsets are whole ns.
    within = lines.doubt * longest + np.abs(lines.slope) * np.abs(value).max(axis=0, initial=0) + 1
    error += np.where(rates.doubt > 0, within, 0)
    return _Solution(
        origin, moment, longest, rates.offset + lines.offset, rates.slope + lines.slope, error,
        lines.doubt, points, counts,
    )  # fmt: skip


def _check(
    exchange: Exchange, clocks: dict[str, ClockMap], error: dict[str, float], found: _Solution,
    names: list[str],
) -> Checked:  # fmt: skip
    """A ping-pong against the clocks."""
    here = np.array([exchange.when_ns])
    common = clocks[exchange.reference].at(here)
    apart = int((clocks[exchange.node].at(here + exchange.offset_ns) - common)[0])
    # Outside the steps a line may go on another way within its doubt.
    first, last = found.span
    outside = max(first - int(common[0]), int(common[0]) - last, 0)
    allowed = exchange.error_ns + sum(
        error[node] + found.doubt[names.index(node)] * outside
        for node in {exchange.node, exchange.reference}
    )
    return Checked(exchange.node, exchange.when_ns, apart, float(allowed))


def main(arguments: Sequence[str] | None = None) -> int:
    """Say how well the clocks of each segment of a run are known."""
    from alpenglow_analysis.bubble import schedule_name
    from alpenglow_analysis.run import Run
    from alpenglow_analysis.segment import RunError

    parser = argparse.ArgumentParser(prog="python -m alpenglow_analysis.clocks")
    parser.add_argument("run", type=Path, help="a run directory")
    try:
        run = Run.load(parser.parse_args(arguments).run)
    except RunError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    shape = (run.facts.layout, run.facts.micro_batches, schedule_name(run))
    for name, events in run.events.items():
        told: tuple[str, ...] = ()
        exchanges: tuple[Exchange, ...] = ()
        try:
            exchanges = read_exchanges(run.path / "events" / name)
        except ExchangeError as error:
            told = (str(error),)
        if events.world_size == run.facts.ranks:
            told = (*align(events, *shape, exchanges=exchanges).sentences, *told)
        else:
            told = (*told, "Another number of ranks than the run's layout: not aligned.")
        sys.stdout.write("".join(f"{name}: {sentence}\n" for sentence in told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
