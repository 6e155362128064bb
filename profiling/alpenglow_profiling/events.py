"""Events of a training run: what each rank did, from when to when. The room's front door.

    from alpenglow_profiling.events import Kind, NullRecorder, Recorder, merge, read

In a job, `Recorder` keeps spans and logs them (`recorder.py`, `log.py`). At the end of a segment
its logs become one HDF5 file a node (`archive.py`); `read` gives all of them as one table:

    python -m alpenglow_profiling.events merge runs/NAME/events/SEGMENT [--remove-logs]
    python -m alpenglow_profiling.events show runs/NAME/events/SEGMENT
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from alpenglow_profiling.archive import EventsError, merge, read
from alpenglow_profiling.kind import ROW, Kind, Rows
from alpenglow_profiling.recorder import Recorder, log_path
from alpenglow_profiling.segment_events import Events, StepSums
from alpenglow_profiling.span_recorder import NullRecorder, SpanRecorder

__all__ = [
    "ROW",
    "Events",
    "EventsError",
    "Kind",
    "NullRecorder",
    "Recorder",
    "Rows",
    "SpanRecorder",
    "StepSums",
    "log_path",
    "merge",
    "read",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Merge the logs of a segment, or show what they hold; 0, or 1 after one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow_profiling.events", description="The events of a segment."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    merging = verbs.add_parser("merge", help="turn its logs into one HDF5 file a node")
    showing = verbs.add_parser("show", help="print what it holds; writes nothing")
    for verb in (merging, showing):
        verb.add_argument("directory", type=Path, help="events/SEGMENT of a run")
    merging.add_argument("--remove-logs", action="store_true", help="the segment has ended")
    options = parser.parse_args(arguments)
    try:
        if not options.directory.is_dir():
            raise EventsError(f"{options.directory}: no such folder of events")
        if options.verb == "merge":
            merge(options.directory, remove_logs=options.remove_logs)
        events = read(options.directory, write=False)
        if not events.parts:
            raise EventsError(f"{options.directory}: no event log that can be read")
        lines = list(contents(events, options.directory))
    except (EventsError, OSError) as error:
        sys.stderr.write(f"alpenglow_profiling.events: {error}\n")
        return 1
    sys.stdout.write("\n".join(lines) + "\n")
    for damage in events.damages:
        sys.stderr.write(f"{damage}\n")
    return 0


def contents(events: Events, directory: Path) -> Iterator[str]:
    """Say in a few lines what is known of a segment, and what it takes on disk."""
    steps, sums = events.kept.tolist(), events.sums
    inner = [part.spans() for part in events.parts]
    spans = len(events.outer) + sum(map(len, inner))
    totals = sum(len(part.sums()) for part in events.parts)
    yield f"ranks    {len(events.nodes)} of {events.world_size} on {len(events.parts)} nodes"
    ended = f"{len(sums.step)} steps ({_ranges(sums.step.tolist())})"
    yield f"sums     {totals} of {ended if len(sums.step) else 'no step'}"
    yield (
        f"spans    {spans}, inside {len(steps)} steps ({_ranges(steps)})"
        if steps
        else (f"spans    {spans}, inside no step")
    )
    rule = f"each step whose number {events.sample_every} divides, the first two, and anomalies"
    yield f"rule     {'every step' if events.sample_every == 1 else rule}"
    files = sorted({*directory.glob("*.h5"), *directory.glob("rank-*.log")})
    size = sum(path.stat().st_size for path in files)
    yield f"disk     {size} bytes in {len(files)} files, {size / max(1, spans + totals):.1f} a row"
    for kind in sums.kinds:
        share = sums.own(kind).sum() / max(1, sums.own_ns.sum())
        yield f"{kind.label:<16} {share:7.2%} of the ranks' time in steps"


def _ranges(steps: Sequence[int]) -> str:
    """Steps as ranges: `1-2, 10, 20, ... (5 more), 90`."""
    found: list[list[int]] = []
    for step in steps:
        if found and step == found[-1][1] + 1:
            found[-1][1] = step
        else:
            found.append([step, step])
    texts = [f"{first}-{last}" if last > first else f"{first}" for first, last in found]
    if len(texts) > 9:
        texts = [*texts[:4], f"... ({len(texts) - 8} more)", *texts[-4:]]
    return ", ".join(texts)


if __name__ == "__main__":
    sys.exit(main())
