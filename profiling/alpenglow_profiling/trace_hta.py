"""The figures of Holistic Trace Analysis 0.5.0, by its rules, for comparison with our own.

Its rules, from its code (hta/common/trace.py, trace_parser.py; hta/analyzers/breakdown_analysis.py,
communication_analysis.py; hta/utils/utils.py), which differ from `trace_account`:

- If any time in the file has a fraction, begins are rounded up and ends down to whole us, in
  floats. An event within one us gets a length of -1 and is counted so.
- With two or more ProfilerSteps, host events that begin at or after the last one are dropped, and
  GPU events that no remaining host event launched.
- Whatever has a stream counts as running on the GPU: waits for events (cuda_sync) as well.
- Communication is `^nccl.*Kernel`; names with Memcpy, Memset or Sync are no computation.
- Gaps of a stream are taken to the event before in order of begin, negative ones included.

Events that begin in the same us are sorted as numpy's quicksort leaves them there and here; where
one of them has length -1 that order may move a figure by 1 us on another kind of processor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpenglow_profiling.kineto import GPU_CATEGORIES, Trace

CONSECUTIVE_KERNEL_DELAY = 30  # us, its default
_COMMUNICATION = re.compile(r"nccl.*Kernel")
_MEMORY = re.compile(r"Memcpy|Memset|dma")
_NO_COMPUTATION = re.compile(r"(nccl.*Kernel)|(.*(Memcpy)|(Memset))|(.*Sync)")
_SYNCHRONISATION = re.compile(r"(Event|Context) Sync$")

Times = NDArray[np.float64]
Rows = NDArray[np.bool_]


@dataclass(frozen=True)
class HtaAccount:
    """Times in us as that tool prints them; `idle_by_stream` is host wait, kernel wait, other."""

    rank: int
    idle: float
    compute: float
    non_compute: float
    span: float
    overlap_percent: float
    idle_by_stream: dict[int, tuple[float, float, float]]


def step_names(trace: Trace) -> list[str]:
    """Names of its ProfilerSteps; two different ones in any rank make all ranks drop their last."""
    return [name for name in trace.names if "ProfilerStep" in name]


def hta_accounts(traces: Sequence[Trace]) -> list[HtaAccount]:
    """The figures of ranks that were loaded together (whether steps are dropped depends on all).

    Ranks without a GPU event are left out: that tool raises on them.
    """
    steps = {name for trace in traces for name in step_names(trace)}
    found = (hta_account(trace, drop_last=len(steps) > 1) for trace in traces)
    return [one for one in found if one is not None]


def _microseconds(trace: Trace, rounding: bool) -> tuple[Times, Times]:
    """Begin and end: whole us if any time has a fraction, else as they are."""

    def exact(ns: NDArray[np.int64]) -> Times:
        return ns // 1000 + ns % 1000 / 1000.0  # the float nearest to the text in the file

    begin, length = exact(trace.begin_ns), exact(trace.end_ns - trace.begin_ns)
    if trace.whole_times or not rounding:
        return begin, begin + length
    return np.ceil(begin), np.floor(begin + length)


def _kept(trace: Trace, begin: Times, end: Times, drop_last: bool) -> Rows:
    """Which rows survive its filters."""
    known = np.array([c not in ("", "Trace") for c in trace.categories], dtype=bool)[trace.category]
    gpu = ((trace.stream >= 0) & (trace.correlation >= 0)) | trace.named(_SYNCHRONISATION)
    if not drop_last:
        return known
    host = known & ~gpu
    steps = host & np.array(["ProfilerStep" in n for n in trace.names], dtype=bool)[trace.name]
    last = begin[steps].max() if steps.any() else -np.inf
    host &= begin < last
    launched = np.isin(trace.correlation, trace.correlation[host])
    return host | (known & gpu & launched)


def _merged(begin: Times, end: Times) -> tuple[Times, Times]:
    """Its merge_kernel_intervals, events of negative length included."""
    if not len(begin):
        return begin, end
    order = np.argsort(begin)
    begin, end = begin[order], end[order]
    opens = np.concatenate(([True], begin[1:] > np.maximum.accumulate(end)[:-1]))
    first = np.flatnonzero(opens)
    return begin[first], np.maximum.reduceat(end, first)


def hta_account(trace: Trace, *, drop_last: bool, rounding: bool = True) -> HtaAccount | None:
    """The figures of a rank with or without the GPU events of its last step; None without any.

    Without `rounding` times are kept as they are, which that tool does where the environment sets
    HTA_DISABLE_NS_ROUNDING: so each rule can be told apart in a difference.
    """
    begin, end = _microseconds(trace, rounding)
    kept = _kept(trace, begin, end, drop_last)
    busy = kept & (trace.stream != -1)
    if not busy.any():
        return None

    def merged(rows: Rows) -> tuple[Times, Times]:
        # Launched ones stand first there, in the order of the file, then the others.
        order = np.flatnonzero(rows)
        return _merged(begin[order], end[order])

    running = merged(busy)
    span = float(running[1][-1] - running[0][0])
    communication = busy & trace.named(_COMMUNICATION)
    memory = busy & trace.named(_MEMORY)
    compute = merged(busy & ~communication & ~memory & ~trace.named(_NO_COMPUTATION))
    exchange = merged(communication)
    computing = float((compute[1] - compute[0]).sum())
    idle = span - float((running[1] - running[0]).sum())
    exchanging = float((exchange[1] - exchange[0]).sum())
    both = _both(exchange, compute)
    return HtaAccount(
        rank=trace.rank,
        idle=idle,
        compute=computing,
        non_compute=span - computing - idle,
        span=span,
        overlap_percent=round(100 * both / exchanging, 2) if exchanging else float("nan"),
        idle_by_stream=_gaps(trace, begin, end, kept),
    )


def _both(first: tuple[Times, Times], second: tuple[Times, Times]) -> float:
    """Time in both of two merged sets."""
    edges = np.concatenate((*first, *second))
    sizes = (len(first[0]), len(second[0]))
    change = np.repeat([1, -1, 2, -2], [sizes[0], sizes[0], sizes[1], sizes[1]])
    order = np.argsort(edges, kind="stable")
    edges, level = edges[order], np.cumsum(change[order])
    inside = np.flatnonzero(level[:-1] == 3)
    return float((edges[inside + 1] - edges[inside]).sum())


def _gaps(
    trace: Trace, begin: Times, end: Times, kept: Rows
) -> dict[int, tuple[float, float, float]]:
    rows = kept & (trace.stream != -1) & trace.in_categories(GPU_CATEGORIES)
    found = {}
    for stream in np.unique(trace.stream[rows]).tolist():
        lane = np.flatnonzero(rows & (trace.stream == stream))
        lane = lane[np.argsort(begin[lane])]
        gap = begin[lane][1:] - end[lane][:-1]
        launch = trace.launch[lane][1:]
        linked = (launch >= 0) & kept[launch]
        host = linked & (begin[launch] > end[lane][:-1])
        kernel = ~host & (gap < CONSECUTIVE_KERNEL_DELAY)
        found[stream] = (
            float(gap[host].sum()),
            float(gap[kernel].sum()),
            float(gap[~host & ~kernel].sum()),
        )
    return found
