"""Collectives in traces: what was sent, and with several ranks who waited for whom.

Sizes and groups stand in the args of NCCL's kernels or of the `record_param_comms` of the same
External id (torch/csrc/profiler/util.cpp), and of gloo's work in the dims of its inputs.
Collectives of ranks are matched by group and sequence number; without numbers by their order in the
group, and then only where all ranks show the same operations of the same sizes.

Clocks are aligned by ends: the ranks of a collective end nearly together, so the median difference
of ends is a rank's offset. Then wait = last arrival - own arrival, transfer = end - last arrival.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alpenglow_profiling import trace_kinds
from alpenglow_profiling.kineto import Trace

_BYTES = {
    **dict.fromkeys(("byte", "char", "bool", "signed char", "unsigned char", "int8", "uint8"), 1),
    **dict.fromkeys(("half", "bfloat16", "short", "float16", "int16", "short int"), 2),
    **dict.fromkeys(("float", "int", "float32", "int32", "unsigned int"), 4),
    **dict.fromkeys(("double", "long", "long int", "float64", "int64", "complexfloat"), 8),
}
_POINT_TO_POINT = ("send", "recv")


@dataclass(frozen=True)
class Collective:
    """One operation on one rank. Times in ns of the trace's clock; None for what is not known."""

    rank: int
    operation: str
    group: str
    ranks: tuple[int, ...]
    elements: int | None
    dtype: str
    bytes: int | None
    sequence: int | None
    begin_ns: int
    end_ns: int

    @property
    def point_to_point(self) -> bool:
        """Whether it has two ends only; such are not matched here."""
        return any(word in self.operation for word in _POINT_TO_POINT)


@dataclass
class Waits:
    """Waiting and sending in matched collectives, ns a rank, with the clocks that were assumed.

    `offset_ns` is what a rank's clock is ahead of the lowest rank's; `residual_ns` the median
    distance of ends after that, a measure of the error. `disordered` counts ends that stand before
    the last arrival all the same; their transfer is taken as 0.
    """

    wait_ns: dict[int, int] = field(default_factory=dict)
    transfer_ns: dict[int, int] = field(default_factory=dict)
    matched: int = 0
    disordered: int = 0
    offset_ns: dict[int, int] = field(default_factory=dict)
    residual_ns: int = 0
    notes: list[str] = field(default_factory=list)


def collectives(trace: Trace, bounds: tuple[int, int] | None = None) -> list[Collective]:
    """Operations of communication of a rank, in the order in which they were asked for.

    With `bounds` (begin and end in ns) only those that begin between them.
    """
    rows = np.flatnonzero(trace_kinds.communication(trace))
    if len(rows):
        records = _records(trace)
        asked = np.where(
            trace.launch[rows] >= 0, trace.begin_ns[trace.launch[rows]], trace.begin_ns[rows]
        )
        rows = rows[np.argsort(asked, kind="stable")]
    else:
        records = {}
        rows = np.flatnonzero(trace.named(trace_kinds.HOST_COMMUNICATION) & ~trace.on_gpu)
        rows = rows[np.argsort(trace.begin_ns[rows], kind="stable")]
    if bounds is not None:
        begin = trace.begin_ns[rows]
        rows = rows[(begin >= bounds[0]) & (begin < bounds[1])]
    groups = _groups(trace)
    found = []
    for row in rows.tolist():
        args = trace.collectives.get(row, {})
        if "Collective name" not in args:
            args = {**args, **records.get(int(trace.external[row]), {})}
        found.append(_collective(trace, row, args, groups))
    return found


def _records(trace: Trace) -> dict[int, dict[str, Any]]:
    named = trace.named(trace_kinds.COMMUNICATION_RECORD)
    return {int(trace.external[row]): args for row, args in trace.collectives.items() if named[row]}


def _groups(trace: Trace) -> dict[str, tuple[int, ...]]:
    info = trace.meta.get("distributedInfo")
    listed = info.get("pg_config") if isinstance(info, dict) else None
    groups = {}
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and isinstance(one.get("ranks"), list):
            groups[str(one.get("pg_name", ""))] = tuple(
                r for r in one["ranks"] if isinstance(r, int)
            )
    return groups


