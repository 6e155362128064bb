"""How far the clocks of nodes can be apart, from what must have come before what.

Whatever ends because of something on another node ends after that has begun: a collective after its
last member came, a receive after its send began, a send that waits for its receiver after that had
posted its receive. With `x` what must be added to a node's clock, an end on node a and a begin on
node b say

    end_a + x_a >= begin_b + x_b,    so    x_b <= x_a + (end_a - begin_b)

which is an edge from a to b. Shortest paths from a reference node and back to it are the tightest
upper and lower bounds of every node's offset that follow from all of them (difference constraints;
Cormen et al., Introduction to Algorithms, section 24.4). Bounds from both directions of messages
are those of Duda et al. 1987 ("Estimating global time in distributed systems", ICDCS); the paths
carry them over nodes that never talk to one another.

A collective of k nodes is a vertex of its own with 2k edges in place of k^2, so that a graph is as
large as what was recorded. All steps are one graph: vertex `step * nodes + node`, then collectives.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ROUNDS = 512
"""Of relaxation, at most. A path that is cut short is still a bound."""
_AT_ONCE = 32
_CYCLES = 64
MOST_WRONG = 8
"""Nodes that can be left out of a step; if more contradict the others, the step is."""
TOLERANCE = 0.5
"""ns: what a path must gain to count; times are whole ns."""


@dataclass(frozen=True)
class Rates:
    """What is thought of each node's clock: time t (ns) is really t + offset + slope t."""

    offset: Floats
    """[nodes], ns."""
    slope: Floats
    """[nodes]"""
    doubt: Floats
    """[nodes]: how much the slope may be off within a step."""


class Contradiction(NamedTuple):
    """Clocks of a step that cannot all be right."""

    step: int
    """Its index."""
    groups: list[list[int]]
    """Nodes, by what contradicts what: one that contradicts all others is a group by itself."""
    whole: bool
    """The whole step is left out: too many, or the reference is among them."""


@dataclass
class Causality:
    """Ends and begins of steps, and the bounds that follow. Times are ns from some moment."""

    nodes: int
    moment: Floats
    """[steps]: the time in each step that its bounds are for."""
    together: Floats | None = None
    """[steps, nodes]: ends of a collective that all nodes leave at much the same time; nan where
    there is none. They bound nothing, they are where to look between the bounds."""
    _parts: list[tuple[Ints, ...]] = field(default_factory=list)
    _hubs: int = 0

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.moment)

    def link(self, step: Ints, source: Ints, end: Ints, target: Ints, begin: Ints) -> None:
        """Say that each `end` on node `source` is not before `begin` on node `target`."""
        across = source != target
        step, source, end, target, begin = (
            column[across] for column in (step, source, end, target, begin)
        )
        first = step * self.nodes
        self._parts.append((step, first + source, first + target, end, begin))

    def collective(self, step: Ints, instance: Ints, node: Ints, end: Ints, begin: Ints) -> None:
        """Say that of each instance no member's end is before any member's begin.

        Args:
            step: of each member.
            instance: of each member, counted from 0 within this call.
            node: of each member.
            end: of each member.
            begin: of each member.
        """
        hub = self.steps * self.nodes + self._hubs + instance
        self._hubs += int(instance.max(initial=-1)) + 1
        at = step * self.nodes + node
        nowhere = np.full(len(step), _NONE)
        self._parts.append((step, at, hub, end, nowhere))
        self._parts.append((step, hub, at, nowhere, begin))

    def graph(self) -> Graph:
        """What was said, ready to be asked."""
        empty = (np.empty(0, np.int64),) * 5
        columns = [np.concatenate(column) for column in zip(empty, *self._parts, strict=True)]
        step, source, target, end, begin = columns
        vertices = self.steps * self.nodes + self._hubs
        order = np.argsort(target * vertices + source, kind="stable")
        step, source, target, end, begin = (column[order] for column in columns)
        new = np.ones(len(order), bool)
        new[1:] = (np.diff(target) != 0) | (np.diff(source) != 0)
        first = np.flatnonzero(new)
        return Graph(
            self.nodes, self.moment, vertices, step, source, target, end, begin, first,
            np.zeros((self.steps, self.nodes), bool), self.together,
        )  # fmt: skip


