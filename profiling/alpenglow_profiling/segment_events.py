"""The events of one segment, all nodes together, read as they are asked for.

    events = read(run / "events" / "1001.0")
    events.outer                  spans of whole steps, checkpoints, start-up ...: all of them
    events.sums                   what each rank spent on each kind in each step: dense arrays
    events.kept                   steps whose spans are there in full
    events.spans([100, 200])      the spans of some of them

Times are ns of wall-clock time since 1970: each node's CLOCK_MONOTONIC moved by one offset, the
median of (wall - monotonic) over its flushes. What is left between two nodes is the error of their
wall clocks (NTP: about a millisecond); `moved` puts better clocks in place of these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from alpenglow_profiling.clock_map import ClockMap
from alpenglow_profiling.kind import ROW, Kind, Rows
from alpenglow_profiling.node_events import NodeEvents, sorted_rows

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StepSums:
    """What each rank spent on each kind in each step."""

    step: Counts
    """[steps], ascending: every step of which any rank has a sum."""
    kinds: tuple[Kind, ...]
    """Those that occur, by number."""
    own_ns: Counts
    """[steps, ranks, kinds]; 0 where nothing is known."""
    count: Counts
    """[steps, ranks, kinds]: how many spans."""

    def own(self, kind: Kind) -> Counts:
        """[steps, ranks]: ns of one kind, zeros where it does not occur."""
        if kind not in self.kinds:
            return np.zeros(self.own_ns.shape[:2], np.int64)
        return self.own_ns[:, :, self.kinds.index(kind)]


@dataclass(frozen=True)
class Events:
    """All that is known of one segment."""

    parts: tuple[NodeEvents, ...]
    damages: tuple[str, ...] = field(default=())
    """One sentence for each thing that could not be read."""
    clocks: Mapping[str, ClockMap] = field(default_factory=dict)
    """By node; a node that is not in it keeps its own wall clock."""

    @cached_property
    def nodes(self) -> dict[int, str]:
        """Rank to host name, for the ranks that left a log."""
        return {rank: part.node for part in self.parts for rank in part.ranks}

    @cached_property
    def world_size(self) -> int:
        """Ranks that the segment was started with; more than `nodes` when logs are missing."""
        return max((part.world_size for part in self.parts), default=0)

    @property
    def sample_every(self) -> int:
        """Spans are kept of each step whose number this divides, and around anomalies."""
        return max((part.sample_every for part in self.parts), default=1)

    @cached_property
    def outer(self) -> Rows:
        """Spans of the outer kinds (`kind.OUTER`), sorted by step, begin, rank."""
        return self._table([(part, part.outer) for part in self.parts])

    @cached_property
    def kept(self) -> Counts:
        """Steps of which any rank has the spans inside, ascending."""
        steps = [part.kept() for part in self.parts]
        return np.unique(np.concatenate([np.empty(0, np.int64), *steps]))

    @cached_property
    def sums(self) -> StepSums:
        """What each rank spent on each kind in each step; int64 [steps, ranks, kinds]."""
        tables = [part.sums() for part in self.parts]
        steps = [np.unique(table["step"]) for table in tables]
        step = np.unique(np.concatenate([np.empty(0, np.uint32), *steps])).astype(np.int64)
        numbers = sorted({int(n) for table in tables for n in np.unique(table["kind"])})
        known = [n for n in numbers if n in Kind._value2member_map_]
        place = np.full(256, -1)
        place[known] = np.arange(len(known))
        shape = (len(step), self.world_size, len(known))
        own, count = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        while tables:
            table = tables.pop()
            table = table[(place[table["kind"]] >= 0) & (table["rank"] < self.world_size)]
            where = (np.searchsorted(step, table["step"]), table["rank"], place[table["kind"]])
            flat = np.ravel_multi_index(where, shape)
            if (np.diff(flat) > 0).all():
                own.ravel()[flat] += table["own_ns"]
                count.ravel()[flat] += table["count"]
            else:  # a step that a rank tells in two parts (never yet seen) must not lose one
                np.add.at(own.ravel(), flat, table["own_ns"])
                np.add.at(count.ravel(), flat, table["count"])
        return StepSums(step, tuple(Kind(n) for n in known), own, count)

    @cached_property
    def extent(self) -> tuple[int, int] | None:
        """First begin and last end of any span, in ns; None where there is no span."""
        rows, last = self.outer, self.kept[-1:]
        if not len(rows):
            rows = self.rows
        elif len(last):
            whole = (rows["step"] == last[0]) & (rows["kind"] == Kind.STEP)
            if whole.sum() < len(self.nodes):  # a step that was cut short has no span of its own
                rows = np.concatenate([rows, self.spans(last.tolist())])
        if not len(rows):
            return None
        return int(rows["begin_ns"].min()), int(rows["end_ns"].max())

    @property
    def rows(self) -> Rows:
        """Every span there is; large for a large run."""
        return self.spans()

    def spans(self, steps: Collection[int] | None = None) -> Rows:
        """All spans of some steps (None: of all), outer ones too, sorted by step, begin, rank."""
        tables = []
        for part in self.parts:
            outer = part.outer
            if steps is not None:
                outer = outer[np.isin(outer["step"], [*steps])]
            tables += [(part, outer), (part, part.spans(steps))]
        return self._table(tables)

    def moved(self, clocks: Mapping[str, ClockMap]) -> Events:
        """The same events on other clocks."""
        return replace(self, clocks={**self.clocks, **clocks})

    def _table(self, tables: Sequence[tuple[NodeEvents, Rows]]) -> Rows:
        moved = [np.empty(0, ROW)]
        for part, read in tables:
            # Spans that run backwards are named by `archive`, those inside steps at the merge.
            table = read[read["end_ns"] >= read["begin_ns"]]
            clock = self.clocks.get(part.node) or ClockMap.of_flushes(part.clock)
            rows: Any = table.copy()
            rows["begin_ns"] = clock.at(table["begin_ns"])
            rows["end_ns"] = clock.at(table["end_ns"])
            moved.append(rows)
        return sorted_rows(np.concatenate(moved))
