"""The Slurm backend: its words, and jobs through a real Slurm that the session starts."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from slurm_jobs import RANK, Jobs, parent

from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.ranks import expand_hosts
from alpenglow_lsf.scheduler import (
    JobState,
    JobStatus,
    SchedulerError,
)  # fmt: skip
from alpenglow_lsf.slurm import parse_sacct, parse_scontrol

ROOT = Path(__file__).resolve().parents[2]

SCONTROL = """\
JobId={id} JobName=a name
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   Priority=4294901759 Nice=0 Account=geo123 QOS=(null)
   JobState={state} Reason={reason} Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode={code}
   RunTime=00:00:00 TimeLimit=1-02:03:00 TimeMin=N/A
   SubmitTime=1795460000 EligibleTime=1795460000
   StartTime=1795460010 EndTime=1795460070 Deadline=N/A
   NodeList={nodes}
   Partition=batch AllocNode:Sid=localhost:31947
   StdErr=/a folder/x=1.err
   StdOut=/a folder/out
"""


@pytest.mark.parametrize(
    ("state", "reason", "code", "is_state", "is_code", "says"),
    [
        ("PENDING", "Dependency", "0:0", JobState.PENDING, None, "pending: Dependency"),
        ("PENDING", "JobHeldUser", "0:0", JobState.HELD, None, "pending: JobHeldUser"),
        ("RUNNING", "None", "0:0", JobState.RUNNING, None, ""),
        ("COMPLETING", "TimeLimit", "0:0", JobState.RUNNING, None, "completing: TimeLimit"),
        ("COMPLETED", "None", "0:0", JobState.DONE, 0, ""),
        ("FAILED", "NonZeroExitCode", "85:0", JobState.FAILED, 85, "failed: NonZeroExitCode"),
        ("TIMEOUT", "TimeLimit", "0:15", JobState.FAILED, 143, "timeout: TimeLimit"),
        ("CANCELLED", "None", "0:0", JobState.FAILED, None, "cancelled"),
        ("NODE_FAIL", "None", "1:0", JobState.FAILED, 1, "node fail"),
        ("NEW_WORD", "None", "0:0", JobState.UNKNOWN, None, "new word"),
    ],
)
def test_states(
    state: str, reason: str, code: str, is_state: JobState, is_code: int | None, says: str
) -> None:
    status = parse_scontrol(
        SCONTROL.format(id=7, state=state, reason=reason, code=code, nodes="n1")
    )
    assert (status.state, status.exit_code, status.reason) == (is_state, is_code, says)
    assert (status.job_id, status.name, status.project) == ("7", "a name", "geo123")
    assert (status.submitted, status.walltime_s) == (1795460000.0, 93780.0)
    assert status.ended == (1795460070.0 if is_state.ended else None)
    assert (status.output, status.error) == (Path("/a folder/out"), Path("/a folder/x=1.err"))


@pytest.mark.parametrize(
    ("word", "started", "ends", "preempted", "says"),
    [
        ("COMPLETING", -60, -1, "None", "completing"),
        ("COMPLETING", 0, 600, "None", "completing: requeued"),
        ("COMPLETING", -60, -1, -5, "completing: preempted"),
        ("RUNNING", -60, 600, -5, "running: preempted"),
        ("RUNNING", -60, 600, "None", ""),
        # Of the attempt before.
        ("COMPLETING", -60, -1, -90, "completing"),
    ],
)
def test_why_a_running_job_ends(
    word: str, started: int, ends: int, preempted: int | str, says: str
) -> None:
    now = int(time.time())
    told = preempted if isinstance(preempted, str) else now + preempted
    text = (
        f"JobId=7 JobName=a\n   JobState={word} Reason=None Dependency=(null)\n"
        f"   StartTime={now + started} EndTime={now + ends} Deadline=N/A\n"
        f"   PreemptEligibleTime={now + started} PreemptTime={told}\n   NodeList=n1\n"
    )
    status = parse_scontrol(text)
    assert (status.state, status.reason) == (JobState.RUNNING, says)


def test_a_line_of_sacct() -> None:
    line = "7|CANCELLED by 0|0:15|1795460000|1795460010|1795460070|120|batch|geo123|n1|a|b"
    assert parse_sacct(line) == JobStatus(
        "7", JobState.FAILED, "a|b", "batch", "geo123", 1795460000.0, 1795460010.0, 1795460070.0,
        143, "cancelled", walltime_s=7200.0,
    )  # fmt: skip


@pytest.mark.scheduler
def test_a_job_its_arguments_and_its_exit_code(slurm: Jobs) -> None:
    slurm.begin_timed()  # looked at by test_slurm_chain, the last to need them
    body = 'echo "$1|$2|$LSB_JOBID|$LSB_JOBNAME|$ALPENGLOW_NODES_ASKED|$PWD"; exit 85'
    job = slurm.submit("x", body, "-nnodes 2", "-J name", "-P geo123")
    status = slurm.wait(job)
    assert slurm.output(job) == f"a b|$(c)|{job}|name|2|{slurm.folder}\n"
    assert (status.state, status.exit_code, status.name) == (JobState.FAILED, 85, "name")
    assert (status.queue, status.walltime_s) == ("batch", 600.0)
    assert status.submitted and status.started and status.ended
    assert status.submitted <= status.started <= status.ended <= time.time() + 1
    assert status.output == slurm.folder / f"x $(x) {job}.0.out"
    assert slurm.scheduler.status("999999") is None
    with pytest.raises(SchedulerError, match=f"job {job} has already finished"):
        slurm.scheduler.cancel([job])


@pytest.mark.scheduler
def test_a_successor_starts_after_a_failed_job(slurm: Jobs) -> None:
    first = slurm.submit("first", "sleep 2; exit 7", "-nnodes 1")
    second = slurm.submit("second", "true", "-nnodes 1", f"-w 'ended({first})'")
    third = slurm.submit("third", "true", "-nnodes 1", f"-w 'done({first})'")
    status = slurm.status(second)
    assert (status.state, status.reason) == (JobState.PENDING, "pending: Dependency")
    assert status.dependency == f"afterany:{first}(unfulfilled)"
    before = slurm.wait(first)
    after = slurm.wait(second)
    assert (before.exit_code, after.exit_code) == (7, 0)
    assert before.ended is not None and after.started is not None
    assert before.ended <= after.started
    assert slurm.status(third).state is JobState.PENDING  # as in LSF, for ever
    slurm.scheduler.cancel([third])
    assert slurm.wait(third).reason.startswith("cancelled")


@pytest.mark.scheduler
def test_lists_of_nodes_expand_as_slurm_expands_them(slurm: Jobs) -> None:
    for listing in ("n1", "n[1-2]", "frontier[00009-00011,00100],login1", "a[08-10],b"):
        words = ["scontrol", "show", "hostnames", listing]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert expand_hosts(listing) == said.split()


@pytest.mark.scheduler
@pytest.mark.parametrize(("order", "hosts"), [("packed", "1122"), ("cyclic", "1212")])
def test_ranks_of_srun(slurm: Jobs, order: str, hosts: str) -> None:
    body = f'jsrun -r1 -a2 -c4 -d {order} python -c "{RANK}"'
    job = slurm.submit("ranks", body, "-nnodes 2")
    assert slurm.wait(job).state is JobState.DONE, slurm.output(job)
    lines = sorted(line for line in slurm.output(job).splitlines() if line.startswith("rank"))
    local = [hosts[:i].count(host) for i, host in enumerate(hosts)]
    assert lines == [f"rank {i} 4 {local[i]} 2 n{hosts[i]} n1 {job}" for i in range(4)]


SAVES = """
import signal, sys, time
def note(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    sys.exit(85)
for name in ("URG", "TERM", "USR2"):
    signal.signal(getattr(signal, "SIG" + name), note)
print("ready", flush=True)
while True: time.sleep(0.05)
"""


@pytest.mark.scheduler
def test_a_segment_is_recorded(slurm: Jobs) -> None:
    over = JobSpec(project="geo123", nodes=2)
    job = slurm.submit("seg", parent(f'jsrun -r1 -a2 -c2 python -c "{RANK}"'), over=over)
    status = slurm.wait(job)
    assert status.state is JobState.DONE, slurm.output(job)
    found = slurm.record(job)
    expected = {
        "job_id": job, "job_name": "seg.lsf", "machine": "cluster", "queue": "batch",
        "nodes_asked": 2, "nodes_used": 2, "nodes_charged": 2, "ranks": 4, "hosts": ["n1", "n2"],
        "walltime_s": 600.0, "exit_code": 0, "reason": "complete", "submitted": status.submitted,
        "script": str(slurm.folder / "seg.lsf"),
    }  # fmt: skip
    assert {k: found[k] for k in expected} == expected
    assert status.started is not None
    assert found["deadline"] == pytest.approx(status.started + 600, abs=2)


@pytest.mark.scheduler
@pytest.mark.parametrize(
    ("signal", "says", "reason"),
    [("URG", "got SIGURG", "more to do"), (None, "got SIGTERM", "more to do")],
)
def test_signals_reach_the_ranks_and_the_record_is_closed(
    slurm: Jobs, signal: str | None, says: str, reason: str
) -> None:
    (slurm.folder / "s.py").write_text(SAVES)
    job = slurm.submit("sig", parent("jsrun -n1 -a2 -c2 python s.py"), "-nnodes 1")
    slurm.until_says(job, "ready\nready")
    slurm.scheduler.cancel([job], signal)
    status = slurm.wait(job)
    assert slurm.output(job).count(says) >= 2
    assert (slurm.record(job)["exit_code"], slurm.record(job)["reason"]) == (85, reason)
    assert status.state is JobState.FAILED
