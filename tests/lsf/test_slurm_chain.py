"""Chains of segments through a real Slurm."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from typing import Any

import pytest
from slurm_jobs import Jobs, Run

from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.scheduler import JobState
from alpenglow_lsf.segment import gained

pytestmark = pytest.mark.scheduler


def reasons(records: list[dict[str, Any]]) -> list[str]:
    return [record["reason"] for record in records]


def test_a_crash_a_warning_and_a_kill_are_gone_over_and_no_job_is_left(slurm: Jobs) -> None:
    run = Run(slurm, "chain", "more", "gone", "warned", "killed", "parent", "complete")
    run.submit(JobSpec(project="geo123"))
    slurm.scheduler.cancel([run.ready(2)], "URG")
    subprocess.run(["scancel", "--signal=KILL", f"{run.ready(3)}.0"], check=True)  # the ranks
    killed = run.ready(4)
    subprocess.run(["scancel", "--signal=KILL", "--batch", killed], check=True)  # the parent
    records = run.wait(6, 120)
    assert reasons(records) == [
        "more to do",
        "failed",
        "more to do",
        "failed",
        "failed",
        "complete",
    ]
    assert [r["exit_code"] for r in records] == [85, 9, 85, 137, 137, 0]
    assert [gained(r) for r in records] == [10, 0, 10, 5, 5, 10]
    assert [r["estimated"] for r in records] == [False] * 6
    assert "its parent was killed; closed from its scheduler" in records[4]["reason_text"]
    assert records[4]["ended"] == slurm.status(killed).ended
    standings = [r["successor"]["standing"] for r in records]
    assert standings == ["submitted"] * 5 + ["removed"]
    for record, later in pairwise(records):
        assert record["successor"]["job_id"] == later["job_id"]
        # Submitted before the step ran, though it starts after the job's end.
        assert later["submitted"] <= record["ended"] <= later["started"]
        assert (later["project"], later["nodes_asked"], later["walltime_s"]) == ("geo123", 1, 600)
    removed = slurm.status(records[-1]["successor"]["job_id"])
    assert (removed.state, removed.started) == (JobState.FAILED, None)
    assert removed.reason.startswith("cancelled")
    (after,) = run.then()
    assert slurm.wait(after).state is JobState.DONE


def test_stop_ends_the_chain_and_its_pending_segment(slurm: Jobs) -> None:
    run = Run(slurm, "stop", "stop", "complete")
    run.submit()
    job = run.ready(0)
    waiting = run.records()[0]["successor"]["job_id"]
    assert slurm.status(waiting).dependency == f"afterany:{job}(unfulfilled)"
    (run.path / "STOP").touch()
    (record,) = run.wait(1)
    assert (record["reason"], record["successor"]["standing"]) == ("more to do", "removed")
    assert "a file STOP is in the run directory" in record["reason_text"]
    assert slurm.status(waiting).reason.startswith("cancelled")
    again = run.submit()
    assert slurm.wait(again).exit_code == 85
    assert "nothing was started: a file STOP" in slurm.output(again)
    (run.path / "STOP").unlink()
    run.submit()
    assert reasons(run.wait(3)) == ["more to do", "more to do", "complete"]


@pytest.mark.parametrize(("word", "code", "reason"), [("heeds", 85, "more to do"),
                                                      ("warned", 143, "cancelled")])  # fmt: skip
def test_scancel_ends_the_chain_and_not_only_the_segment(
    slurm: Jobs, word: str, code: int, reason: str
) -> None:
    run = Run(slurm, f"owner-{word}", word)
    run.submit()
    slurm.scheduler.cancel([run.ready(0)])
    (record,) = run.wait(1)
    assert (record["exit_code"], record["reason"]) == (code, reason)
    assert record["successor"]["standing"] == "removed"
    assert record["successor"]["why"] == "scancel ended the segment"


def test_a_preempted_segment_is_requeued_and_goes_on(slurm: Jobs) -> None:
    run = Run(slurm, "preempted", "deaf", "heeds", "complete")
    job = run.submit(JobSpec(queue="killable"))
    run.ready(0)
    urgent = slurm.submit("urgent", "sleep 1", "-nnodes 2")
    # Deaf to TERM: the parent is killed with the ranks and cannot close its record.
    slurm.wait(urgent, 120)
    slurm.until(lambda: len(run.records()) == 2, 120, run.story)
    slurm.until(lambda: slurm.output(job).count("ready") == 2, 60, run.story)
    first, second = run.records()
    assert (first["job_id"], first["attempt"]) == (job, 1)
    assert (second["job_id"], second["attempt"]) == (job, 2)
    assert (first["reason"], first["estimated"], gained(first)) == ("requeued", True, 5)
    assert second["successor"]["job_id"] == first["successor"]["job_id"]
    # Requeued by hand, and heeded this time: the attempt closes its own record.
    subprocess.run(["scontrol", "requeue", job], check=True)
    records = run.wait(3, 120)
    assert reasons(records) == ["requeued", "more to do", "complete"]
    assert [r["attempt"] for r in records] == [1, 2, 3]
    assert [r["exit_code"] for r in records] == [None, 85, 0]
    assert "requeued" not in slurm.output(job)
    assert len(run.jobs()) == 2
    assert slurm.status(run.jobs()[1]).started is None


def test_a_segment_preempted_for_good_is_followed_by_the_next(slurm: Jobs) -> None:
    run = Run(slurm, "spare", "deaf", "complete", options="--chain --restarts 0")
    job = run.submit(JobSpec(queue="spare"))
    run.ready(0)
    slurm.submit("urgent", "sleep 1", "-nnodes 2")
    records = run.wait(2, 120)
    assert reasons(records) == ["preempted", "complete"]
    # Its ranks are killed first, then its parent, which may or may not still close the record.
    assert (records[0]["estimated"], gained(records[0])) == (False, 5)
    assert records[0]["job_id"] == job


@pytest.mark.slow
def test_the_warning_before_the_time_limit_is_heeded(slurm: Jobs) -> None:
    slurm.begin_timed()
    run = slurm.timed["warned"]
    warned, complete = run.wait(2, 200)
    assert (warned["reason"], warned["exit_code"], gained(warned)) == ("more to do", 85, 10)
    assert warned["ended"] < warned["deadline"]
    assert (complete["reason"], complete["queue"]) == ("complete", "long")


@pytest.mark.slow
def test_the_time_limit_is_gone_over(slurm: Jobs) -> None:
    slurm.begin_timed()
    run = slurm.timed["limit"]
    deaf, complete = run.wait(2, 200)
    status = slurm.status(deaf["job_id"])
    assert (deaf["reason"], deaf["estimated"], gained(deaf)) == ("walltime", False, 5)
    assert "closed from its scheduler (timeout: TimeLimit)" in deaf["reason_text"]
    assert (deaf["ended"], deaf["walltime_s"]) == (status.ended, 60.0)
    assert complete["reason"] == "complete"
