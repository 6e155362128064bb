"""alpenglow report --trace RUN --steps 100:102 --output FILE.json.gz: spans for ui.perfetto.dev."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow_analysis.run import Run
from alpenglow_analysis.trace_export import steps_of, trace


def run(arguments: Sequence[str]) -> None:
    """Write the trace and say how much is in it.

    Raises:
        RunError: not a run directory, or no such steps.
        OSError: it cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="alpenglow report --trace",
        description="Chosen steps of a run as a trace that ui.perfetto.dev opens.",
    )
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument(
        "--steps", required=True, metavar="FIRST:LAST", help="steps, both ends included"
    )
    parser.add_argument("--output", type=Path, default=Path("trace.json.gz"), metavar="FILE")
    parser.add_argument(
        "--processes", choices=("stages", "nodes"), default="stages",
        help="what a process of the trace is",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    steps = steps_of(options.steps)
    spans, flows = trace(Run.load(options.run), steps, options.output, options.processes)
    sys.stdout.write(f"trace: {options.output} ({spans:,} spans, {flows:,} messages)\n")
