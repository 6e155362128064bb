"""bjobs' stand-in: how jobs stand.

bjobs        bjobs -a        bjobs -l 102        bjobs -noheader -o "jobid stat" 102

Each element of a job array is a row: `bjobs 101` shows all, `bjobs "101[3]"` one.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from alpenglow_lsf.cli.emulated import refuse_not_emulated
from alpenglow_lsf.local import Local
from alpenglow_lsf.machine import MachineError, current
from alpenglow_lsf.options import Option, OptionError, parse_words
from alpenglow_lsf.scheduler import SchedulerError
from alpenglow_lsf.spool import JobRecord

OPTIONS = (
    Option("-a"),
    Option("-w"),
    Option("-l"),
    Option("-p"),
    Option("-r"),
    Option("-d"),
    Option("-noheader"),
    Option("-json"),
    Option("-o", '"field field ..."'),
    Option("-J", "job name"),
    Option("-q", "queue"),
    *(Option(name, emulated=False) for name in ("-A", "-s", "-sum", "-UF", "-WP", "-X", "-x")),
    *(Option(name, "value", emulated=False) for name in ("-app", "-G", "-g", "-m", "-P", "-u")),
)
"""bjobs' options; those that LSF has and the stand-in does not are refused by name."""


def _clock(moment: float | None) -> str:
    if moment is None:
        return "-"
    year = os.environ.get("LSB_DISPLAY_YEAR", "").lower() == "y"
    return time.strftime("%b %e %H:%M:%S %Y" if year else "%b %e %H:%M", time.localtime(moment))


def _time_left(record: JobRecord) -> str:
    if record.started is None or record.walltime_s is None or record.ended is not None:
        return "-"
    minutes = max(0, round((record.started + record.walltime_s - time.time()) / 60))
    return f"{minutes // 60}:{minutes % 60} L"


FIELDS: Mapping[str, Callable[[JobRecord], str]] = {
    "jobid": lambda r: str(r.job_id),
    "stat": lambda r: r.state,
    "user": lambda r: r.user,
    "queue": lambda r: r.queue,
    "jobindex": lambda r: str(r.index),
    "job_name": lambda r: r.title,
    "proj_name": lambda r: r.project,
    "from_host": lambda r: r.host,
    "exec_host": lambda r: ":".join(r.hosts) if r.started else "-",
    "submit_time": lambda r: _clock(r.submitted),
    "start_time": lambda r: _clock(r.started),
    "finish_time": lambda r: _clock(r.ended),
    "exit_code": lambda r: "-" if r.exit_code is None else str(r.exit_code),
    "exit_reason": lambda r: r.reason if r.ended else "-",
    "pend_reason": lambda r: r.reason if r.state == "PEND" else "-",
    "dependency": lambda r: r.options.get("-w", "-"),
    "run_time": lambda r: (
        f"{(r.ended or time.time()) - r.started:.0f} second(s)" if r.started else "-"
    ),
    "run_limit": lambda r: "-" if r.walltime_s is None else f"{r.walltime_s / 60:.1f}",
    "runtimelimit": lambda r: "-" if r.walltime_s is None else f"{r.walltime_s / 60:.1f}",
    "time_left": _time_left,
    "output_file": lambda r: r.output,
    "error_file": lambda r: r.error or "-",
    "sub_cwd": lambda r: r.folder,
    "command": lambda r: r.script or " ".join(r.command),
    "nreq_slot": lambda r: str(r.nodes),
}
"""Fields of `-o`, named as LSF names them."""

TABLE = ("jobid", "user", "stat", "queue", "from_host", "exec_host", "job_name", "submit_time")


