"""Jobs before and while they run: what is wrong, what it costs, submission, the story of a run.

    alpenglow jobs check jobs/*.lsf [--machine summit]
    alpenglow jobs preview jobs/pretrain_7b.lsf [--tokens-per-second 900000]
    alpenglow jobs submit jobs/pretrain_7b.lsf -P GEO123
    alpenglow jobs status runs/pretrain_7b

Never imports torch. Exit codes: 0 nothing wrong, 1 findings, 2 wrong usage, 3 refused by the
scheduler.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import cast

VERBS = {
    "check": ("alpenglow.jobs.check", "find what is wrong with scripts and their recipes"),
    "preview": ("alpenglow.jobs.preview", "show bin, cost, chain, ranks and the jsrun line"),
    "submit": ("alpenglow.jobs.submit", "check a script, then give it to the scheduler"),
    "status": ("alpenglow_lsf.status", "tell a run's story: segments, node-hours, forecast"),
}
"""verb -> (module with `main(arguments) -> exit code`, one line of help)."""

CLEAN, FINDINGS, USAGE, REFUSED = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    verb = words[0] if words else ""
    if verb in ("", "-h", "--help"):
        lines = [f"  {name:<8}  {text}" for name, (_, text) in VERBS.items()]
        sys.stdout.write("usage: alpenglow jobs VERB ...\n" + "\n".join(lines) + "\n")
        return USAGE if not words else CLEAN
    if verb not in VERBS:
        sys.stderr.write(f"alpenglow jobs: no verb {verb}; choose from {', '.join(VERBS)}\n")
        return USAGE
    run = cast(Callable[[Sequence[str]], int], importlib.import_module(VERBS[verb][0]).main)
    return run(words[1:])
