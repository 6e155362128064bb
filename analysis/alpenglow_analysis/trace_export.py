"""Chosen steps of a run as a trace that ui.perfetto.dev and chrome://tracing read.

A process is a pipeline stage, or a node; a thread is a rank. Spans are complete events ("X") with
the kind as their category; messages between stages are flows from the sender's span to the
receiver's. Times are microseconds since the first span, with three digits behind the point: ns.
Trace Event Format, "JSON Object Format" (Google, 2016).

The file is written as it is made, one step at a time, so thousands of ranks take no more memory
than the spans of one step.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from alpenglow_analysis.bubble import schedule_name
from alpenglow_analysis.clocks import align
from alpenglow_analysis.messages import transfers
from alpenglow_analysis.run import Run
from alpenglow_analysis.segment import RunError
from alpenglow_profiling.events import Events, Kind, Rows

Processes = Literal["stages", "nodes"]
_LABELS = {int(kind): kind.label for kind in Kind}


def steps_of(text: str) -> range:
    """Read "100:102" (both ends count) or "100".

    Raises:
        RunError: not of that form.
    """
    first, _, last = text.partition(":")
    try:
        begin, end = int(first), int(last or first)
    except ValueError:
        begin, end = 0, 0
    if not 1 <= begin <= end:
        raise RunError(f"--steps {text}: a step number, or FIRST:LAST with FIRST <= LAST")
    return range(begin, end + 1)


def trace(
    run: Run, steps: Sequence[int], output: Path, processes: Processes = "stages"
) -> tuple[int, int]:
    """Write the spans of some steps.

    Args:
        run: the run.
        steps: numbers of steps; those without spans inside are left out.
        output: NAME.json.gz, or NAME.json for plain text.
        processes: what a process of the trace is.

    Returns:
        How many spans and how many flows were written.

    Raises:
        RunError: no span of any of these steps was kept.
        OSError: it cannot be written; nothing is left behind.
    """
    found = _on_one_clock(
        run, [(step, name) for step in steps if (name := _holder(run, step)) is not None]
    )
    if not found:
        kept = sorted({int(step) for events in run.events.values() for step in events.kept})
        some = ", ".join(map(str, kept[:8])) + (", ..." if len(kept) > 8 else "")
        raise RunError(
            f"{run.path}: no spans of steps {steps[0]} to {steps[-1]} were kept; those of "
            f"{some or 'no step'} were"
        )
    if output.suffix not in (".gz", ".json"):
        raise RunError(f"{output}: name a file that ends in .json.gz or .json")
    temporary = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with _open(temporary, output.suffix == ".gz") as file:
            counted = _write(file, run, found, processes)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return counted


def _open(path: Path, packed: bool) -> IO[str]:
    if packed:
        return gzip.open(path, "wt", compresslevel=5, encoding="utf-8")
    return path.open("w", encoding="utf-8")


def _holder(run: Run, step: int) -> str | None:
    """The last segment that kept the spans inside a step."""
    for segment in reversed(run.segments):
        events = run.events.get(segment.name)
        if events is not None and step in events.kept:
            return segment.name
    return None


def _on_one_clock(run: Run, found: Sequence[tuple[int, str]]) -> list[tuple[int, Events]]:
    """The events of each step, the clocks of its segment's nodes aligned by all of its steps."""
    facts, moved = run.facts, {}
    for name in dict.fromkeys(name for _, name in found):
        events, steps = run.events[name], [step for step, of in found if of == name]
        if events.world_size == facts.layout.world:
            alignment = align(events, facts.layout, facts.micro_batches, schedule_name(run), steps)
            events = events.moved(alignment.clocks)
        moved[name] = events
    return [(step, moved[name]) for step, name in found]


def _write(
    file: IO[str], run: Run, found: Sequence[tuple[int, Events]], processes: Processes
) -> tuple[int, int]:
    layout = run.facts.layout
    about = {"run": run.facts.name, "steps": [step for step, _ in found], "processes": processes}
    file.write(f'{{"displayTimeUnit":"ns","otherData":{json.dumps(about)},"traceEvents":[')
    names = found[-1][1].nodes
    places = _places(run, names, processes)
    lines = [
        json.dumps(line, separators=(",", ":")) for line in _named(run, names, places, processes)
    ]
    file.write("\n" + ",\n".join(lines))
    zero: int | None = None
    spans = flows = 0
    for step, events in found:
        rows = events.spans([step])
        rows = rows[rows["rank"] < layout.world]
        if zero is None:
            zero = int(rows["begin_ns"].min())
        for line in _spans(rows, zero, places):
            file.write(",\n" + line)
            spans += 1
        for line in _flows(run, rows, zero, places, flows):
            file.write(",\n" + line)
            flows += 1
    file.write("\n]}\n")
    return spans, flows // 2


