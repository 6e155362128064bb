"""The events of one node: in memory, or in its HDF5 file, of which only what is asked for is read.

    NODE.h5
      outer/    rank step kind micro_batch begin_ns end_ns bytes group peer    every span of the
                outer kinds; one dataset a column, sorted by step, begin, rank
      spans/    the same columns: spans inside the steps that were kept
                index_step, index_start: where each step begins in them
      sums/     rank step kind count own_ns bytes    every step, sorted by step, rank, kind
      clock     rows of (rank, monotonic_ns, wall_ns), one for each flush
      attributes: format_version, segment, node, world_size, ranks, kinds, logs, tails,
                damages, sample_every

`begin_ns` and `end_ns` are CLOCK_MONOTONIC of the node.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from alpenglow_profiling.kind import OUTER, ROW, SUM, Kind, Rows, Sums
from alpenglow_profiling.self_time import sums as summed

FORMAT_VERSION = 2
CLOCK: np.dtype[np.void] = np.dtype([("rank", "<u4"), ("monotonic_ns", "<i8"), ("wall_ns", "<i8")])
_CHUNK = 1 << 15
_OUTER = [int(kind) for kind in OUTER]

Table = np.ndarray[Any, np.dtype[np.void]]


@dataclass(frozen=True)
class NodeEvents:
    """All that is known of one node, times on its CLOCK_MONOTONIC."""

    node: str
    outer: Rows
    """Spans of the outer kinds, sorted by step, begin, rank."""
    clock: Table
    """dtype `CLOCK`."""
    world_size: int
    ranks: tuple[int, ...]
    logs: dict[str, int]
    """Name and size of each log that went in."""
    damages: tuple[str, ...] = ()
    sample_every: int = 1
    inner: Rows | None = None
    """Spans inside kept steps; None: they are in `path`."""
    totals: Sums | None = None
    """Sums of every step; None: they are in `path`."""
    path: Path | None = None
    tails: dict[str, int] = field(default_factory=dict)
    """Name and `State.tail` of each log: with its size they show whether it has changed since."""

    def kept(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Steps of which there are spans inside, ascending."""
        if self.inner is not None:
            return np.unique(self.inner["step"]).astype(np.int64)
        with h5py.File(self.path, "r") as file:
            return np.asarray(file["spans/index_step"][:], np.int64)

    def spans(self, steps: Collection[int] | None = None) -> Rows:
        """Spans inside some kept steps (None: all of them), sorted by step, begin, rank."""
        if self.inner is not None:
            return (
                self.inner if steps is None else self.inner[np.isin(self.inner["step"], [*steps])]
            )
        with h5py.File(self.path, "r") as file:
            group = file["spans"]
            size = len(group["rank"])
            if steps is None:
                return _read_table(group, ROW, [(0, size)])
            known, start = group["index_step"][:], group["index_start"][:].tolist()
            ends = [*start[1:], size]
            wanted = np.flatnonzero(np.isin(known, [*steps])).tolist()
            return _read_table(group, ROW, [(start[i], ends[i]) for i in wanted])

    def sums(self) -> Sums:
        """Sums of every step, sorted by step, rank, kind."""
        if self.totals is not None:
            return self.totals
        with h5py.File(self.path, "r") as file:
            return _read_table(file["sums"], SUM, [(0, len(file["sums/rank"]))])

    def loaded(self) -> NodeEvents:
        """The same with everything in memory."""
        return NodeEvents(
            self.node, self.outer, self.clock, self.world_size, self.ranks, self.logs,
            self.damages, self.sample_every, self.spans(), self.sums(), tails=self.tails,
        )  # fmt: skip


ROW_ORDER = ("step", "begin_ns", "rank")
SUM_ORDER = ("step", "rank", "kind")


def sorted_rows(rows: Rows) -> Rows:
    """Spans sorted by step, begin, rank."""
    return sort(rows.copy(), ROW_ORDER)


def sorted_sums(totals: Sums) -> Sums:
    """Sums sorted by step, rank, kind."""
    return sort(totals.copy(), SUM_ORDER)


def sort(table: Table, by: tuple[str, ...]) -> Table:
    """Sort a table in place; a column at a time, as it may be too large to be there twice."""
    order = np.lexsort([table[name] for name in reversed(by)])
    for name in table.dtype.names or ():
        table[name] = table[name][order]
    return table