_NONE = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Graph:
    """Difference constraints of all steps."""

    nodes: int
    moment: Floats
    vertices: int
    step: Ints
    source: Ints
    target: Ints
    end: Ints
    begin: Ints
    """[items], sorted by target and source."""
    first: Ints
    """[edges]: where the items of each edge begin."""
    left_out: npt.NDArray[np.bool_]
    """[steps, nodes]: nodes whose clock contradicts the others in a step; filled by `judge`."""
    together: Floats | None = None
    """As in `Causality`."""

    def meeting(self, rates: Rates, reference: int) -> Floats:
        """[steps, nodes]: corrections that make all nodes leave that collective at once; or nan."""
        if self.together is None:
            return np.full((len(self.moment), self.nodes), np.nan)
        real = self.together * (1 + rates.slope) + rates.offset
        return np.asarray(real[:, [reference]] - real)

    def weights(self, rates: Rates) -> Floats:
        """[edges]: how much more the target's correction may be than the source's, ns."""
        if not len(self.first):
            return np.empty(0)
        value = self._corrected(self.end, self.source, rates, 1)
        value -= self._corrected(self.begin, self.target, rates, -1)
        weight = np.minimum.reduceat(value, self.first)
        out = self.left_out.ravel()
        for side in (self.source, self.target):
            vertex = side[self.first]
            weight[out[np.minimum(vertex, len(out) - 1)] & (vertex < len(out))] = np.inf
        return np.asarray(weight)

    def _corrected(self, time: Ints, vertex: Ints, rates: Rates, sign: int) -> Floats:
        """Times from their step's moment, as late (sign 1) or early (-1) as they can be."""
        node = np.where(time == _NONE, 0, vertex) % self.nodes
        real = time * (1 + rates.slope[node]) + rates.offset[node] - self.moment[self.step]
        real += sign * rates.doubt[node] * np.abs(real)
        real[time == _NONE] = 0
        return np.asarray(real)

    def bounds(self, rates: Rates, reference: int) -> tuple[Floats, Floats, Ints]:
        """Bounds of every node's correction beside what `rates` say.

        Returns:
            Lower and upper bounds [steps, nodes] in ns, infinite where nothing bounds a node, and
            the steps that contradict themselves, whose bounds are infinite.
        """
        weight = self.weights(rates)
        source, target = self.source[self.first], self.target[self.first]
        start = np.full((len(self.moment), self.nodes), np.inf)
        start[:, reference] = 0
        upper, bad = self._shortest(source, target, weight, start)
        lower, worse = self._shortest(target, source, weight, start)
        bad |= worse | (upper[:, reference] < -TOLERANCE) | (lower[:, reference] < -TOLERANCE)
        bad |= (upper + lower < -TOLERANCE).any(axis=1)
        upper[bad], lower[bad] = np.inf, np.inf
        return -lower, upper, np.flatnonzero(bad)

    def nearest(self, rates: Rates, wish: Floats) -> Floats:
        """The corrections next to wished ones that contradict nothing.

        The largest below and the smallest above contradict nothing, nor does what lies between two
        such (the constraints are convex); where the wish itself contradicts nothing, it is kept.

        Args:
            rates: as `bounds`.
            wish: [steps, nodes], beside what `rates` say.
        """
        weight = self.weights(rates)
        source, target = self.source[self.first], self.target[self.first]
        below, _ = self._shortest(source, target, weight, wish)
        above, _ = self._shortest(target, source, weight, -wish)
        return (below - above) / 2

    def judge(self, rates: Rates, reference: int) -> list[Contradiction]:
        """Find the nodes whose clocks contradict the others, step by step, and leave them out.

        Where nothing tells which of some nodes is wrong, all of them are named and left out.
        """
        found = []
        for step in self.bounds(rates, reference)[2].tolist():
            groups = self._culprits(step, rates)
            nodes = [node for group in groups for node in group]
            whole = reference in nodes or len(nodes) > MOST_WRONG
            self.left_out[step, slice(None) if whole else nodes] = True
            found.append(Contradiction(step, groups, whole))
        return found

    def _shortest(
        self, source: Ints, target: Ints, weight: Floats, start: Floats
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Bellman-Ford in all steps at once, from distances [steps, nodes] to begin with.

        Returns:
            Distances [steps, nodes], and which steps have not come to rest: negative cycles.
        """
        distance = np.full(self.vertices, np.inf)
        distance[: start.size] = start.ravel()
        moving = np.zeros(len(start), bool)
        if len(source):
            order = np.argsort(target, kind="stable")
            step = self.step[self.first]
            for _ in range(0, ROUNDS, _AT_ONCE):
                edges = self._relax(distance, source[order], target[order], weight[order])
                moving[:] = False
                moving[step[order[edges]]] = True
                order = order[moving[step[order]]]
                if not len(order):
                    break
        return distance[: start.size].reshape(start.shape), moving

    @staticmethod
    def _relax(distance: Floats, source: Ints, target: Ints, weight: Floats) -> Ints:
        """Some rounds, edges sorted by target; returns edges to what moved in the last of them."""
        heads = np.flatnonzero(np.diff(target, prepend=-1))
        head = target[heads]
        better = np.zeros(len(heads), bool)
        for _ in range(_AT_ONCE):
            best = np.minimum.reduceat(distance[source] + weight, heads)
            better = best < distance[head] - TOLERANCE
            if not better.any():
                break
            distance[head[better]] = best[better]
        return heads[better]

    def _culprits(self, step: int, rates: Rates) -> list[list[int]]:
        weight = self.weights(rates)
        edge = np.flatnonzero((self.step[self.first] == step) & np.isfinite(weight))
        ends, local = np.unique(
            np.concatenate([self.source[self.first][edge], self.target[self.first][edge]]),
            return_inverse=True,
        )
        source, target = local.reshape(2, -1)
        weight = weight[edge]
        is_node = ends < len(self.moment) * self.nodes
        wrong: list[list[int]] = []
        while cycle := _cycle(source, target, weight, len(ends)):
            candidates = [vertex for vertex in cycle if is_node[vertex]]
            kept = {v: (source != v) & (target != v) for v in candidates}
            cures = [
                v for v, k in kept.items() if not _cycle(source[k], target[k], weight[k], len(ends))
            ]
            out = cures or _most_at_odds(source, target, weight, is_node)
            wrong.append(sorted(int(ends[vertex]) % self.nodes for vertex in out))
            keep = ~(np.isin(source, out) | np.isin(target, out))
            source, target, weight = source[keep], target[keep], weight[keep]
            if sum(map(len, wrong)) > MOST_WRONG:
                break
        return wrong


def _cycle(source: Ints, target: Ints, weight: Floats, vertices: int) -> list[int]:
    """The vertices of a cycle of negative length; none: an empty list."""
    if not len(source):
        return []
    order = np.argsort(target, kind="stable")
    source, target, weight = source[order], target[order], weight[order]
    heads = np.flatnonzero(np.diff(target, prepend=-1))
    of_head = np.repeat(np.arange(len(heads)), np.diff(heads, append=len(target)))
    distance, before = np.zeros(vertices), np.full(vertices, -1)
    for round_ in range(vertices + 1):
        reached = distance[source] + weight
        best = np.minimum.reduceat(reached, heads)
        better = best < distance[target[heads]] - TOLERANCE
        if not better.any():
            return []
        by = better[of_head] & (reached == best[of_head])
        before[target[by]] = source[by]
        distance[target[heads][better]] = best[better]
        if round_ % 4 == 3 and (found := _loop(before.tolist())):
            return found
    return _loop(before.tolist())


def _loop(before: list[int]) -> list[int]:
    """A loop among predecessors, -1 being none."""
    seen = [0] * len(before)
    for start in range(len(before)):
        vertex, path = start, []
        while vertex >= 0 and not seen[vertex]:
            seen[vertex] = start + 1
            path.append(vertex)
            vertex = before[vertex]
        if vertex >= 0 and seen[vertex] == start + 1:
            return path[path.index(vertex) :]
    return []


def _most_at_odds(
    source: Ints, target: Ints, weight: Floats, is_node: npt.NDArray[np.bool_]
) -> list[int]:
    """The nodes that lie on the most negative cycles of which no two share an edge.

    A clock that is wrong is at odds with everyone it talks to, each of them only with that one.
    """
    votes: Counter[int] = Counter()
    for _ in range(_CYCLES):
        cycle = _cycle(source, target, weight, len(is_node))
        if not cycle:
            break
        votes.update(vertex for vertex in cycle if is_node[vertex])
        before = dict(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        on_cycle = np.array([before.get(vertex, -1) for vertex in range(len(is_node))])
        keep = on_cycle[target] != source
        source, target, weight = source[keep], target[keep], weight[keep]
    most = max(votes.values())
    return [vertex for vertex, count in votes.items() if count == most]
