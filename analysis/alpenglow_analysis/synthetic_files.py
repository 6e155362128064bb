"""The events of one synthetic segment on disk: logs of ranks, or node files written directly."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.synthetic_rows import NodeClocks, Recorded
from alpenglow_analysis.synthetic_work import Times
from alpenglow_profiling.blocks import encode
from alpenglow_profiling.events import log_path
from alpenglow_profiling.kind import ROW, Kind, Rows, Sums
from alpenglow_profiling.log import ROWS, encode_about, encode_steps
from alpenglow_profiling.node_events import (
    CLOCK,
    NodeEvents,
    sorted_rows,
    sorted_sums,
    split,
    write_node,
)
from alpenglow_profiling.self_time import sums

_FORKED_FROM = 64
"""So many nodes are written by two processes."""


@dataclass
class SegmentEvents:
    """Everything that the ranks of a segment recorded."""

    name: str
    recorded: Recorded
    outside: list[tuple[Kind, int, int, int]]
    """(kind, step, begin, end) in true ns: what all ranks did between steps."""
    flushes: Times
    """[flushes]: true times at which all ranks flushed."""
    wall_error: Times
    """[nodes]: ns that a wall clock is ahead."""
    sample_every: int
    unfinished: Recorded | None = None
    """The step under way when the job was killed."""
    killed: int = 0
    """When, true ns."""

    @property
    def _clocks(self) -> NodeClocks:
        return self.recorded.clocks

    def ranks(self, node: int) -> list[int]:
        """Ranks of a node."""
        model = self.recorded.model
        return list(range(model.ranks))[node * model.ranks_per_node :][: model.ranks_per_node]

    def outer(self, rank: int, node: int) -> Rows:
        """Spans of a rank between steps."""
        rows = np.empty(len(self.outside), ROW)
        for i, (kind, step, begin, end) in enumerate(self.outside):
            shown = self._clocks.at(np.array([begin, end]), np.array([node]))
            rows[i] = (rank, step, kind, -1, *shown.tolist(), -1, -1, -1)
        return rows

    def cut(self, rank: int, node: int) -> Rows:
        """Spans of a rank that had ended when the job was killed within a step."""
        if self.unfinished is None:
            return np.empty(0, ROW)
        rows = self.unfinished.rows(rank)
        shown = self._clocks.at(np.array([self.killed]), np.array([node]))
        return np.asarray(rows[rows["end_ns"] <= shown])

    def clock(self, node: int) -> npt.NDArray[np.int64]:
        """[flushes, 2]: (monotonic, wall) of a node, read a little apart."""
        shown = self._clocks.at(self.flushes, np.array([node]))
        dice = np.random.default_rng([node, len(self.flushes)])
        late = np.abs(dice.normal(0, 5_000, len(self.flushes))).astype(np.int64)
        off = self.wall_error[node]
        return np.stack([shown, self.flushes + off + (late if off else 0)], axis=1)

    def node(self, node: int) -> NodeEvents:
        """Everything of a node, in memory."""
        ranks = self.ranks(node)
        outer, inner, totals = [], [], [self.recorded.sums(ranks)]
        pairs = self.clock(node)
        clock = np.empty((len(pairs), len(ranks)), CLOCK)
        clock["rank"] = ranks
        clock["monotonic_ns"], clock["wall_ns"] = pairs.T[:, :, None]
        for rank in ranks:
            rest = self.cut(rank, node)
            if len(rest):
                totals.append(sums(rest))
            outer += [self.outer(rank, node), self.recorded.steps(rank)]
            inner += [split(self.recorded.rows(rank))[1], rest]
        return NodeEvents(
            node_name(node),
            sorted_rows(np.concatenate(outer)),
            clock.ravel(),
            self.recorded.model.ranks,
            tuple(ranks),
            {},
            sample_every=self.sample_every,
            inner=sorted_rows(np.concatenate(inner)),
            totals=_joined(totals),
        )

    def write_nodes(self, folder: Path) -> None:
        """Write a file for each node, on two processors where there is much to write."""
        folder.mkdir(parents=True)
        nodes = range(self.recorded.model.nodes)
        workers = min(2, os.cpu_count() or 1)
        if len(nodes) < _FORKED_FROM or workers == 1:
            for node in nodes:
                write_node(folder / f"{node_name(node)}.h5", self.node(node), self.name)
            return
        # A forked process has the arrays already: nothing is sent.
        context = multiprocessing.get_context("fork")
        shares = [context.Process(target=self._share, args=(folder, i, workers)) for i in range(2)]
        for share in shares:
            share.start()
        for share in shares:
            share.join()
            if share.exitcode:
                raise OSError(f"{folder}: a process that wrote node files ended early")

    def _share(self, folder: Path, first: int, of: int) -> None:
        for node in range(first, self.recorded.model.nodes, of):
            write_node(folder / f"{node_name(node)}.h5", self.node(node), self.name)

    def write_logs(self, folder: Path) -> None:
        """Write a log for each rank, as it is before nodes merge them."""
        folder.mkdir(parents=True)
        model = self.recorded.model
        for rank in range(model.ranks):
            node = rank // model.ranks_per_node
            clock = self.clock(node)[-1].tolist()
            inner = split(self.recorded.rows(rank))[1]
            whole = [self.outer(rank, node), inner, self.recorded.steps(rank)]
            rows = np.concatenate([*whole, self.cut(rank, node)])
            rows = rows[np.lexsort((rows["end_ns"], rows["step"]))]
            told = self.recorded.sums([rank])
            told = told[~np.isin(told["step"], inner["step"])]
            half = len(rows) // 2
            parts = [encode_about(rank, node_name(node), model.ranks, (clock[0], clock[1]),
                                  self.sample_every)]  # fmt: skip
            if len(told):
                parts.append(encode_steps(told.tobytes(), b"", clock[0], clock[1]))
            for table in (rows[:half], rows[half:]):
                if len(table):
                    parts.append(encode(table.tobytes(), ROWS, clock[0], clock[1]))
            log_path(folder, rank).write_bytes(b"".join(parts))


def node_name(node: int) -> str:
    """Host name of a node."""
    return f"n{node:03d}"


def _joined(totals: Sequence[Sums]) -> Sums:
    return totals[0] if len(totals) == 1 else sorted_sums(np.concatenate(totals))
