"""bpeek's stand-in: what an unfinished job has written so far; -f follows it to its end.

bpeek        bpeek 102        bpeek -f "101[3]"        bpeek -J pretrain_7b
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from alpenglow_lsf.cli.emulated import refuse_not_emulated
from alpenglow_lsf.local import Local
from alpenglow_lsf.machine import MachineError, current
from alpenglow_lsf.options import Option, OptionError, parse_words
from alpenglow_lsf.scheduler import JobState, SchedulerError
from alpenglow_lsf.spool import JobRecord, Spool

OPTIONS = (
    Option("-f"),
    Option("-J", "job name"),
    Option("-q", "queue"),
    Option("-m", "host name", emulated=False),
)
POLL_S = 0.2
BLOCK = 1 << 16


def main(argv: Sequence[str] | None = None) -> int:
    """Print a job's output; 0, or 255 where there is none to show."""
    try:
        found, names = parse_words(sys.argv[1:] if argv is None else argv, OPTIONS, "bpeek")
        refuse_not_emulated(found, "bpeek")
        if len(names) > 1:
            raise OptionError(f"bpeek: {names[1]}: one job at a time")
        given = {option.name: value for option, value in found}
        spool = Local(current()).spool
        record = _choose(spool, names, given.get("-J"), given.get("-q"))
    except (MachineError, OptionError, SchedulerError) as error:
        sys.stderr.write(f"{error}\n")
        return 255
    try:
        _show(spool, record, follow="-f" in given)
    except (BrokenPipeError, KeyboardInterrupt):
        return 130
    return 0


def _choose(spool: Spool, names: Sequence[str], name: str | None, queue: str | None) -> JobRecord:
    """Find the job asked for: by id, or the newest of a name or queue, or the newest of all.

    Raises:
        SchedulerError: none such, not started yet, or ended already.
    """
    records = spool.find(names[0]) if names else spool.jobs()
    what = f"Job <{names[0]}>: " if names else ""
    chosen = [r for r in records if name in (None, r.name, r.title) and queue in (None, r.queue)]
    if not chosen:
        raise SchedulerError(f"{what}No matching job found")
    running = [r for r in chosen if r.state == JobState.RUNNING.value]
    if running:
        return running[-1]
    job = chosen[-1]
    if JobState(job.state).ended:
        raise SchedulerError(
            f"Job <{job.key}>: Job has already finished; its output is in "
            f"{Path(job.folder, job.output)}"
        )
    raise SchedulerError(f"Job <{job.key}>: Not yet started.")


def _show(spool: Spool, record: JobRecord, *, follow: bool) -> None:
    sys.stdout.write("<< output from stdout >>\n")
    sys.stdout.flush()
    path = Path(record.folder, record.output)
    at = 0
    while True:
        # Whether it runs is asked before reading: what it wrote at its end is then read too.
        job = spool.read(record.key)
        runs = job is not None and job.state == JobState.RUNNING.value
        at = _copy(path, at)
        if not follow or not runs:
            return
        time.sleep(POLL_S)


def _copy(path: Path, at: int) -> int:
    """Write a file's bytes from `at` on to standard output; return where they end."""
    if path.exists():
        with path.open("rb") as file:
            file.seek(at)
            while block := file.read(BLOCK):
                sys.stdout.buffer.write(block)
                at += len(block)
    sys.stdout.flush()
    return at
