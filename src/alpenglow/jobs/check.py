"""`alpenglow jobs check FILE... [--machine NAME]`: everything that is wrong, a line each.

    jobs/x.lsf:7: -W 12:30 is more than 12 h, ...; ask for less [bin]

Exit codes: 0 nothing wrong (notes do not count), 1 findings, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow.jobs import CLEAN, FINDINGS, USAGE
from alpenglow.jobs.plan import plans
from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.machine import Machine, MachineError, current, load
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.review import review_script
from alpenglow_lsf.script import Script, ScriptError
from alpenglow_lsf.validate import Finding, unreadable


def findings(
    path: Path, machine: Machine, over: JobSpec | None = None, base: Path | None = None
) -> list[Finding]:
    """Find what is wrong with a script, its recipe, and the two together.

    Args:
        path: the script.
        machine: its `target`'s rules hold.
        over: options of a command line, laid over those of the script.
        base: folder that the job is submitted from; the current one if None.
    """
    try:
        script = Script.read(path)
    except ScriptError as error:
        return [unreadable(error, str(path))]
    try:
        spec = script.spec if over is None else over.over(script.spec)
    except OptionError as error:
        return [Finding(error.rule, script.name, str(error), "")]
    machine = machine.of_queue(spec.queue)
    found = review_script(script, machine, over, base)
    try:
        planned = plans(script, spec, machine, Path.cwd() if base is None else base)
    except OptionError:
        return found  # named already
    return [*found, *(finding for plan in planned for finding in plan.findings)]


def say(finding: Finding) -> str:
    """Write a finding as one line with its rule."""
    if finding.refuses:
        return f"{finding} [{finding.rule}]"
    return f"{finding.where}: note: {finding.message} [{finding.rule}]"


def machine_of(name: str | None) -> Machine:
    """Load the machine that was named, else that of the environment.

    Raises:
        MachineError: neither gives a usable machine file.
    """
    return current() if name is None else load(name)


def main(arguments: Sequence[str]) -> int:
    """Check scripts; see the module."""
    parser = argparse.ArgumentParser(prog="alpenglow jobs check", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="batch scripts")
    parser.add_argument("--machine", help="name or path of a machine file; default: this machine's")
    try:
        given = parser.parse_args(list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else USAGE
    try:
        machine = machine_of(given.machine)
    except MachineError as error:
        sys.stderr.write(f"alpenglow jobs check: {error} (or give --machine NAME)\n")
        return USAGE
    wrong = notes = 0
    for path in given.files:
        for finding in findings(path, machine):
            sys.stdout.write(say(finding) + "\n")
            wrong += finding.refuses
            notes += not finding.refuses
    sys.stderr.write(
        f"{len(given.files)} checked against {machine.target.name}: {wrong} findings, "
        f"{notes} notes\n"
    )
    if machine.target.unverified:
        keys = ", ".join(machine.target.unverified)
        sys.stderr.write(f"no source of the site confirms {keys} of {machine.target.name}\n")
    return FINDINGS if wrong else CLEAN