def _places(run: Run, names: dict[int, str], processes: Processes) -> dict[int, int]:
    """Process of each rank."""
    layout = run.facts.layout
    if processes == "stages":
        return {rank: layout.coordinates(rank)[0] for rank in range(layout.world)}
    order = {name: i for i, name in enumerate(dict.fromkeys(names[r] for r in sorted(names)))}
    return {rank: order.get(names.get(rank, ""), len(order)) for rank in range(layout.world)}


def _named(
    run: Run, names: dict[int, str], places: dict[int, int], processes: Processes
) -> Iterator[dict[str, Any]]:
    layout = run.facts.layout
    told: set[int] = set()
    by_node = {place: names.get(rank, "node unknown") for rank, place in places.items()}
    for rank, place in sorted(places.items(), key=lambda item: (item[1], item[0])):
        stage, data, tensor = layout.coordinates(rank)
        if place not in told:
            told.add(place)
            name = by_node[place] if processes == "nodes" else f"stage {place}"
            yield _meta("process_name", place, 0, {"name": name})
            yield _meta("process_sort_index", place, 0, {"sort_index": place})
        node = names.get(rank, "node unknown")
        yield _meta(
            "thread_name", place, rank,
            {"name": f"rank {rank}  stage {stage} data {data} tensor {tensor}  {node}"},
        )  # fmt: skip
        yield _meta("thread_sort_index", place, rank, {"sort_index": rank})


def _meta(name: str, pid: int, tid: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "ph": "M", "pid": pid, "tid": tid, "args": args}


def _microseconds(ns: int) -> str:
    whole, rest = divmod(ns, 1000)
    return f"{whole}.{rest:03d}"


def _spans(rows: Rows, zero: int, places: dict[int, int]) -> Iterator[str]:
    # An outer span before those inside it, also where both begin at once.
    order = np.lexsort((-rows["end_ns"], rows["begin_ns"]))
    columns = (rows[name][order].tolist() for name in rows.dtype.names or ())
    for rank, step, kind, micro_batch, begin, end, size, group, peer in zip(*columns, strict=True):
        label = _LABELS.get(kind, f"kind {kind}")
        args = f'"step":{step}'
        for name, value in (
            ("micro_batch", micro_batch), ("bytes", size), ("group", group), ("peer", peer),
        ):  # fmt: skip
            if value >= 0:
                args += f',"{name}":{value}'
        name = f"{label} {micro_batch}" if micro_batch >= 0 else label
        yield (
            f'{{"name":"{name}","cat":"{label}","ph":"X","ts":{_microseconds(begin - zero)},'
            f'"dur":{_microseconds(end - begin)},"pid":{places[rank]},"tid":{rank},'
            f'"args":{{{args}}}}}'
        )


def _flows(run: Run, rows: Rows, zero: int, places: dict[int, int], before: int) -> Iterator[str]:
    """Start and finish of each matched message; none where nothing matches."""
    facts = run.facts
    if facts.layout.pipeline == 1 or not (rows["kind"] == Kind.STEP).any():
        return
    found = transfers(rows, facts.layout, facts.micro_batches, schedule_name(run))
    # A flow binds to the spans that hold its two times: it begins as the sender's does, and ends
    # where the receiver's last ns begins.
    ended = np.maximum(found.receive_begin, found.receive_end - 1)
    columns = (found.sender, found.receiver, found.send_begin, ended, found.down)
    lists = (column.tolist() for column in columns)
    for i, (sender, receiver, begin, end, down) in enumerate(zip(*lists, strict=True)):
        name = "activation" if down else "gradient"
        number = before // 2 + i + 1
        for phase, rank, at in (("s", sender, begin), ("f", receiver, end)):
            binding = ',"bp":"e"' if phase == "f" else ""
            yield (
                f'{{"name":"{name}","cat":"p2p","ph":"{phase}","id":{number},'
                f'"ts":{_microseconds(at - zero)},"pid":{places[rank]},"tid":{rank}{binding}}}'
            )
