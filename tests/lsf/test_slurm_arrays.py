"""Job arrays and requeued jobs through a real Slurm."""

from __future__ import annotations

import subprocess

import pytest
from slurm_jobs import RANK, Jobs, parent

from alpenglow_lsf.scheduler import JobState, SchedulerError
from alpenglow_lsf.segment import read_segments

pytestmark = pytest.mark.scheduler

ELEMENT = """\
echo $LSB_JOBID $LSB_JOBINDEX $LSB_JOBNAME
touch on.$LSB_JOBINDEX; ls on.* | wc -l >> seen; sleep 0.5
if [ $LSB_JOBINDEX = 3 ]; then python s.py; fi
rm on.$LSB_JOBINDEX; exit $((LSB_JOBINDEX - 1))"""

SAVES = """
import signal, sys, time
def note(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    sys.exit(0)
signal.signal(signal.SIGURG, note)
print("ready", flush=True)
while True: time.sleep(0.05)
"""


def test_an_array_runs_within_its_limit_and_its_elements_have_ids(slurm: Jobs) -> None:
    (slurm.folder / "s.py").write_text(SAVES)
    job = slurm.submit("array", ELEMENT, "-nnodes 1", "-J 'scan[1-4:1,7]%1'")
    last = f"{job}[7]"
    after = slurm.submit("part", "true", "-nnodes 1", f"-w 'exit({job}[2]) && ended({job}[3])'")
    whole = slurm.submit("whole", "true", "-nnodes 1", f"-w 'ended({job})'")
    assert slurm.status(after).dependency.startswith(f"afternotok:{job}_2(unfulfilled)")
    slurm.until(lambda: slurm.status(last).reason == "pending: JobArrayTaskLimit")
    assert slurm.status(last).job_id == last
    slurm.until_says(f"{job}[3]", "ready")
    assert slurm.status(job).state is JobState.RUNNING
    slurm.scheduler.cancel([f"{job}[4]", last])
    # An element that never ran leaves no trace in Slurm.
    assert slurm.scheduler.status(last) is None
    with pytest.raises(SchedulerError, match=rf"there is no job {job}\[7\]"):
        slurm.scheduler.cancel([last])
    slurm.scheduler.cancel([job], "URG")
    found = [slurm.wait(f"{job}[{i}]") for i in (1, 2, 3)]
    assert [s.state for s in found] == [JobState.DONE, JobState.FAILED, JobState.FAILED]
    assert [s.exit_code for s in found] == [0, 1, 2]
    assert [s.job_id for s in found] == [f"{job}[{i}]" for i in (1, 2, 3)]
    for i in (1, 2, 3):
        assert found[i - 1].output == slurm.folder / f"array $(x) {job}.{i}.out"
        assert slurm.output(f"{job}[{i}]").startswith(f"{job} {i} scan[{i}]\n")
    assert "got SIGURG" in slurm.output(f"{job}[3]")
    assert set((slurm.folder / "seen").read_text().split()) == {"1"}
    together = slurm.wait(job)
    assert (together.state, together.name) == (JobState.FAILED, "scan")
    assert together.ended == max(s.ended for s in found if s.ended)
    assert slurm.wait(after).state is JobState.DONE
    assert slurm.wait(whole).state is JobState.DONE


def test_every_element_has_its_own_segment_record(slurm: Jobs) -> None:
    body = parent(f'jsrun -n1 -a2 -c2 python -c "{RANK}"', run="e$LSB_JOBINDEX")
    job = slurm.submit("records", body, "-nnodes 1", "-J 'r[1-2]'")
    chained = slurm.submit("c", parent("true", "--chain"), "-nnodes 1", "-J 'c[1]'")
    assert slurm.wait(job).state is JobState.DONE
    for i in (1, 2):
        (record,) = read_segments(slurm.folder / "runs" / f"e{i}")
        status = slurm.status(f"{job}[{i}]")
        assert (record["job_id"], record["attempt"]) == (f"{job}[{i}]", 1)
        assert (record["job_name"], record["reason"]) == (f"r[{i}]", "complete")
        assert (record["submitted"], record["walltime_s"]) == (status.submitted, 600.0)
        assert status.started is not None
        assert record["deadline"] == pytest.approx(status.started + 600, abs=2)
        assert f" {job}[{i}]\n" in slurm.output(f"{job}[{i}]")
    assert slurm.wait(chained).exit_code == 1
    assert "is an element of an array" in slurm.output(f"{chained}[1]")


def test_a_requeued_job_keeps_its_id_and_is_told_so(slurm: Jobs) -> None:
    body = 'echo attempt $LSB_RESTART; test -n "$LSB_RESTART" || sleep 60'
    job = slurm.submit("again", body, "-nnodes 1", "-r")
    slurm.until_says(job, "attempt\n")
    subprocess.run(["scontrol", "requeue", job], check=True)
    slurm.until_says(job, "attempt Y\n")
    status = slurm.wait(job)
    assert (status.state, status.job_id) == (JobState.DONE, job)
