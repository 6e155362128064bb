"""bsub's stand-in: checks a job against the emulated machine and gives it to the local scheduler.

bsub jobs/pretrain_7b.lsf        bsub -P GEO123 -W 0:30 < jobs/pretrain_7b.lsf
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow_lsf.job import JobSpec, parse_job
from alpenglow_lsf.local import Local
from alpenglow_lsf.machine import Machine, MachineError, current
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.scheduler import SchedulerError, Submission
from alpenglow_lsf.script import Script
from alpenglow_lsf.validate import Finding, check, check_job

REFUSED = 255
"""bsub's exit code when a job is not submitted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Submit a job; 0, or 255 where it was refused."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        machine = current()
        spec, rest = parse_job(words)
        local = Local(machine)
        job_id = _submit(local, machine, spec, rest)
    except (MachineError, OptionError, SchedulerError) as error:
        text = str(error)
        said = text if text.startswith("bsub:") else f"bsub: {text}"
        sys.stderr.write(f"{said.rstrip('.')}. Job not submitted.\n")
        return REFUSED
    queue = next((record.queue for record in local.spool.find(job_id)), "")
    sys.stdout.write(f"Job <{job_id}> is submitted to queue <{queue}>.\n")
    return 0


def _submit(local: Local, machine: Machine, spec: JobSpec, rest: list[str]) -> str:
    if not rest:
        if sys.stdin.isatty():
            raise SchedulerError("no script: write `bsub FILE` or `bsub < FILE`")
        script = Script.parse(sys.stdin.read(), "standard input")
        path = _path_of_input()
    elif _is_script(rest[0]):
        script = Script.read(Path(rest[0]))
        path = rest[0]
    else:
        _judge(check_job(spec, machine))
        return local.submit_command(rest, Submission(Path(rest[0]), spec))
    if not script.text.strip():
        raise SchedulerError(f"{script.name} is empty")
    _judge(check(script, machine, spec))
    submission = Submission(Path(path or script.name), spec, tuple(rest[1:]))
    return local.submit_script(script, submission, path)


def _is_script(word: str) -> bool:
    path = Path(word)
    if path.is_dir():
        raise SchedulerError(f"{word} is a folder, not a script")
    if not path.is_file():
        # A path that does not exist is a script that is missing; a bare word may be a command.
        if "/" in word or path.suffix:
            raise SchedulerError(f"no script {word}")
        return False
    with path.open("rb") as file:
        return file.read(4) != b"\x7fELF"


def _path_of_input() -> str | None:
    """Path of the file that `bsub <` reads, where the system tells (for the record only)."""
    try:
        path = Path(f"/proc/self/fd/{sys.stdin.fileno()}").readlink()
    except (OSError, ValueError):
        return None
    if not path.is_file():
        return None
    here = Path.cwd()
    return os.fspath(path.relative_to(here) if path.is_relative_to(here) else path)


def _judge(findings: list[Finding]) -> None:
    for finding in findings:
        if not finding.refuses:
            sys.stderr.write(f"bsub: note: {finding}\n")
    wrong = [str(finding) for finding in findings if finding.refuses]
    if wrong:
        for text in wrong[:-1]:
            sys.stderr.write(f"bsub: {text.removeprefix('bsub: ')}\n")
        raise SchedulerError(wrong[-1].removeprefix("bsub: "))