def main(argv: Sequence[str] | None = None) -> int:
    """Print jobs; 0, or 255 where a job asked for does not exist."""
    try:
        words = sys.argv[1:] if argv is None else argv
        found, job_ids = parse_words(words, OPTIONS, "bjobs")
        refuse_not_emulated(found, "bjobs")
        given = {option.name: value for option, value in found}
        if "-json" in given and "-o" not in given:
            raise OptionError("bjobs: -json needs -o beside it")
        fields, delimiter = _fields(given["-o"]) if "-o" in given else (list(TABLE), None)
        local = Local(current())
        records = local.spool.jobs()
    except (MachineError, OptionError, SchedulerError) as error:
        sys.stderr.write(f"{error}\n")
        return 255
    named = {text: {r.key for r in local.spool.find(text)} for text in job_ids}
    unknown = [text for text, keys in named.items() if not keys]
    for job_id in unknown:
        sys.stderr.write(f"Job <{job_id}> is not found\n")
    asked = None if not job_ids else {key for keys in named.values() for key in keys}
    chosen = [r for r in records if _wanted(r, given, asked)]
    if not chosen and not unknown:
        sys.stderr.write("No unfinished job found\n" if "-a" not in given else "No job found\n")
    elif "-l" in given:
        sys.stdout.write("\n".join(_long(record) for record in chosen))
    elif "-json" in given:
        rows = [{f.upper(): FIELDS[f](r) for f in fields} for r in chosen]
        sys.stdout.write(
            json.dumps({"COMMAND": "bjobs", "JOBS": len(rows), "RECORDS": rows}, indent=2) + "\n"
        )
    elif chosen:
        _table(chosen, fields, delimiter, given)
    return 255 if unknown else 0


def _wanted(record: JobRecord, given: Mapping[str, str], keys: set[str] | None) -> bool:
    if "-J" in given and given["-J"] not in (record.name, record.title):
        return False
    if "-q" in given and record.queue != given["-q"]:
        return False
    if keys is not None:
        return record.key in keys
    states = {"-p": ("PEND",), "-r": ("RUN",), "-d": ("DONE", "EXIT")}
    asked = [state for flag, some in states.items() if flag in given for state in some]
    return "-a" in given or record.state in (asked or ("PEND", "RUN"))


def _fields(text: str) -> tuple[list[str], str | None]:
    delimiter = re.search(r"delimiter='(.)'", text)
    text = re.sub(r"delimiter='.'", "", text)
    names = [word.partition(":")[0].lower() for word in text.split()]
    for name in names:
        if name not in FIELDS:
            raise OptionError(f"bjobs: -o has no field {name}; known: {', '.join(FIELDS)}")
    if not names:
        raise OptionError("bjobs: -o names no field")
    return names, None if delimiter is None else delimiter[1]


def _table(
    records: list[JobRecord], fields: list[str], delimiter: str | None, given: Mapping[str, str]
) -> None:
    rows = [[FIELDS[field](record) for field in fields] for record in records]
    if "-noheader" not in given:
        rows.insert(0, [field.upper() for field in fields])
    if delimiter is not None:
        sys.stdout.writelines(delimiter.join(row) + "\n" for row in rows)
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(fields))]
    if "-w" not in given and "-o" not in given:
        widths = [min(width, 14) for width in widths]
    for row in rows:
        cells = [cell[:width].ljust(width) for cell, width in zip(row, widths, strict=True)]
        sys.stdout.write(" ".join(cells).rstrip() + "\n")


def _long(record: JobRecord) -> str:
    lines = [
        f"Job <{record.key}>, Job Name <{record.title}>, User <{record.user}>, "
        f"Project <{record.project}>, Status <{record.state}>, Queue <{record.queue}>, "
        f"Command <{record.script or ' '.join(record.command)}>",
        f"{_clock(record.submitted)}: Submitted from host <{record.host}>, CWD <{record.folder}>, "
        f"Output File <{record.output}>, {record.nodes} node(s) asked;",
    ]
    lines += [f"  {name} {value}".rstrip() for name, value in record.options.items()]
    if record.attempt > 1:
        lines.append(f" REQUEUED: attempt {record.attempt}")
    if record.state == "PEND":
        lines.append(f" PENDING REASONS: {record.reason or 'new job'}")
    if record.started is not None:
        lines.append(f"{_clock(record.started)}: Started on <{'> <'.join(record.hosts)}>;")
    if record.ended is not None:
        lines.append(f"{_clock(record.ended)}: {record.reason}")
    if record.walltime_s is not None:
        lines.append(f" RUNLIMIT {record.walltime_s / 60:.1f} min")
    return "\n".join(lines) + "\n"
