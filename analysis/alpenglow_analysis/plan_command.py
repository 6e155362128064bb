"""Plans before the first node-hour is spent.

    alpenglow plan campaign --machine summit --nodes 512 --tokens 1e12 --step-seconds 1.9 ...

Never imports torch. Exit codes: 0 done, 1 it cannot be (one sentence says why), 2 wrong usage.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import cast

COMMANDS = {
    "layout": (
        "alpenglow_analysis.layout_command",
        "the best layout of a run, and why it is",
    ),
    "step": (
        "alpenglow_analysis.step_command",
        "what one step of one layout takes, part by part",
    ),
    "simulate": (
        "alpenglow_analysis.simulate_command",
        "steps with jitter, slow ranks, slow links, pauses: what each costs",
    ),
    "compare": (
        "alpenglow_analysis.compare_command",
        "the same run on several machines",
    ),
    "scaling": (
        "alpenglow_analysis.scaling_command",
        "what a scaling study measured, beside ideal and prediction",
    ),
    "campaign": (
        "alpenglow_analysis.campaign_command",
        "a whole run as a chain of jobs: days, node-hours, what choices change",
    ),
    "proposal": (
        "alpenglow_analysis.proposal_command",
        "a proposal for an allocation, each number with its source",
    ),
}
"""sub-command -> (module with `main(arguments) -> exit code`, one line of help)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    name = words[0] if words else ""
    if name in ("", "-h", "--help"):
        lines = [f"  {key:<10}{line}" for key, (_, line) in COMMANDS.items()]
        sys.stdout.write("usage: alpenglow plan COMMAND ...\n" + "\n".join(lines) + "\n")
        return 0 if words else 2
    if name not in COMMANDS:
        sys.stderr.write(f"alpenglow plan: no command {name}; choose from {', '.join(COMMANDS)}\n")
        return 2
    run = cast(Callable[[Sequence[str]], int], importlib.import_module(COMMANDS[name][0]).main)
    return run(words[1:])


if __name__ == "__main__":
    sys.exit(main())
