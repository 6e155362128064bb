"""What recording costs: time a span and bytes a row.

    python -m alpenglow_profiling.bench [--spans 200000]

The spans are those of one rank of a 1F1B step (8 micro-batches, 55 spans a step), so that the
compressed size is that of a real run. Time is that of the recording thread, flushes included.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from alpenglow_profiling.events import Kind, NullRecorder, Recorder, SpanRecorder, log_path, merge

STEP_SPANS = 55


def span_cost(recorder: SpanRecorder, spans: int) -> float:
    """Seconds a span, nothing inside it; the best of five rounds, as others share the machine."""
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(spans // 5):
            with recorder.span(Kind.FORWARD, micro_batch=3):
                pass
        best = min(best, (time.perf_counter() - begin) / (spans // 5))
    return best


def row_sizes(directory: Path, steps: int) -> tuple[float, float]:
    """Bytes a row in the log and in the merged file, for a plausible pattern of times."""
    dice = random.Random(1)
    with Recorder(directory, 0, "node", world_size=1) as recorder:
        now = time.monotonic_ns()
        kinds = [Kind.P2P, Kind.FORWARD, Kind.BACKWARD, Kind.P2P]
        for step in range(1, steps + 1):
            recorder.step = step
            start = now
            for i in range(STEP_SPANS - 1):
                kind = kinds[i % 4]
                end = now + int(dice.gauss(8e6, 4e5) if kind != Kind.P2P else dice.gauss(1e6, 3e5))
                recorder.record(kind, now, end, micro_batch=i // 4)
                now = end + dice.randrange(2000, 9000)
            recorder.record(Kind.STEP, start, now)
    rows = steps * STEP_SPANS
    log = log_path(directory, 0).stat().st_size / rows
    return log, merge(directory)[0].stat().st_size / rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print three lines."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow_profiling.bench")
    parser.add_argument("--spans", type=int, default=200_000)
    spans = parser.parse_args(arguments).spans
    with tempfile.TemporaryDirectory() as folder:
        with Recorder(Path(folder) / "cost", 0, "node", world_size=1) as recorder:
            cost = span_cost(recorder, spans)
        nothing = span_cost(NullRecorder(), spans)
        log, merged = row_sizes(Path(folder) / "size", max(1, spans // STEP_SPANS))
    print(f"span                {cost * 1e6:6.2f} us (recording off: {nothing * 1e6:.2f} us)")
    print(f"step of {STEP_SPANS} spans    {cost * STEP_SPANS * 1e3:6.3f} ms")
    print(f"row                 {log:6.1f} bytes in the log, {merged:.1f} bytes in the HDF5 file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
