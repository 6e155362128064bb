"""Larger lawful traces out of a real one: its events again and again, later each time.

Times, correlations, ids and numbers of steps move on with each copy, everything else (names, order,
spelling) stays as the profiler wrote it, so that a copy is read and accounted for like the
original.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from alpenglow_profiling.kineto import TraceError, read

_RANK = re.compile(r'("rank":\s*)\d+')
_MOVING = re.compile(r'("(?:ts|correlation|External id|id)":\s*|ProfilerStep#)(\d+)')
_PAUSE_US = 1000


def enlarge(source: Path, target: Path, megabytes: float, rank: int = 0) -> int:
    """Write a trace of at least so many MB (10^6 bytes of JSON) to `target`; gives its copies.

    `target` is packed if its name ends in .gz. Raises `TraceError` if `source` is no sound trace.
    """
    trace = read(source)
    if trace.damages or not len(trace):
        raise TraceError(trace.damages[0] if trace.damages else f"{source}: no events to repeat")
    raw = source.read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    begin = text.index("[", text.index('"traceEvents"')) + 1
    end = begin + _length_of_list(text[begin:])
    head, events, tail = text[:begin], text[begin:end], text[end:]
    head = _RANK.sub(rf"\g<1>{rank}", head, count=1)
    copies = max(1, -(-int(megabytes * 1e6) // len(events)))
    span = int(trace.end_ns.max() - trace.begin_ns.min()) // 1000 + _PAUSE_US
    ids = int(max(trace.correlation.max(), trace.external.max(), 0)) + 1
    steps = len(trace.steps)
    partial = target.with_name(target.name + ".partial")
    packed = target.name.endswith(".gz")
    with gzip.open(partial, "wt", compresslevel=6) if packed else partial.open("w") as out:
        out.write(head)
        for copy in range(copies):

            def moved(match: re.Match[str], copy: int = copy) -> str:
                key = match[1]
                by = span if key.startswith('"ts"') else steps if key[0] == "P" else ids
                return f"{key}{int(match[2]) + copy * by}"

            out.write((", " if copy else "") + (_MOVING.sub(moved, events) if copy else events))
        out.write(tail)
    partial.replace(target)
    return copies


def _length_of_list(text: str) -> int:
    """Characters of a list's inside, up to the bracket that closes it."""
    depth = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[\]]', text):
        if match[0] == "[":
            depth += 1
        elif match[0] == "]":
            if not depth:
                return match.start()
            depth -= 1
    return len(text)
