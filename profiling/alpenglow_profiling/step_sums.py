"""The sums of one step in one pass over its spans: `self_time.sums`, ten times as fast for a few.

A recorder does this for every step beside training, so it is plain Python: for the 55 spans of a
step numpy's calls cost more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from alpenglow_profiling.kind import OUTER, PACKED, ROW, SUM_PACKED, Kind
from alpenglow_profiling.self_time import sums

Span: TypeAlias = tuple[int, int, int, int, int, int, int, int]
"""(step, kind, micro_batch, begin_ns, end_ns, bytes, group, peer): a `ROW` without its rank."""

_ABSORBING = frozenset(int(kind) for kind in OUTER - {Kind.STEP, Kind.DRAIN})
_DRAIN = int(Kind.DRAIN)


def pack(rank: int, spans: Sequence[Span]) -> bytes:
    """Spans as rows."""
    return b"".join([PACKED.pack(rank, *span) for span in spans])


def step_sums(rank: int, spans: Sequence[Span]) -> bytes:
    """Add spans up by step and kind; equal to `self_time.sums` of the same rows.

    Args:
        rank: whose they are.
        spans: in any order. Where some overlap without one holding the other, `self_time.sums`
            itself is asked.

    Returns:
        Packed `SUM` rows, sorted by step and kind.
    """
    found: dict[tuple[int, int], list[int]] = {}
    stack: list[tuple[int, list[int] | None]] = []
    absorbed = -1  # until when what begins belongs to an evaluation or its like
    for step, kind, _, begin, end, nbytes, _, _ in sorted(spans, key=_outer_first):
        if kind == _DRAIN:
            continue
        while stack and stack[-1][0] <= begin:
            stack.pop()
        if stack and end > stack[-1][0]:
            return sums(np.frombuffer(pack(rank, spans), ROW)).tobytes()
        mine: list[int] | None = None
        if kind in _ABSORBING:
            absorbed = max(absorbed, end)
        elif begin >= absorbed:
            mine = found.get((step, kind))
            if mine is None:
                mine = found[step, kind] = [0, 0, 0]
            mine[0] += 1
            mine[1] += end - begin
            if nbytes > 0:
                mine[2] += nbytes
        if end > begin:
            if stack:
                around = stack[-1][1]
                if around is not None:
                    around[1] -= end - begin
            stack.append((end, mine))
    return b"".join([SUM_PACKED.pack(rank, *key, *found[key]) for key in sorted(found)])


def _outer_first(span: Span) -> tuple[int, int, bool]:
    return span[3], -span[4], span[1] not in _ABSORBING
