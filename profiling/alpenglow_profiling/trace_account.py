"""Where a rank's time went by its trace: exact unions in ns, whole trace or chosen steps.

    span         = first begin to last end of GPU events, or the host's begin of the first chosen
                   step to the end of the last
    idle         = span - union of GPU events          compute = union of computation kernels
    non-compute  = span - idle - compute               overlap = communication while computing
    exposed      = communication - overlap

The words are Holistic Trace Analysis' (its documentation, "Temporal Breakdown"); the times are not
rounded and no step is left out. By stream, a gap in front of an event is host wait if its launch
began after the stream's work had ended, else kernel wait if shorter than `kernel_gap_ns`, else
other (waits for events of another stream, mostly). Without the launch in the trace a gap is
unlinked: no cause is made up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alpenglow_profiling import trace_kinds
from alpenglow_profiling.kineto import Trace, TraceError
from alpenglow_profiling.trace_intervals import Times, union

KERNEL_GAP_NS = 30_000  # Holistic Trace Analysis' consecutive_kernel_delay, 30 us


@dataclass(frozen=True)
class Stream:
    """Work and gaps of a stream in ns; the four kinds of gap add up to `idle`."""

    stream: int
    events: int
    span: int
    busy: int
    host_wait: int
    kernel_wait: int
    other: int
    unlinked: int

    @property
    def idle(self) -> int:
        """Gaps between the stream's events, in ns."""
        return self.span - self.busy


@dataclass(frozen=True)
class Account:
    """Figures of a rank in ns; those of a GPU are None in a trace without GPU events.

    Then `host` gives what the host's events tell: their span, time in operators, in communication,
    and in both.
    """

    rank: int
    events: int
    steps: list[int]
    span: int | None
    idle: int | None = None
    compute: int | None = None
    non_compute: int | None = None
    communication: int | None = None
    memory: int | None = None
    overlap: int | None = None
    streams: list[Stream] = field(default_factory=list)
    host: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def exposed(self) -> int | None:
        """Communication while nothing is computed, in ns."""
        if self.communication is None or self.overlap is None:
            return None
        return self.communication - self.overlap


def window(trace: Trace, first: int | None, last: int | None) -> tuple[int, int] | None:
    """Begin and end in ns of the steps `first` to before `last`; None for the whole trace.

    Raises `TraceError` where the trace has none of these steps.
    """
    if first is None and last is None:
        return None
    steps = trace.steps
    chosen = [n for n in steps if (first is None or n >= first) and (last is None or n < last)]
    if not chosen:
        has = f"it has {min(steps)} to {max(steps)}" if steps else "it has no ProfilerStep at all"
        low = min(steps, default=0) if first is None else first
        raise TraceError(f"{trace.path}: no step in {low}:{'' if last is None else last}; {has}")
    return min(steps[n][0] for n in chosen), max(steps[n][1] for n in chosen)


def account(
    trace: Trace,
    first: int | None = None,
    last: int | None = None,
    kernel_gap_ns: int = KERNEL_GAP_NS,
) -> Account:
    """The figures of one rank, for the steps `first` to before `last` or the whole trace.

    Raises `TraceError` where none of the steps is in the trace.
    """
    bounds = window(trace, first, last)
    numbers = list(trace.steps)
    if bounds:
        numbers = [
            n for n, (begin, end) in trace.steps.items() if begin >= bounds[0] and end <= bounds[1]
        ]
    notes = list(trace.damages)
    gpu = trace.on_gpu
    if not gpu.any():
        notes.append(
            f"{trace.path}: no GPU kernels in this trace: nothing is said of idle GPU time"
        )
        return Account(
            trace.rank, len(trace), numbers, None, host=_host(trace, bounds), notes=notes
        )

    def times(rows: NDArray[np.bool_]) -> Times:
        whole = union(trace.begin_ns[rows], trace.end_ns[rows])
        return whole.within(*bounds) if bounds else whole

    busy = times(gpu)
    if bounds is None:
        bounds = int(trace.begin_ns[gpu].min()), int(trace.end_ns[gpu].max())
    compute, communication = (
        times(trace_kinds.computation(trace)),
        times(trace_kinds.communication(trace)),
    )
    span = bounds[1] - bounds[0]
    if not numbers:
        notes.append(
            f"{trace.path}: no ProfilerStep in this trace: start-up and set-down count as well"
        )
    unlinked = int(np.count_nonzero(gpu & (trace.launch < 0)))
    if unlinked:
        notes.append(
            f"{trace.path}: {unlinked} GPU events without their launch; "
            "no cause is given for the gaps before them"
        )
    return Account(
        rank=trace.rank,
        events=len(trace),
        steps=numbers,
        span=span,
        idle=span - busy.total,
        compute=compute.total,
        non_compute=busy.total - compute.total,
        communication=communication.total,
        memory=times(trace_kinds.memory(trace)).total,
        overlap=(compute & communication).total,
        streams=_streams(trace, gpu, bounds, kernel_gap_ns),
        host=_host(trace, bounds),
        notes=notes,
    )


