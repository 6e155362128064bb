"""Events of a training run: what each rank did, from when to when. The room's front door.

    from alpenglow_profiling.events import Kind, NullRecorder, Recorder, merge, read

In a job, `Recorder` keeps spans and logs them (`recorder.py`, `log.py`). At the end of a segment
its logs become one HDF5 file a node (`archive.py`); `read` gives all of them as one table:

    python -m alpenglow_profiling.events merge runs/NAME/events/SEGMENT [--remove-logs]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow_profiling.archive import EventsError, merge, read
from alpenglow_profiling.kind import ROW, Kind, Rows
from alpenglow_profiling.recorder import NullRecorder, Recorder, SpanRecorder, log_path
from alpenglow_profiling.segment_events import Events, StepSums

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
    """Merge the logs of a segment; 0, or 1 after one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow_profiling.events",
        description="Merge the event logs of a segment.",
    )
    parser.add_argument("verb", choices=["merge"])
    parser.add_argument("directory", type=Path, help="events/SEGMENT of a run")
    parser.add_argument("--remove-logs", action="store_true", help="the segment has ended")
    options = parser.parse_args(arguments)
    try:
        if not options.directory.is_dir():
            raise EventsError(f"{options.directory}: no such folder of events")
        files = merge(options.directory, remove_logs=options.remove_logs)
        if not files:
            raise EventsError(f"{options.directory}: no event log that can be read")
        events = read(options.directory)
    except (EventsError, OSError) as error:
        sys.stderr.write(f"alpenglow_profiling.events: {error}\n")
        return 1
    for damage in events.damages:
        sys.stderr.write(f"{damage}\n")
    size = sum(path.stat().st_size for path in files)
    sys.stdout.write(
        f"{len(events.rows)} spans of {len(events.nodes)} ranks in {len(files)} files, "
        f"{size / max(1, len(events.rows)):.1f} bytes a span\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
