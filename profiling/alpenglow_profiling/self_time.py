"""Arithmetic on the spans of one rank: the time that belongs to each span itself, and its sums."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from alpenglow_profiling.kind import OUTER, SUM, Kind, Rows, Sums

Times = npt.NDArray[np.int64]


def self_times(rows: Rows) -> tuple[Rows, Times]:
    """Give every moment to the innermost span that is open, once.

    Args:
        rows: spans of one rank, each longer than 0 ns.

    Returns:
        The rows sorted by begin, and the ns of each that no span inside it takes: their sum is the
        length of the union of all spans. Where two spans overlap without one holding the other, the
        one that began later has the overlap. A drain has only what no other span has: it runs in
        the background.
    """
    order = np.lexsort((-rows["end_ns"], rows["begin_ns"]))
    rows = rows[order]
    own = np.zeros(len(rows), np.int64)
    behind = rows["kind"] == Kind.DRAIN
    ahead = ~behind
    own[ahead] = _nested(rows["begin_ns"][ahead], rows["end_ns"][ahead])
    if behind.any():
        edges = _union(rows["begin_ns"][ahead], rows["end_ns"][ahead])
        last = np.iinfo(np.int64).min
        for i in np.flatnonzero(behind):
            begin, end = max(int(rows["begin_ns"][i]), last), int(rows["end_ns"][i])
            if end > begin:
                overlap = np.minimum(edges[1], end) - np.maximum(edges[0], begin)
                own[i] = end - begin - int(np.maximum(overlap, 0).sum())
                last = end
    return rows, own


def sums(rows: Rows) -> Sums:
    """Add the spans of one rank up by step and kind, as its recorder does while they happen.

    What lies inside start-up, restart, checkpoint or evaluation belongs to that, and drains run in
    the background: neither is in a sum.
    """
    outer = np.isin(rows["kind"], [int(kind) for kind in OUTER - {Kind.STEP}])
    inside = rows[~outer & ~covered(rows, _outermost(rows[outer & (rows["kind"] != Kind.DRAIN)]))]
    # A checkpoint inside a step takes its time from the step: it has part in the self-times.
    lasting = rows[(rows["end_ns"] > rows["begin_ns"]) & (rows["kind"] != Kind.DRAIN)]
    lasting, own = self_times(lasting)
    kept = np.isin(lasting["kind"], [int(kind) for kind in OUTER - {Kind.STEP}])
    kept |= covered(lasting, _outermost(lasting[kept]))
    keys, place = np.unique(inside[["step", "kind"]], return_inverse=True)
    found = np.zeros(len(keys), SUM)
    if not len(keys):
        return found
    found["rank"] = rows["rank"][0]
    found["step"], found["kind"] = keys["step"], keys["kind"]
    found["count"] = np.bincount(place, minlength=len(keys))
    np.add.at(found["bytes"], place, np.maximum(inside["bytes"], 0))
    mine = lasting[~kept]
    np.add.at(found["own_ns"], np.searchsorted(keys, mine[["step", "kind"]]), own[~kept])
    return found


def _outermost(rows: Rows) -> Rows:
    """The spans that lie in no other, sorted by begin."""
    if not len(rows):
        return rows
    rows = rows[np.lexsort((-rows["end_ns"], rows["begin_ns"]))]
    reach = np.maximum.accumulate(rows["end_ns"])
    first = np.concatenate([[True], rows["end_ns"][1:] > reach[:-1]])
    found: Rows = rows[first]
    return found


def covered(rows: Rows, by: Rows) -> npt.NDArray[np.bool_]:
    """Which rows begin inside one of the spans `by`, which do not overlap one another.

    What begins with one of them and outlasts it lies around it, not inside.
    """
    if not len(by):
        return np.zeros(len(rows), bool)
    by = by[np.argsort(by["begin_ns"])]
    place = np.searchsorted(by["begin_ns"], rows["begin_ns"], side="right") - 1
    over = by[np.maximum(place, 0)]
    inside = rows["begin_ns"] < over["end_ns"]
    around = (rows["begin_ns"] == over["begin_ns"]) & (rows["end_ns"] > over["end_ns"])
    return np.asarray((place >= 0) & inside & ~around)


def _union(begin: Times, end: Times) -> tuple[Times, Times]:
    """Begins and ends of the union of intervals that are sorted by begin."""
    if not len(begin):
        return begin, end
    reach = np.maximum.accumulate(end)
    first = np.concatenate([[True], begin[1:] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return begin[first], reach[last]


def _nested(begin: Times, end: Times) -> Times:
    """Self-time of intervals sorted by begin, longest first; see `self_times`."""
    if not len(begin):
        return np.zeros(0, np.int64)
    # Intervals that are still open at a begin: all before it, less those that have ended.
    index = np.arange(len(begin))
    depth = index - np.searchsorted(np.sort(end), begin, side="right")
    own = (end - begin).astype(np.int64)
    for level in range(1, int(depth.max()) + 1):
        inner = index[depth == level]
        outer = index[depth == level - 1]
        parent = outer[np.searchsorted(outer, inner) - 1]
        if (end[inner] > end[parent]).any():
            return _overlapping(begin, end)
        np.subtract.at(own, parent, end[inner] - begin[inner])
    return own


def _overlapping(begin: Times, end: Times) -> Times:
    """The same for intervals that overlap in any way, by a sweep: slower, and rarely needed."""
    own = np.zeros(len(begin), np.int64)
    ends = end.tolist()
    open_spans: list[int] = []  # negated indices: the latest begun is on top
    now = 0

    def until(moment: int) -> None:
        nonlocal now
        while open_spans and now < moment:
            top = -open_spans[0]
            if ends[top] <= now:
                heapq.heappop(open_spans)
                continue
            stop = min(ends[top], moment)
            own[top] += stop - now
            now = stop
        now = moment

    for i, start in enumerate(begin.tolist()):
        until(start)
        heapq.heappush(open_spans, -i)
    until(max(ends))
    return own
