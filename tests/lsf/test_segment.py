"""What LSF remembers of a job, for the record of a segment whose parent was killed."""

from __future__ import annotations

import time

import pytest

from alpenglow_lsf.lsf import parse_history
from alpenglow_lsf.scheduler import JobState

HEAD = """
Job <1063>, Job Name <pretrain_7b>, User <user1>, Project <GEO123>, Command <#!/bin
                     /bash>
Wed May 27 12:29:14 2026: Submitted from host <login1>, to Queue <batch>, CWD <$HOME>;
Wed May 27 12:30:10 2026: Dispatched 2 Task(s) on Host(s) <batch1> <a01n01>;
Wed May 27 12:30:15 2026: Starting (Pid 3216);
"""
RUNLIMIT = """Thu May 28 00:40:20 2026: Exited by signal 9. The CPU time used is 3.0 se
                     conds;
Thu May 28 00:40:20 2026: Completed <exit>; TERM_RUNLIMIT: job killed after reachin
                     g LSF run time limit;
"""
DONE = "Wed May 27 13:00:00 2026: Done successfully. The CPU time used is 0.2 seconds;\n"
CODE = "Wed May 27 13:00:00 2026: Exited with exit code 85. The CPU time used is 0.2 seconds;\n"
AGAIN = "Wed May 27 14:00:00 2026: Starting (Pid 99);\n"


@pytest.mark.parametrize(
    ("text", "code", "reason", "clock"),
    [
        (
            HEAD + RUNLIMIT,
            137,
            "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
            "28 00:40:20",
        ),
        (HEAD + DONE, 0, "Done successfully", "27 13:00:00"),
        (HEAD + CODE, 85, "Exited with exit code 85", "27 13:00:00"),
        (HEAD + CODE + AGAIN + RUNLIMIT, 137, "TERM_RUNLIMIT: job killed after", "28 00:40:20"),
    ],
)
def test_bhist_tells_how_a_job_ended(text: str, code: int, reason: str, clock: str) -> None:
    status = parse_history("1063", text)
    assert status is not None
    assert status.state is (JobState.FAILED if code else JobState.DONE)
    assert status.exit_code == code
    assert status.reason.startswith(reason)
    assert status.ended is not None
    assert time.strftime("%d %H:%M:%S", time.localtime(status.ended)) == clock


@pytest.mark.parametrize("text", ["", "No matching job found", HEAD, HEAD + CODE + AGAIN])
def test_bhist_that_tells_of_no_end_is_no_word(text: str) -> None:
    assert parse_history("1063", text) is None


def test_without_a_year_the_day_is_a_past_one() -> None:
    status = parse_history("7", CODE.replace(" 2026", ""))
    assert status is not None and status.ended is not None
    assert status.ended < time.time() + 180 * 86400
