"""bhist's stand-in: what happened to jobs, with times.

bhist        bhist -a        bhist -l 102        bhist -l "101[3]"

The lines are worded as LSF's are; times have no year unless LSB_DISPLAY_YEAR is y, as in bjobs -l.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence

from alpenglow_lsf.cli.emulated import refuse_not_emulated
from alpenglow_lsf.local import Local
from alpenglow_lsf.machine import MachineError, current
from alpenglow_lsf.options import Option, OptionError, parse_words
from alpenglow_lsf.scheduler import JobState, SchedulerError
from alpenglow_lsf.spool import JobRecord, Spool

OPTIONS = (
    Option("-l"),
    Option("-a"),
    Option("-w"),
    Option("-d"),
    Option("-e"),
    Option("-p"),
    Option("-r"),
    Option("-J", "job name"),
    Option("-q", "queue"),
    Option("-n", "number of event logs"),
    *(Option(name, "value", emulated=False) for name in ("-C", "-D", "-S", "-T", "-P", "-u", "-m")),
    *(Option(name, emulated=False) for name in ("-b", "-s", "-t", "-UF", "-gpu", "-hostfile")),
)

WIDTH, INDENT = 79, 21
STATES = ("PEND", "PSUSP", "RUN", "USUSP", "SSUSP", "UNKWN")


def main(argv: Sequence[str] | None = None) -> int:
    """Print histories; 0, or 255 where a job asked for does not exist."""
    try:
        found, names = parse_words(sys.argv[1:] if argv is None else argv, OPTIONS, "bhist")
        refuse_not_emulated(found, "bhist")
        given = {option.name: value for option, value in found}
        spool = Local(current()).spool
        records = [r for name in names for r in spool.find(name)] if names else spool.jobs()
        unknown = [name for name in names if not spool.find(name)]
    except (MachineError, OptionError, SchedulerError) as error:
        sys.stderr.write(f"{error}\n")
        return 255
    chosen = [r for r in records if _wanted(r, given, all_states=bool(names))]
    if not chosen:
        sys.stderr.write("No matching job found\n")
    elif "-l" in given:
        rule = "-" * 78 + "\n"
        sys.stdout.write(rule.join(_long(spool, record) for record in chosen))
    else:
        _table(spool, chosen, wide="-w" in given)
    return 255 if unknown or not chosen else 0


def _wanted(record: JobRecord, given: Mapping[str, str], *, all_states: bool) -> bool:
    if given.get("-J") not in (None, record.name, record.title):
        return False
    if given.get("-q") not in (None, record.queue):
        return False
    flags = {"-d": ("DONE", "EXIT"), "-e": ("EXIT",), "-p": ("PEND",), "-r": ("RUN",)}
    asked = {state for flag, some in flags.items() if flag in given for state in some}
    if "-a" in given or (all_states and not asked):
        return True
    # As with LSF, what has ended is shown where it is asked for only.
    return record.state in asked if asked else not JobState(record.state).ended


def _clock(moment: float) -> str:
    year = os.environ.get("LSB_DISPLAY_YEAR", "").lower() == "y"
    form = "%a %b %e %H:%M:%S %Y" if year else "%a %b %e %H:%M:%S"
    return time.strftime(form, time.localtime(moment))


def _long(spool: Spool, record: JobRecord) -> str:
    command = record.script or " ".join(record.command)
    head = (
        f"Job <{record.key}>, Job Name <{record.title}>, User <{record.user}>, "
        f"Project <{record.project}>, Command <{command}>"
    )
    lines = _wrapped(head)
    for moment, text in spool.history(record.key):
        lines += _wrapped(f"{_clock(moment)}: {text};")
    now = time.time()
    lines += ["", f"Summary of time in seconds spent in various states by  {_clock(now)}"]
    lines.append("  " + "".join(name.ljust(9) for name in (*STATES, "TOTAL")).rstrip())
    lines.append("  " + "".join(str(n).ljust(9) for n in _seconds(spool, record, now)).rstrip())
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    """Fold a line as LSF does: hard at 79 columns, also inside a word; what follows is indented."""
    lines = [text[:WIDTH]]
    rest = text[WIDTH:]
    while rest:
        lines.append(" " * INDENT + rest[: WIDTH - INDENT])
        rest = rest[WIDTH - INDENT :]
    return lines


def _seconds(spool: Spool, record: JobRecord, now: float) -> list[int]:
    """Seconds in each of STATES, and their sum, over all attempts."""
    spent = dict.fromkeys(STATES, 0.0)
    state, since = "PEND", record.submitted
    for moment, text in spool.history(record.key):
        follows = next((s for words, s in _TURNS if text.startswith(words)), None)
        if follows is not None and state != "":
            spent[state] += max(0.0, moment - since)
            state, since = follows, moment
    if state:
        spent[state] += max(0.0, (record.ended or now) - since)
    counts = [round(spent[name]) for name in STATES]
    return [*counts, sum(counts)]


_TURNS = (
    ("Dispatched ", "RUN"),
    ("Pending: Requeued ", "PEND"),
    ("Done successfully", ""),
    ("Completed <exit>", ""),
)
"""Events that change the state, and the state they lead to (empty: ended)."""


def _table(spool: Spool, records: Sequence[JobRecord], *, wide: bool) -> None:
    now = time.time()
    sys.stdout.write("Summary of time in seconds spent in various states:\n")
    rows = [["JOBID", "USER", "JOB_NAME", *STATES, "TOTAL"]]
    for record in records:
        title = record.title if wide else record.title[:9]
        numbers = [str(n) for n in _seconds(spool, record, now)]
        rows.append([record.key, record.user if wide else record.user[:7], title, *numbers])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        sys.stdout.write(" ".join(cells).rstrip() + "\n")
