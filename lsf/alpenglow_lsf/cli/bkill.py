"""bkill's stand-in: ends jobs (INT, TERM, KILL) or sends them one signal.

bkill 102 103        bkill -s URG 102        bkill "101[3]"        bkill 0 (all unfinished jobs)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alpenglow_lsf.cli.emulated import refuse_not_emulated
from alpenglow_lsf.local import Local
from alpenglow_lsf.machine import MachineError, current
from alpenglow_lsf.options import Option, OptionError, parse_words
from alpenglow_lsf.scheduler import JobState, SchedulerError

OPTIONS = (
    Option("-s", "signal"),
    Option("-r"),
    Option("-J", "job name"),
    Option("-q", "queue"),
    *(Option(name, emulated=False) for name in ("-a", "-b", "-d", "-l")),
    *(Option(name, "value", emulated=False) for name in ("-app", "-C", "-g", "-m", "-stat", "-u")),
)
"""bkill's options; those that LSF has and the stand-in does not are refused by name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Signal jobs; 0, or 255 where one could not be."""
    try:
        found, job_ids = parse_words(sys.argv[1:] if argv is None else argv, OPTIONS, "bkill")
        refuse_not_emulated(found, "bkill")
        given = {option.name: value for option, value in found}
        local = Local(current())
        if job_ids == ["0"] or (not job_ids and ("-J" in given or "-q" in given)):
            job_ids = [
                r.key
                for r in local.spool.jobs()
                if not JobState(r.state).ended
                and given.get("-J") in (None, r.name, r.title)
                and given.get("-q") in (None, r.queue)
            ]
            if not job_ids:
                raise SchedulerError("No matching job found")
        if not job_ids:
            raise OptionError("bkill: no job id")
        signal = "KILL" if "-r" in given else given.get("-s")
    except (MachineError, OptionError, SchedulerError) as error:
        sys.stderr.write(f"{error}\n")
        return 255
    code = 0
    for job_id in job_ids:
        try:
            local.cancel([job_id], signal and signal.removeprefix("SIG"))
        except SchedulerError as error:
            sys.stderr.write(f"{error}\n")
            code = 255
        else:
            what = "terminated" if signal is None else "signaled"
            sys.stdout.write(f"Job <{job_id}> is being {what}\n")
    return code