def _host(trace: Trace, bounds: tuple[int, int] | None) -> dict[str, int]:
    """Span of the host's events, time in operators, in communication, and in both, in ns."""
    rows = ~trace.on_gpu & trace.in_categories(
        (
            "cpu_op",
            "Operator",
            "operator",
            "user_annotation",
            "cuda_runtime",
            "cuda_driver",
            "Runtime",
        )
    )
    if not rows.any():
        return {}
    if bounds is None:
        bounds = int(trace.begin_ns[rows].min()), int(trace.end_ns[rows].max())

    def times(rows: NDArray[np.bool_]) -> Times:
        return union(trace.begin_ns[rows], trace.end_ns[rows]).within(*bounds)

    operators = times(trace_kinds.host_operators(trace))
    communication = times(trace_kinds.host_communication(trace))
    return {
        "span": bounds[1] - bounds[0],
        "operators": operators.total,
        "communication": communication.total,
        "overlap": (operators & communication).total,
    }


def _streams(
    trace: Trace, gpu: NDArray[np.bool_], bounds: tuple[int, int], kernel_gap_ns: int
) -> list[Stream]:
    rows = np.flatnonzero(gpu)
    rows = rows[(trace.end_ns[rows] > bounds[0]) & (trace.begin_ns[rows] < bounds[1])]
    # Several devices in one trace have streams of the same number; their process tells them apart.
    lanes = np.stack((trace.pid[rows], trace.stream[rows]))
    found = []
    for pid, stream in np.unique(lanes, axis=1).T.tolist():
        lane = rows[(lanes[0] == pid) & (lanes[1] == stream)]
        found.append(_stream(trace, stream, lane, bounds, kernel_gap_ns))
    return sorted(found, key=lambda s: (s.stream, -s.events))


def _stream(
    trace: Trace, stream: int, rows: NDArray[np.intp], bounds: tuple[int, int], kernel_gap_ns: int
) -> Stream:
    rows = rows[np.lexsort((trace.end_ns[rows], trace.begin_ns[rows]))]
    begin = np.maximum(trace.begin_ns[rows], bounds[0])
    end = np.minimum(trace.end_ns[rows], bounds[1])
    done = np.maximum.accumulate(end)
    gap = np.maximum(begin[1:] - done[:-1], 0)
    launch = trace.launch[rows][1:]
    linked = launch >= 0
    host = linked & (trace.begin_ns[launch] > done[:-1])
    kernel = linked & ~host & (gap < kernel_gap_ns)
    span = int(done[-1] - begin[0])
    return Stream(
        stream=stream,
        events=len(rows),
        span=span,
        busy=span - int(gap.sum()),
        host_wait=int(gap[host].sum()),
        kernel_wait=int(gap[kernel].sum()),
        other=int(gap[linked & ~host & ~kernel].sum()),
        unlinked=int(gap[~linked].sum()),
    )
