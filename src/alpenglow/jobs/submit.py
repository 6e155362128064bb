"""`alpenglow jobs submit FILE [bsub options]`: check first, then submit.

    alpenglow jobs submit jobs/pretrain_7b.lsf -P GEO123 -W 2:00

Exit codes: 0 submitted, 1 findings (nothing is submitted), 2 wrong usage, 3 the scheduler refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow.jobs import CLEAN, FINDINGS, REFUSED, USAGE
from alpenglow.jobs.check import findings, say
from alpenglow_lsf.job import parse_job
from alpenglow_lsf.machine import MachineError, current
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.scheduler import SchedulerError, Submission
from alpenglow_lsf.scheduler import current as scheduler
from alpenglow_lsf.script import Script, ScriptError
from alpenglow_lsf.validate import Finding

HELP = "usage: alpenglow jobs submit FILE [bsub options]\n"


def main(arguments: Sequence[str]) -> int:
    """Check and submit a script; see the module."""
    words = list(arguments)
    if words and words[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return CLEAN
    if not words or words[0].startswith("-"):
        sys.stderr.write(HELP)
        return USAGE
    path = Path(words[0])
    try:
        machine = current()
        over, rest = parse_job(words[1:], "alpenglow jobs submit")
    except (MachineError, OptionError) as error:
        sys.stderr.write(f"alpenglow jobs submit: {error}\n".replace("submit: alpenglow jobs ", ""))
        return USAGE
    found = findings(path, machine, over)
    if machine.project_required and not any(f.rule == "script" for f in found):
        found += _project(path, over.project)
    for finding in found:
        sys.stderr.write(say(finding) + "\n")
    if any(finding.refuses for finding in found):
        sys.stderr.write("Job not submitted.\n")
        return FINDINGS
    try:
        job_id = scheduler(machine).submit(Submission(path, over, tuple(rest)))
    except SchedulerError as error:
        sys.stderr.write(f"{str(error).rstrip('.')}. Job not submitted.\n")
        return REFUSED
    sys.stdout.write(f"Job <{job_id}> is submitted.\n")
    return CLEAN


def _project(path: Path, given: str | None) -> list[Finding]:
    try:
        own = Script.read(path).spec.project
    except ScriptError:
        return []
    if given or own:
        return []
    return [Finding("project", str(path), "-P is missing, which the machine asks for", "name it")]
