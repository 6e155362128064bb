"""Steps of a pipeline played by the law, on clocks that are off: a truth for matching and clocks.

`alpenglow.parallel.replay` plays the schedule with lengths drawn from a seed; messages hold both
ends, collectives end after their last member came. Then every node reads the time of its rows off a
clock of its own, and the true times are kept beside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.replay import Event, place, program
from alpenglow.parallel.schedule import Action
from alpenglow_profiling.kind import ROW, Kind, Rows
from alpenglow_profiling.node_events import CLOCK, NodeEvents, sorted_rows, split
from alpenglow_profiling.segment_events import Events

Times = npt.NDArray[np.int64]
EPOCH = 1_700_000_000_000_000_000
"""Wall-clock ns at the first step."""
_KINDS = {
    Action.forward: Kind.FORWARD,
    Action.backward: Kind.BACKWARD,
    Action.backward_input: Kind.BACKWARD,
    Action.backward_weight: Kind.WEIGHT_GRAD,
}
_MS = 1_000_000


@dataclass
class LawfulSteps:
    """Steps to be played. Lengths in ns, each drawn between the two numbers."""

    layout: Layout
    micro_batches: int = 4
    schedule: str = "1f1b"
    ranks_per_node: int = 2
    steps: tuple[int, ...] = (10, 20, 30)
    apart: int = 5_000 * _MS
    """From the begin of one of these steps to that of the next."""
    seed: int = 0
    passes: tuple[int, int] = (20 * _MS, 40 * _MS)
    uneven: float = 0.5
    """The last stage computes so much longer than the first, relatively."""
    down: tuple[int, int] = (_MS // 10, 3 * _MS)
    up: tuple[int, int] = (_MS // 20, _MS)
    reduce: tuple[int, int] = (_MS, 6 * _MS)
    tensor_reduce: tuple[int, int] = (_MS // 10, _MS)
    overlapped: bool = False
    """Gradients travel during the last backward pass; their span is only what is left to wait."""
    directions: bool = False
    """P2P rows tell activations (group 0) from gradients (1)."""
    clock: Callable[[int, Times], Times] = lambda node, true: true
    """What a node's CLOCK_MONOTONIC shows at a true time, ns since the first step."""
    wall_error: Callable[[int], int] = lambda node: 0
    """How far a node's wall clock is off, ns."""
    _rows: list[Rows] = field(default_factory=list)

    def true_rows(self) -> Rows:
        """Spans of all ranks on the true clock, ns since the first step; sorted as Events' are."""
        self._rows = []
        dice = np.random.default_rng(self.seed)
        for number, step in enumerate(self.steps):
            self._step(step, number * self.apart, dice)
        return sorted_rows(np.concatenate(self._rows))

    def node(self, rank: int) -> int:
        """Number of a rank's node."""
        return rank // self.ranks_per_node

    def node_name(self, node: int) -> str:
        """Host name."""
        return f"n{node:04d}"

    def events(self, rows: Rows | None = None) -> Events:
        """The steps as their nodes recorded them."""
        rows = self.true_rows() if rows is None else rows
        parts = []
        on = rows["rank"] // self.ranks_per_node
        order = np.argsort(on, kind="stable")
        for mine in np.split(order, np.flatnonzero(np.diff(on[order])) + 1):
            node = int(on[mine[0]])
            table: Any = rows[mine]
            for name in ("begin_ns", "end_ns"):
                table[name] = self.clock(node, table[name])
            outer, inner = split(sorted_rows(table))
            ranks = tuple(np.unique(table["rank"]).tolist())
            moments = np.linspace(0, self.steps.index(self.steps[-1]) * self.apart, 5, dtype=int)
            flushes = np.zeros(len(moments), CLOCK)
            flushes["monotonic_ns"] = self.clock(node, moments)
            # NTP slews both clocks of a node together: their difference says nothing of its rate.
            flushes["wall_ns"] = flushes["monotonic_ns"] - self.clock(node, moments[:1])
            flushes["wall_ns"] += EPOCH + self.wall_error(node)
            parts.append(
                NodeEvents(
                    self.node_name(node), outer, flushes, self.layout.world, ranks, {}, (),
                    self.steps[0], inner, None,
                )
            )  # fmt: skip
        return Events(tuple(parts))

    def _draw(self, dice: np.random.Generator, between: tuple[int, int], *shape: int) -> Times:
        return dice.integers(between[0], between[1], shape, endpoint=True)

    def _add(
        self, ranks: Times, step: int, kind: Kind, begin: Any, end: Any, **columns: Any
    ) -> None:
        rows = np.zeros(ranks.size, ROW)
        rows["rank"], rows["step"], rows["kind"] = ranks.ravel(), step, kind
        for name in ("micro_batch", "bytes", "group", "peer"):
            rows[name] = np.broadcast_to(columns.get(name, -1), ranks.shape).ravel()
        rows["begin_ns"] = np.broadcast_to(begin, ranks.shape).ravel()
        rows["end_ns"] = np.broadcast_to(end, ranks.shape).ravel()
        self._rows.append(rows)

    def _step(self, step: int, start: int, dice: np.random.Generator) -> None:
        p, d, t = self.layout.pipeline, self.layout.data, self.layout.tensor
        world = np.array(
            [[[self.layout.rank(s, i, k) for k in range(t)] for i in range(d)] for s in range(p)]
        )
        late = self._draw(dice, (0, 2 * _MS), p, d, 1)
        begin_step = np.broadcast_to(start + late, world.shape)
        inside: dict[Event, Times] = {}  # of a pass: own compute up to the collective inside
        last_begin = np.zeros((p, d, 1), np.int64)

        def length(event: Event) -> Times:
            if event.other >= 0:
                down = event.action is Action.send_activation
                return self._draw(dice, self.down if down else self.up, d, 1)
            stretch = 1 + self.uneven * event.stage / max(1, p - 1)
            own = np.rint(self._draw(dice, self.passes, d, t) * stretch).astype(np.int64)
            inside[event] = own
            reduce = self._draw(dice, self.tensor_reduce, d, 1) if t > 1 else 0
            return np.asarray(own.max(axis=1, keepdims=True) + reduce)

        def placed(event: Event, begin: Any, came: Any, end: Any) -> None:
            ranks, m = world[event.stage], event.micro_batch
            if event.other >= 0:
                down = event.action is Action.send_activation
                group = int(not down) if self.directions else -1
                # The sender may be done a little before the receiver.
                spare = end - np.maximum(begin, came)
                early = np.rint(spare * dice.random((d, 1)) / 2).astype(np.int64)
                both = {"micro_batch": m, "bytes": 1024, "group": group}
                other = world[event.other]
                self._add(ranks, step, Kind.P2P, begin, end - early, peer=other, **both)
                self._add(other, step, Kind.P2P, came, end, peer=ranks, **both)
                return
            kind = _KINDS[event.action]
            self._add(ranks, step, kind, begin, end, micro_batch=m)
            if kind is not Kind.FORWARD:
                last_begin[event.stage] = begin
            if t > 1:
                self._add(
                    ranks, step, Kind.TENSOR_REDUCE, begin + inside[event], end,
                    group=(event.stage * d + np.arange(d))[:, None],
                )  # fmt: skip

        free = place(
            program(self.schedule, p, self.micro_batches),
            length,
            [begin_step[s, :, :1] for s in range(p)],
            maximum=np.maximum,
            placed=placed,
        )
        done = np.stack([np.broadcast_to(each, (d, t)) for each in free])
        if d > 1:
            arrival = done
            if self.overlapped:
                share = dice.random((p, d, 1))
                arrival = last_begin + np.rint((done - last_begin) * share).astype(np.int64)
            ends = arrival.max(axis=1, keepdims=True) + self._draw(dice, self.reduce, p, d, t)
            ends = np.maximum(ends, done)
            self._add(world, step, Kind.GRADIENT_REDUCE, done, ends)
            done = ends
        ends = done.max() + self._draw(dice, self.reduce, p, d, t)
        self._add(world, step, Kind.OPTIMIZER, done, ends)
        self._add(world, step, Kind.STEP, begin_step, ends)
