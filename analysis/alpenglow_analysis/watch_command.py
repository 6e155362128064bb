"""alpenglow report --watch RUN: a running job in the terminal, and its page kept fresh.

Ctrl-C leaves quietly. With a terminal the view is drawn over itself; into a pipe or a file it comes
one below the other.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from alpenglow_analysis.facts_table import some
from alpenglow_analysis.run import Facts, Run
from alpenglow_analysis.segment import RunError
from alpenglow_analysis.units import count, percent, seconds
from alpenglow_analysis.watch import Look, Watcher
from alpenglow_analysis.writing import write
from alpenglow_profiling.kind import Kind

WORDS = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.WEIGHT_GRAD: "weight gradient",
    Kind.RECOMPUTE: "recompute",
    Kind.P2P: "messages between stages",
    Kind.TENSOR_REDUCE: "tensor-parallel",
    Kind.GRADIENT_REDUCE: "gradient",
    Kind.OPTIMIZER: "optimizer",
    Kind.DATA_WAIT: "data",
    Kind.STEP: "in no span",
}
BAR = 30
MOST_NAMED = 4
SMALL = 0.0005
"""A share below this is not named."""


def run(arguments: Sequence[str]) -> None:
    """Watch until the run ends or the user has seen enough.

    Raises:
        RunError: not a run directory.
        OSError: the page cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="alpenglow report --watch", description="A running job, followed in the terminal."
    )
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument(
        "--every", type=float, default=5.0, metavar="SECONDS", help="between two looks"
    )
    parser.add_argument(
        "--page", type=float, default=300.0, metavar="SECONDS",
        help="between two reports (report/index.html); 0 writes none",
    )  # fmt: skip
    parser.add_argument(
        "--patience", type=float, default=900.0, metavar="SECONDS",
        help="a job without a sign of life for so long counts as dead",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.every <= 0 or options.page < 0 or options.patience <= 0:
        raise RunError("--every and --patience are above 0, --page is not below")
    with suppress(KeyboardInterrupt):
        _watch(options)


def _watch(options: argparse.Namespace) -> None:
    watcher = Watcher(options.run, options.patience)
    drawn, page_at = 0, time.monotonic()
    terminal = sys.stdout.isatty()
    while True:
        look = watcher.look()
        text = view(watcher.facts, look)
        if terminal and drawn:
            sys.stdout.write(f"\x1b[{drawn}F\x1b[J")
        sys.stdout.write(text if terminal else text + "\n")
        sys.stdout.flush()
        drawn = text.count("\n")
        if options.page and (look.over or time.monotonic() >= page_at + options.page):
            page_at = time.monotonic()
            _page(options.run, None if look.over else max(15, round(options.page)))
        if look.over:
            return
        time.sleep(options.every)


def _page(run: Path, refresh: int | None) -> None:
    """Write the report of a run as it stands; its logs stay as they are."""
    with suppress(RunError):  # no segment has lasted yet
        path = write(Run.load(run, write=False), run / "report", live=True, refresh=refresh)
        if refresh is None:
            sys.stdout.write(f"report: {path}\n")


def view(facts: Facts, look: Look) -> str:
    """The terminal's view of a look, a few short lines."""
    if not look.segment:
        return f"{facts.name}: no job has started yet\n"
    if look.running:
        state = f"running for {seconds(look.since_s)}"
        state += f", silent for {seconds(look.silent_s)}" if look.silent_s > 60 else ""
    elif look.reason:
        state = f"ended after {seconds(look.since_s)}: {look.reason}"
        state += "" if look.over else "; the next job is waited for"
    else:
        state = f"no sign of life for {seconds(look.silent_s)}"
    lines = [
        f"{facts.name}, job {look.segment}: {state}; {some(facts.ranks, facts.unit)} on "
        f"{some(facts.nodes, 'node')}"
    ]
    of = f" of {look.steps:,}" if look.steps else ""
    if look.step:
        line = f"step {look.step:,}{of}   loss {look.loss:.3f}"
        if look.tokens_per_s == look.tokens_per_s:
            line += f"   {count(look.tokens_per_s)} tokens/s   {seconds(look.step_s)} a step"
        lines.append(line)
    else:
        lines.append("no step has ended yet")
    if look.shares:
        filled = round(BAR * look.useful)
        lines.append(
            f"useful  {'#' * filled}{'.' * (BAR - filled)}  {percent(look.useful)} of the last "
            f"steps; waiting {percent(look.waiting)} (messages between stages, data, no span)"
        )
        order = sorted(look.shares.items(), key=lambda item: -item[1])
        named = [
            f"{WORDS[k]} {percent(share)}" for k, share in order if k in WORDS and share > SMALL
        ]
        lines.append("        " + ", ".join(named))
        slow = [
            f"rank {s.rank} ({s.node or 'unknown'}, stage {s.stage}) {s.factor:.2f} x its peers"
            for s in look.slow[:MOST_NAMED]
        ]
        more = len(look.slow) - MOST_NAMED
        if more > 0:
            slow.append(f"{more} more")
        lines.append("slow    " + (", ".join(slow) or "no rank"))
        if look.heard < facts.ranks:
            lines.append(f"heard   {look.heard:,} of {facts.ranks:,} ranks")
    return "\n".join(lines) + "\n"
