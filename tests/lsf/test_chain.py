"""Chains of segments: the decisions on a fake clock, and real jobs with a tiny fake trainer."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_trainer import TRAINER

from alpenglow_lsf.chain import (
    Chain,
    ChainError,
    Policy,
    chain_of,
    check_script,
    decide,
    overlay,
    whole_minutes,
)
from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.scheduler import JobState, JobStatus, SchedulerError, Submission
from alpenglow_lsf.script import Script
from alpenglow_lsf.segment import (
    Ending,
    RunLock,
    Segment,
    SegmentError,
    close_lost,
    gained,
    read_segments,
)

if TYPE_CHECKING:
    from tests.lsf.conftest import Site


def ended(reason: str, since: int = 0, durable: int | None = None, **more: Any) -> dict[str, Any]:
    fields = {"job_id": "1", "attempt": 1, "reason": reason, "resumed_from_step": since}
    return {**fields, "last_durable_checkpoint": durable, **more}


MORE = ended("more to do", 0, 10)
CRASH = ended("failed", 10, 20)
NOTHING = ended("failed", 20)


@pytest.mark.parametrize(
    ("chain", "stop", "goes_on", "why"),
    [
        ([], False, True, "more to do"),
        ([], True, False, "file STOP"),
        ([MORE], False, True, "more to do"),
        ([MORE], True, False, "file STOP"),
        ([MORE, ended("complete", 10, 20)], False, False, "the run is complete"),
        ([MORE, ended("signal INT", 10, 20)], False, False, "bkill"),
        ([CRASH], False, True, "more to do"),
        ([NOTHING], False, True, "no checkpoint gained, 1 of 1 forgiven"),
        ([MORE, NOTHING], False, True, "1 of 1 forgiven"),
        ([MORE, NOTHING, NOTHING], False, False, "2 segments in a row gained no checkpoint"),
        ([NOTHING, MORE, NOTHING], False, True, "1 of 1 forgiven"),
        # A requeued job was preempted: no failure of the run.
        ([NOTHING, ended("requeued", 20)], False, True, "1 of 1 forgiven"),
        ([CRASH] * 3, False, True, "more to do"),
        ([CRASH] * 4, False, False, "4 segments failed, and --restarts allows 3"),
        ([ended("walltime", 0, 5)] * 4, False, False, "--restarts allows 3"),
        ([MORE] * 40, False, True, "more to do"),
    ],
)
def test_decisions(chain: list[dict[str, Any]], stop: bool, goes_on: bool, why: str) -> None:
    decision = decide(chain, Policy(restarts=3), stop=stop)
    assert decision.goes_on == goes_on
    assert why in decision.why


def test_without_grace_the_first_fruitless_segment_ends_the_chain() -> None:
    decision = decide([NOTHING], Policy(grace=0))
    assert (decision.goes_on, decision.why) == (False, "the segment gained no checkpoint")


def test_weeks_on_a_fake_clock() -> None:
    """100,000 steps of 14 s in 12-hour segments, a node lost every fifth segment."""
    hour, total, every = 3600.0, 100_000, 500
    clock, durable = 0.0, 0
    chain: list[dict[str, Any]] = []
    while not chain or decide(chain, Policy(restarts=10)).goes_on:
        clock += 5 * hour  # in the queue
        started, lost = clock, len(chain) % 5 == 4
        steps = int((7 * hour if lost else 11.8 * hour) / 14.0)
        reached = min(total, durable + steps)
        saved = reached if not lost or reached == total else reached // every * every
        clock += (reached - durable) * 14.0 + 0.1 * hour
        reason = "complete" if reached == total else "failed" if lost else "more to do"
        chain.append(ended(reason, durable, saved, started=started, ended=clock))
        durable = saved
    assert durable == total
    assert chain[-1]["reason"] == "complete"
    assert sum(map(gained, chain)) == total
    assert sum(record["reason"] == "failed" for record in chain) == len(chain) // 5
    assert len(chain) == 37
    assert clock == pytest.approx(24.6 * 24 * hour, rel=0.01)


def test_a_chain_is_told_from_its_records() -> None:
    def record(job: str, follower: str | None, attempt: int = 1) -> dict[str, Any]:
        successor = None if follower is None else {"job_id": follower}
        return {"job_id": job, "attempt": attempt, "successor": successor}

    records = [record("1", "2"), record("5", None), record("2", "3"), record("2", "3", 2)]
    names = [(r["job_id"], r["attempt"]) for r in chain_of(records, "3")]
    assert names == [("1", 1), ("2", 1), ("2", 2)]
    assert [r["job_id"] for r in chain_of(records, "5")] == ["5"]


def test_what_bsub_was_told_holds_for_the_next_segment() -> None:
    script = Script.parse(
        "#BSUB -nnodes 4\n#BSUB -W 2:00\n#BSUB -q batch\n#BSUB -wa URG\n#BSUB -wt 9"
    )
    asked = JobSpec(project="GEO123", queue="batch", nodes=8, walltime=120)
    over = overlay(script, asked, "7")
    assert over == JobSpec(project="GEO123", nodes=8, dependency="ended(7)")
    assert over.over(script.spec).warning_action == "URG"
    # Expert mode has no -nnodes, and one must not be added.
    assert overlay(Script.parse("#BSUB -n 85"), asked, "7").nodes is None
    assert [whole_minutes(s) for s in (None, 7200.0, 90.0, 30.0)] == [None, 120, None, None]


@pytest.mark.parametrize("text", ["--run runs/x", "--run 'runs/x'", "--run=runs/x", "--run $R", ""])
def test_the_script_of_a_chain_is_that_of_its_run(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.lsf"
    path.write_text(f"python -m alpenglow_lsf.run {text}\n")
    assert check_script(path, "runs/x").text
    if "runs" in text:
        with pytest.raises(ChainError, match=r"continues runs/x, and this is runs/y"):
            check_script(path, "runs/y")
    with pytest.raises(ChainError, match="--chain"):
        check_script(tmp_path / "no.lsf", "runs/x")


def test_the_lock_of_a_job_that_has_ended_is_taken_over_at_once(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    path = tmp_path / "segments" / "a.lock"
    path.write_text(json.dumps({"job_id": "5", "host": "elsewhere", "process": 1}))
    with pytest.raises(SegmentError), RunLock(tmp_path, "a", lambda job: job == "4").held("6"):
        pass
    with RunLock(tmp_path, "a", lambda job: job == "5").held("6"):
        assert json.loads(path.read_text())["job_id"] == "6"


def test_a_requeued_attempt_is_closed_as_such(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    fields = {"job_id": "7", "activity": "a", "heartbeat": 20.0}
    Segment(tmp_path, {**fields, "started": 10.0})
    Segment(tmp_path, {**fields, "started": 30.0, "heartbeat": 35.0})
    asked = []

    def ask(job: str) -> Ending | None:
        asked.append(job)
        return Ending(40.0, 140, "TERM_RUNLIMIT: job killed after reaching LSF run time limit")

    assert close_lost(tmp_path, "a", "8.1", ask) == ["7.1", "7.2"]
    first, second = read_segments(tmp_path)
    assert (first["reason"], first["ended"], first["estimated"]) == ("requeued", 20.0, True)
    assert (second["reason"], second["ended"], second["estimated"]) == ("walltime", 40.0, False)
    assert second["exit_code"] == 140
    assert asked == ["7"]  # about the newest attempt only


class Known:
    """A scheduler of which only the answers matter."""

    def __init__(self, *jobs: JobStatus) -> None:
        self.jobs = {job.job_id: job for job in jobs}
        self.submitted: list[Submission] = []

    def submit(self, submission: Submission) -> str:
        self.submitted.append(submission)
        return "99"

    def status(self, job_id: str) -> JobStatus | None:
        return self.jobs.get(job_id)

    def cancel(self, job_ids: Sequence[str], signal: str | None = None) -> None:
        raise SchedulerError(f"Job <{job_ids[0]}>: User permission denied")


@pytest.mark.parametrize(
    ("submitted", "state", "adopted"),
    [
        (1000.0, JobState.PENDING, True),
        (1000.0, JobState.FAILED, False),
        (90000.0, JobState.PENDING, False),  # another job, years later, under the same id
    ],
)
def test_a_requeued_job_keeps_the_successor_it_has(
    tmp_path: Path, submitted: float, state: JobState, adopted: bool
) -> None:
    (tmp_path / "segments").mkdir()
    waiting = {"script": "t", "job_id": "8", "standing": "submitted", "why": "", "time": 1001.0}
    fields = {"job_id": "7", "activity": "a", "project": "P"}
    first = Segment(tmp_path, {**fields, "started": 990.0, "successor": waiting})
    first.close(130, "signal INT", "killed")
    again = Segment(tmp_path, {**fields, "started": 5000.0})
    scheduler = Known(JobStatus("8", state, submitted=submitted))
    said: list[str] = []
    script = Script.parse("#BSUB -nnodes 2\n")
    chain = Chain(
        Path("t"), Policy(), scheduler, tmp_path, again, JobSpec(project="P"), said.append,
        script=script,
    )  # fmt: skip
    assert chain.at_start().goes_on  # whoever requeues it wants it to go on
    chain.adopt()
    chain.submit()
    assert chain.job_id == ("8" if adopted else "99")
    dependencies = [submission.over.dependency for submission in scheduler.submitted]
    assert dependencies == ([] if adopted else ["ended(7)"])
    if not adopted:
        # What cannot be removed is said; it will look at the records itself.
        chain.remove("the run is complete")
        assert chain.job_id == "99"
        assert "job 99, the next segment, could not be removed: Job <99>: User" in said[-1]


STEP = "jsrun -n1 -a2 -c2 python trainer.py"


class Run:
    """A run of the fake trainer on a site."""

    def __init__(self, site: Site, *plan: str, options: str = "") -> None:
        self.site = site
        self.path = site.folder / "runs/x"
        self.path.mkdir(parents=True)
        (self.path / "plan").write_text("\n".join(plan))
        (site.folder / "trainer.py").write_text(TRAINER)
        site.script("after.lsf", "true", "-J after")
        words = f"--run runs/x --activity pretrain --then after.lsf --chain {options}"
        site.script("t.lsf", f"exec python -m alpenglow_lsf.run {words} -- {STEP}")

    def ids(self) -> list[str]:
        return sorted((p.stem for p in self.site.spool.glob("*.json")), key=int)

    def pending(self) -> list[str]:
        return [job for job in self.ids() if self.site.job(job)["state"] in ("PEND", "RUN")]

    def wait(self) -> list[dict[str, Any]]:
        """Wait until nothing is left to run; returns the records of the segments."""
        self.site.until(lambda: not self.pending(), 60, self.ids())
        return read_segments(self.path)

    def ready(self, job: str) -> None:
        site = self.site
        site.until(lambda: job in self.ids() and bool(site.job(job)["process"]))
        site.until(lambda: "ready" in site.output(job), 30, site.output(job))


def then_jobs(records: list[dict[str, Any]]) -> list[str]:
    return [then["job_id"] for record in records for then in record["then"]]


def test_five_segments_and_no_job_is_left(site: Site) -> None:
    run = Run(site, *["more"] * 4, "complete")
    site.bsub("-P", "GEO123", "t.lsf")
    records = run.wait()
    assert [r["reason"] for r in records] == ["more to do"] * 4 + ["complete"]
    assert [r["last_durable_checkpoint"] for r in records] == [10, 20, 30, 40, 50]
    standings = [r["successor"]["standing"] for r in records]
    assert standings == ["submitted"] * 4 + ["removed"]
    assert records[-1]["successor"]["why"] == "the run is complete"
    # The chain of jobs, the one that was removed, and the one after the run, submitted once.
    (after,) = then_jobs(records)
    assert site.job(after)["name"] == "after"
    assert len(run.ids()) == 7
    removed = site.job(records[-1]["successor"]["job_id"])
    assert (removed["state"], removed["started"]) == ("EXIT", None)
    for record in records:
        assert record["project"] == "GEO123"
        later = site.job(record["successor"]["job_id"])
        assert later["submitted"] < site.job(record["job_id"])["ended"]
        assert later["options"]["-w"] == f"ended({record['job_id']})"


def test_a_crash_a_warning_and_a_kill_without_warning_are_gone_over(site: Site) -> None:
    run = Run(site, "gone", "warned", "killed", "parent", "complete")
    first = int(site.bsub("t.lsf"))
    warned, killed, parent = (str(first + i) for i in (1, 2, 3))
    run.ready(warned)
    site.call("bkill", "-s", "URG", warned)  # as -wa does before the walltime
    run.ready(killed)
    for process in Path("/proc").glob("[0-9]*"):
        if_rank(process, site, "trainer.py", signal.SIGKILL)
    run.ready(parent)
    os.kill(site.job(parent)["process"], signal.SIGKILL)
    records = run.wait()
    reasons = [r["reason"] for r in records]
    assert reasons == ["failed", "more to do", "failed", "failed", "complete"]
    assert [r["exit_code"] for r in records] == [9, 85, 137, 137, 0]
    assert [gained(r) for r in records] == [0, 10, 5, 5, 10]
    assert [r["estimated"] for r in records] == [False] * 5
    assert "its parent was killed; closed from its scheduler" in records[3]["reason_text"]
    assert len(then_jobs(records)) == 1


@pytest.mark.slow
def test_the_walltime_warns_and_kills_and_the_chain_goes_on(site: Site) -> None:
    """Minutes of 0.4 s: the warning of -wa is heeded once; then a deaf segment is killed whole."""
    (site.spool / "settings.toml").write_text("seconds_per_minute = 0.4\n")
    run = Run(site, "warned", "deaf", "complete")
    text = (site.folder / "t.lsf").read_text()
    (site.folder / "t.lsf").write_text(text.replace("-W 10", "-W 10\n#BSUB -wa URG\n#BSUB -wt 3"))
    site.bsub("t.lsf")
    records = run.wait()
    assert [r["reason"] for r in records] == ["more to do", "walltime", "complete"]
    assert [gained(r) for r in records] == [10, 5, 10]
    deaf = records[1]
    assert "closed from its scheduler (TERM_RUNLIMIT" in deaf["reason_text"]
    assert deaf["ended"] == site.job(deaf["job_id"])["ended"]
    assert (deaf["estimated"], deaf["exit_code"]) == (False, 137)


def if_rank(process: Path, site: Site, word: str, number: int) -> None:
    """Send a signal to a process of this site whose command line names `word`."""
    try:
        command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        here = (process / "cwd").resolve() == site.folder
    except OSError:
        return
    if here and len(command) > 1 and command[-2] == word and "jsrun" not in " ".join(command):
        os.kill(int(process.name), number)


@pytest.mark.parametrize("word", ["gone", "full"])
def test_segments_that_gain_nothing_end_the_chain(site: Site, word: str) -> None:
    run = Run(site, "more", word)
    site.bsub("t.lsf")
    records = run.wait()
    assert [r["reason"] for r in records] == ["more to do", "failed", "failed"]
    assert [gained(r) for r in records] == [10, 0, 0]
    last = records[-1]
    assert last["successor"]["standing"] == "removed"
    assert "the chain ends: 2 segments in a row gained no checkpoint" in last["reason_text"]
    assert "the chain ends: 2 segments in a row" in site.output(last["job_id"])
    assert len(run.ids()) == 4
    assert then_jobs(records) == []


def test_the_restart_budget_ends_the_chain(site: Site) -> None:
    run = Run(site, "killed", options="--restarts 0")
    job = site.bsub("t.lsf")
    run.ready(job)
    for process in Path("/proc").glob("[0-9]*"):
        if_rank(process, site, "trainer.py", signal.SIGKILL)
    (record,) = run.wait()
    assert gained(record) == 5
    assert "1 segment failed, and --restarts allows 0" in record["reason_text"]
    assert record["successor"]["standing"] == "removed"


def test_stop_ends_the_chain_and_the_next_one_starts_nothing(site: Site) -> None:
    run = Run(site, "stop", "complete")
    job = site.bsub("t.lsf")
    run.ready(job)
    (run.path / "STOP").touch()
    (record,) = run.wait()
    assert (record["reason"], record["successor"]["standing"]) == ("more to do", "removed")
    assert "a file STOP is in the run directory" in record["reason_text"]
    again = site.bsub("t.lsf")
    records = run.wait()
    assert site.job(again)["exit_code"] == 85
    assert "nothing was started: a file STOP" in site.output(again)
    assert records[-1]["successor"] is None
    assert len(run.ids()) == 3
    (run.path / "STOP").unlink()
    site.bsub("t.lsf")
    assert run.wait()[-1]["reason"] == "complete"


def test_bkill_ends_the_chain_and_not_only_the_segment(site: Site) -> None:
    run = Run(site, "warned")
    job = site.bsub("t.lsf")
    run.ready(job)
    site.call("bkill", job)
    (record,) = run.wait()
    assert record["successor"]["standing"] == "removed"
    assert "bkill ended the segment" in record["successor"]["why"]


def test_a_segment_that_finds_the_run_complete_starts_nothing(site: Site) -> None:
    run = Run(site, "complete")
    site.bsub("t.lsf")
    run.wait()
    again = site.bsub("t.lsf")
    records = run.wait()
    assert site.job(again)["exit_code"] == 0
    assert "nothing was started: the run is complete since segment" in site.output(again)
    assert not list(run.path.glob(f"segments/{again}.*.rank0.json"))
    assert len(then_jobs(records)) == 1


def test_a_segment_killed_before_it_could_decide_is_judged_by_the_next(site: Site) -> None:
    """Its parent dies, so the pending segment starts; it finds that two gained nothing."""
    run = Run(site, "killed", "full", options="--restarts 0")
    job = site.bsub("t.lsf")
    run.ready(job)
    os.kill(site.job(job)["process"], signal.SIGKILL)
    records = run.wait()
    assert [r["reason"] for r in records] == ["failed", "more to do"]
    assert "nothing was started: 1 segment failed" in records[1]["reason_text"]
    assert len(run.ids()) == 2


@pytest.mark.parametrize("later", ["taken", "refused"])
def test_a_refused_successor_does_not_stop_the_run_and_is_tried_again(
    site: Site, later: str
) -> None:
    run = Run(site, "warned", "complete", options="next.lsf")
    text = (site.folder / "t.lsf").read_text()
    following = site.folder / "next.lsf"
    following.write_text(text.replace("#BSUB", "#BSUB -H\n#BSUB", 1))
    # From standard input a job does not know its script: --chain names it.
    job = site.bsub(stdin=text)
    run.ready(job)
    (record,) = read_segments(run.path)
    refusal = "bsub: -H is not emulated on laptop"
    assert record["successor"]["standing"] == "refused"
    assert record["successor"]["why"] == refusal
    assert f"the next segment was refused: {refusal}" in site.output(job)
    if later == "taken":
        following.write_text(text)
    site.call("bkill", "-s", "URG", job)
    records = run.wait()
    assert records[0]["reason"] == "more to do"
    if later == "taken":
        assert records[0]["successor"]["standing"] == "submitted"
        assert [r["reason"] for r in records] == ["more to do", "complete"]
    else:
        assert (
            f"the chain ends: the next segment was refused: {refusal}"
            in (records[0]["reason_text"])
        )
        assert len(records) == 1


def test_a_queue_that_forbids_chains_gets_none(site: Site) -> None:
    run = Run(site, "more")
    job = site.bsub("-q", "debug", "t.lsf")
    (record,) = run.wait()
    assert (record["reason"], record["successor"]) == ("more to do", None)
    assert "queue debug allows no chains" in site.output(job)


def test_two_segments_of_a_chain_at_once_are_refused(site: Site) -> None:
    (site.spool / "settings.toml").write_text("jobs_at_once = 2\n")
    run = Run(site, "warned", "complete")
    first = site.bsub("t.lsf")
    run.ready(first)
    second = site.bsub("t.lsf")
    assert site.wait(second)["exit_code"] == 1
    assert f"is in use by job {first} on" in site.output(second)
    site.call("bkill", "-s", "URG", first)
    records = run.wait()
    assert [r["reason"] for r in records] == ["more to do", "complete"]
    assert len(run.ids()) == 5  # two segments, the refused one, the removed one, the one after


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--chain",), "nobody says which script this job is: write --chain SCRIPT"),
        (("--chain", "other.lsf"), "--chain other.lsf continues runs/y, and this is runs/x"),
        (("--chain", "no.lsf"), "no.lsf"),
    ],
)
def test_a_chain_that_cannot_be_made_is_one_sentence(
    site: Site, words: tuple[str, ...], says: str
) -> None:
    (site.folder / "other.lsf").write_text("exec python -m alpenglow_lsf.run --run runs/y\n")
    python = (sys.executable, "-m", "alpenglow_lsf.run", "--run", "runs/x", "--activity", "a")
    done = site.call(*python, *words, "--", "true", LSB_JOBID="101")
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ['it\'s "a"; $(touch pwned) `touch pwned`&', "new\nline"])
def test_names_never_reach_a_shell_unquoted(site: Site, name: str) -> None:
    """The run directory, the script and the paths of --then, with what shells take to heart."""
    script, after = site.folder / f"{name}.lsf", site.folder / f"then {name}.lsf"
    lines = "#!/bin/bash\n#BSUB -W 10\n#BSUB -nnodes 1\n"
    after.write_text(f'{lines}#BSUB -o after.out\nprintf %s "$ALPENGLOW_RUN"\n')
    words = ["--run", f"runs/{name}", "--activity", "a", "--then", after.name, "--chain"]
    once = "test -e once && exit 0; touch once; exit 85"
    line = shlex.join([*words, "--", "jsrun", "-n1", "sh", "-c", once])
    script.write_text(f"{lines}#BSUB -o out\nexec python -m alpenglow_lsf.run {line}\n")
    first = int(site.bsub(script.name))
    site.until((site.spool / f"{first + 3}.json").exists, 30)
    site.wait(str(first + 3))
    records = read_segments(site.folder / "runs" / name)
    assert [r["reason"] for r in records] == ["more to do", "complete"]
    run = str(site.folder / "runs" / name)
    assert (site.folder / "after.out").read_text().startswith(run)
    assert not list(site.folder.rglob("pwned"))
