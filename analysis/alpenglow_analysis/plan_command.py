"""Plans before the first node-hour is spent.

    alpenglow plan campaign --machine summit --nodes 512 --tokens 1e12 --step-seconds 1.9 ...

Never imports torch. Exit codes: 0 done, 1 it cannot be (one sentence says why), 2 wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alpenglow import subcommand

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
    "calibrate": (
        "alpenglow_analysis.calibrate_command",
        "factors of a machine from measured runs, and what they predict",
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns its exit code."""
    return subcommand.run("plan", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
