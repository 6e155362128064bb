"""brequeue's stand-in: ends a running job and lets it wait again under the same id.

brequeue 102        brequeue "101[3]"

The job gets INT, TERM and KILL as from bkill, goes to the end of the queue, and starts with
LSB_RESTART=Y.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alpenglow_lsf.cli.emulated import refuse_not_emulated
from alpenglow_lsf.local import Local
from alpenglow_lsf.machine import MachineError, current
from alpenglow_lsf.options import Option, OptionError, parse_words
from alpenglow_lsf.scheduler import SchedulerError

OPTIONS = (
    Option("-r"),
    *(Option(name, emulated=False) for name in ("-a", "-d", "-e", "-H", "-p")),
    *(Option(name, "value", emulated=False) for name in ("-J", "-u")),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Requeue jobs; 0, or 255 where one could not be."""
    try:
        found, job_ids = parse_words(sys.argv[1:] if argv is None else argv, OPTIONS, "brequeue")
        refuse_not_emulated(found, "brequeue")
        if not job_ids:
            raise OptionError("brequeue: no job id")
        local = Local(current())
    except (MachineError, OptionError, SchedulerError) as error:
        sys.stderr.write(f"{error}\n")
        return 255
    code = 0
    for job_id in job_ids:
        try:
            local.requeue(job_id)
        except SchedulerError as error:
            sys.stderr.write(f"{error}\n")
            code = 255
        else:
            sys.stdout.write(f"Job <{job_id}> is being requeued\n")
    return code