def _collective(
    trace: Trace, row: int, args: dict[str, Any], groups: dict[str, tuple[int, ...]]
) -> Collective:
    name = trace.names[trace.name[row]]
    operation = str(args.get("Collective name") or _operation(name))
    group = str(args.get("Process Group Name", next(iter(groups)) if len(groups) == 1 else ""))
    listed = str(args.get("Process Group Ranks", ""))
    ranks = tuple(int(n) for n in re.findall(r"\d+", listed)) if "..." not in listed else ()
    elements, dtype = _size(args)
    width = _BYTES.get(dtype.lower().removeprefix("c10::"))
    if dtype.lower().removeprefix("c10::").startswith("float8"):
        width = 1
    sequence = next(
        (args[k] for k in ("Seq", "seq", "Sequence") if isinstance(args.get(k), int)), None
    )
    return Collective(
        rank=trace.rank,
        operation=operation,
        group=group,
        ranks=ranks or groups.get(group, ()),
        elements=elements,
        dtype=dtype,
        bytes=elements * width if elements is not None and width else None,
        sequence=sequence,
        begin_ns=int(trace.begin_ns[row]) + trace.base_ns,
        end_ns=int(trace.end_ns[row]) + trace.base_ns,
    )


def _operation(name: str) -> str:
    """all_reduce of "gloo:all_reduce", AllReduce of "ncclDevKernel_AllReduce_Sum_f32(...)"."""
    if ":" in name.partition("(")[0]:
        return name.rpartition(":")[2]
    match = re.search(r"nccl\w*?Kernel_?([A-Za-z]+)", name, re.IGNORECASE)
    return match[1] if match else name


def _size(args: dict[str, Any]) -> tuple[int | None, str]:
    """Elements of the larger side and their type; (None, "") where the trace says neither."""
    counts = [args[k] for k in ("In msg nelems", "Out msg nelems") if isinstance(args.get(k), int)]
    if counts:
        return max(counts), str(args.get("dtype", ""))
    dims, types = args.get("Input Dims"), args.get("Input type")
    if not isinstance(dims, list) or not isinstance(types, list) or not dims or not types:
        return None, ""
    try:
        total = sum(
            int(np.prod(shape))
            for shape in dims
            if shape and all(isinstance(n, int) for n in shape)
        )
    except TypeError:
        return None, ""
    return (total or None), str(types[0])


def waits(ranks: Sequence[Sequence[Collective]]) -> Waits:
    """Who waited for whom, of ranks traced together; `notes` say what could not be matched."""
    result = Waits()
    together = _matched(ranks, result.notes)
    result.matched = len(together)
    if not together:
        return result
    offsets = result.offset_ns = _offsets(together)
    apart: list[int] = []
    for operations in together:
        known = [c for c in operations if c.rank in offsets]
        arrivals = [c.begin_ns - offsets[c.rank] for c in known]
        ends = [c.end_ns - offsets[c.rank] for c in known]
        last = max(arrivals)
        apart.extend(abs(end - int(np.median(ends))) for end in ends)
        for c, arrival, end in zip(known, arrivals, ends, strict=True):
            result.disordered += end < last
            wait = min(last, end) - arrival
            result.wait_ns[c.rank] = result.wait_ns.get(c.rank, 0) + wait
            transfer = max(end - last, 0)
            result.transfer_ns[c.rank] = result.transfer_ns.get(c.rank, 0) + transfer
    result.residual_ns = int(np.median(apart))
    return result


def _matched(ranks: Sequence[Sequence[Collective]], notes: list[str]) -> list[list[Collective]]:
    """The same collective on two ranks or more."""
    groups: dict[tuple[str, tuple[int, ...]], dict[int, list[Collective]]] = defaultdict(dict)
    for operations in ranks:
        for c in operations:
            if not c.point_to_point and c.group:
                groups[c.group, c.ranks].setdefault(c.rank, []).append(c)
    together = []
    for (group, _), lists in groups.items():
        if len(lists) < 2:
            continue
        if all(c.sequence is not None for each in lists.values() for c in each):
            by_number: dict[tuple[int | None, str], list[Collective]] = defaultdict(list)
            for each in lists.values():
                for c in each:
                    by_number[c.sequence, c.operation].append(c)
            together += [found for found in by_number.values() if len(found) > 1]
            continue
        shapes = {tuple((c.operation, c.elements) for c in each) for each in lists.values()}
        if len(shapes) == 1:
            together += [list(found) for found in zip(*lists.values(), strict=True)]
        else:
            notes.append(
                f"group {group}: ranks {sorted(lists)} show different collectives without sequence "
                "numbers; they are not matched, and nothing is said of waits in this group"
            )
    return together


def _offsets(together: list[list[Collective]]) -> dict[int, int]:
    """Clock of each rank ahead of the lowest one's, over a chain of shared collectives."""
    differences: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for operations in together:
        first = min(operations, key=lambda c: c.rank)
        for c in operations:
            if c is not first:
                differences[first.rank][c.rank].append(c.end_ns - first.end_ns)
                differences[c.rank][first.rank].append(first.end_ns - c.end_ns)
    start = min(differences)
    offsets, queue = {start: 0}, [start]
    while queue:
        rank = queue.pop(0)
        for other, ends in differences[rank].items():
            if other not in offsets:
                offsets[other] = offsets[rank] + int(np.median(ends))
                queue.append(other)
    return offsets
