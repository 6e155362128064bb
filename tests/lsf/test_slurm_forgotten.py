"""What sacct tells of jobs that the controller of a real Slurm has forgotten."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest
from slurm_jobs import Jobs, Run

from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.scheduler import SchedulerError, call_command
from alpenglow_lsf.segment import gained

pytestmark = pytest.mark.scheduler


def test_a_killed_segment_is_closed_from_sacct(slurm: Jobs) -> None:
    if slurm.cluster.refused_accounting is not None:
        pytest.skip(slurm.cluster.refused_accounting)
    for timed in slurm.timed.values():
        timed.wait(2, 200)
    run = Run(slurm, "forgotten", "deaf", "complete")
    job = run.submit(JobSpec(project="geo123"))
    run.ready(0)
    waiting = run.jobs()[1]
    array = slurm.submit("some", "exit $LSB_JOBINDEX", "-nnodes 1", "-J 's[1-2]'")
    for owned in (waiting, job):  # the parent, deaf as its ranks are, is killed in the end
        slurm.scheduler.cancel([owned])
    jobs = [job, waiting, array, f"{array}[1]", f"{array}[2]"]
    known = [slurm.wait(each) for each in jobs]
    # Nor does it tell the code of a job that was cancelled.
    assert known[0].exit_code == 137
    known[0] = replace(known[0], exit_code=None)
    (record,) = run.records()
    assert (record["ended"], record["reason"]) == (None, None)
    slurm.cluster.forget(int(array) + 1000)
    for each, before in zip(jobs, known, strict=True):
        with pytest.raises(SchedulerError, match=r"Invalid job id|not found"):
            call_command(["scontrol", "show", "job", each.replace("[", "_").strip("]")], os.environ)
        told = slurm.status(each)
        # sacct of this version tells neither files nor dependencies nor why a state came about.
        assert told == replace(
            before,
            output=None,
            error=None,
            dependency="",
            reason=re.sub(r": \w+$", "", before.reason),
        )
    assert (known[0].reason, known[0].project) == ("cancelled", "geo123")
    assert known[1].started is None
    run.submit()
    first, second = run.wait(2)
    assert (first["ended"], first["exit_code"]) == (known[0].ended, None)
    assert (first["reason"], first["estimated"], gained(first)) == ("cancelled", False, 5)
    assert "closed from its scheduler (cancelled) by" in first["reason_text"]
    assert (second["reason"], second["resumed_from_step"]) == ("complete", 5)