def split(rows: Rows) -> tuple[Rows, Rows]:
    """Tell the outer kinds' spans from those inside steps."""
    outer = np.isin(rows["kind"], _OUTER)
    return rows[outer], rows[~outer]


def write_node(path: Path, events: NodeEvents, segment: str) -> None:
    """Write a node's file under a temporary name, sync it, rename it.

    Args:
        path: the file.
        events: with `inner` and `totals` in memory, all sorted.
        segment: the segment's name.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    inner = events.spans()
    try:
        with h5py.File(temporary, "w") as file:
            _write_table(file.create_group("outer"), events.outer)
            spans = file.create_group("spans")
            _write_table(spans, inner)
            steps, starts = np.unique(inner["step"], return_index=True)
            spans.create_dataset("index_step", data=steps.astype(np.uint32))
            spans.create_dataset("index_start", data=starts.astype(np.int64))
            _write_table(file.create_group("sums"), events.sums())
            file.create_dataset("clock", data=events.clock)
            file.attrs.update(
                format_version=FORMAT_VERSION,
                segment=segment,
                node=events.node,
                world_size=events.world_size,
                ranks=np.array(events.ranks, dtype=np.uint32),
                kinds=json.dumps({int(kind): kind.label for kind in Kind}),
                logs=json.dumps(events.logs),
                tails=json.dumps(events.tails),
                damages=json.dumps(events.damages),
                sample_every=events.sample_every,
            )
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_node(path: Path) -> NodeEvents:
    """Open a node's file; spans and sums stay in it until they are asked for.

    Raises:
        OSError: it cannot be read.
        KeyError: it is not a file of events.
        ValueError: it is of a version that this code does not read.
    """
    with h5py.File(path, "r") as file:
        version = int(file.attrs["format_version"])
        if version not in (1, FORMAT_VERSION):
            raise ValueError(
                f"format version {version}, this code reads 1 and {FORMAT_VERSION}: use the "
                "release of Alpenglow that wrote it"
            )
        common = {
            "node": str(file.attrs["node"]),
            "clock": file["clock"][:],
            "world_size": int(file.attrs["world_size"]),
            "ranks": tuple(int(rank) for rank in file.attrs["ranks"]),
            "logs": json.loads(file.attrs["logs"]),
            "tails": json.loads(file.attrs.get("tails", "{}")),
            "damages": tuple(json.loads(file.attrs["damages"])),
            "sample_every": int(file.attrs.get("sample_every", 1)),
        }
        if version == 1:  # all spans of all steps in one table, no sums
            rows = _read_table(file, ROW, [(0, len(file["rank"]))])
            outer, inner = split(rows)
            by_rank = [summed(rows[rows["rank"] == rank]) for rank in common["ranks"]]
            totals = sorted_sums(np.concatenate([np.empty(0, SUM), *by_rank]))
            return NodeEvents(outer=outer, inner=inner, totals=totals, **common)
        for needed in ("spans/index_step", "sums/rank"):
            file[needed]  # a KeyError here and not later
        outer = _read_table(file["outer"], ROW, [(0, len(file["outer/rank"]))])
        return NodeEvents(outer=outer, path=path, **common)


def _write_table(group: Any, table: Table) -> None:
    for name in table.dtype.names or ():
        column = np.ascontiguousarray(table[name])
        options: dict[str, Any] = {}
        if len(column):
            options = {
                "chunks": (min(_CHUNK, len(column)),),
                "compression": "gzip",
                "compression_opts": 4,
                "shuffle": True,
            }
        group.create_dataset(name, data=column, **options)


def _read_table(group: Any, dtype: np.dtype[np.void], ranges: list[tuple[int, int]]) -> Table:
    """Read ascending ranges of rows.

    A chunk is unpacked whole whatever is wanted of it, and a call costs more than a copy, so ranges
    that lie closer than a chunk are read together.
    """
    together: list[list[tuple[int, int]]] = []
    for each in ranges:
        if together and each[0] - together[-1][-1][1] < _CHUNK:
            together[-1].append(each)
        else:
            together.append([each])
    table = np.empty(sum(end - begin for begin, end in ranges), dtype)
    for name in dtype.names or ():
        column, filled, place = group[name], table[name], 0
        for near in together:
            first = near[0][0]
            read = column[first : near[-1][1]]
            for begin, end in near:
                filled[place : place + end - begin] = read[begin - first : end - first]
                place += end - begin
    return table
