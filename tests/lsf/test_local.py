from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from alpenglow_lsf import machine
from alpenglow_lsf.job import JobSpec
from alpenglow_lsf.local import Local
from alpenglow_lsf.scheduler import SchedulerError, Submission

if TYPE_CHECKING:
    from tests.lsf.conftest import Site

ROOT = Path(__file__).resolve().parents[2]


def test_a_chain_of_jobs_through_bsub_and_jsrun(site: Site) -> None:
    body = "jsrun -r1 -a1 -c1 sh -c 'echo rank $JSM_NAMESPACE_RANK; exit ${BAD:-0}'"
    script = site.script("step.lsf", body, "-J step")
    first = site.bsub("step.lsf")
    with script.open() as text:
        second = site.bsub("-J", "bad", "-w", f"done({first})", stdin=text.read(), BAD="7")
    after_failure = site.bsub("-w", "ended(bad)", "step.lsf")
    never = site.bsub("-w", f"done({second})", "step.lsf")
    assert [site.wait(j)["state"] for j in (first, second, after_failure)] == [
        "DONE",
        "EXIT",
        "DONE",
    ]
    assert site.job(second)["exit_code"] == 7
    assert int(second) == int(first) + 1
    text_of_first = site.output(first)
    assert sorted(text_of_first.splitlines()[:2]) == ["rank 0", "rank 1"]
    assert "Successfully completed." in text_of_first
    assert f"Job {second}: <bad> Exited" in site.output(second)
    assert "Exited with exit code 7." in site.output(second)
    site.until(lambda: "never satisfied" in site.job(never)["reason"])
    assert site.state(never) == "PEND"
    assert f"done({second})" in site.call("bjobs", "-l", never).stdout
    site.call("bkill", never)
    assert site.wait(never)["state"] == "EXIT"


def test_variables_of_a_job(site: Site) -> None:
    site.script(
        "env.lsf", "env -0 > env.$LSB_JOBID; pwd > pwd", "-J look", "-e look.%J.err", "-nnodes 3"
    )
    text = (site.folder / "env.lsf").read_text().replace("#BSUB -nnodes 2\n", "")
    (site.folder / "env.lsf").write_text(text)
    stale = {
        "LSB_JOBID": "9",
        "JSM_NAMESPACE_RANK": "1",
        "ALPENGLOW_DEADLINE": "1",
        "ALPENGLOW_RUN": "/r",
    }
    job = site.bsub("env.lsf", **stale, LSB_DEFAULTPROJECT="GEO123")
    record = site.wait(job)
    assert record["state"] == "DONE", site.output(job)
    pairs = (site.folder / f"env.{job}").read_text().split("\0")
    environ = dict(pair.split("=", 1) for pair in pairs if pair)
    assert {k: environ[k] for k in ("LSB_JOBID", "LSB_JOBNAME", "LSB_JOBINDEX", "LSB_QUEUE")} == {
        "LSB_JOBID": job, "LSB_JOBNAME": "look", "LSB_JOBINDEX": "0", "LSB_QUEUE": "batch",
    }  # fmt: skip
    assert environ["LSB_MCPU_HOSTS"] == "batch1 1 node1 42 node2 42"
    assert environ["LSB_HOSTS"].split() == Path(environ["LSB_DJOB_HOSTFILE"]).read_text().split()
    assert environ["LSB_HOSTS"].split().count("node2") == 42
    assert environ["LSB_PROJECT_NAME"] == "GEO123"
    assert environ["LSB_OUTPUTFILE"] == f"env.{job}.out"
    assert environ["LSB_ERRORFILE"] == f"look.{job}.err"
    assert environ["LS_SUBCWD"] == str(site.folder)
    assert (site.folder / "pwd").read_text().strip() == str(site.folder)
    assert environ["LS_JOBPID"] == str(record["process"])
    assert environ["ALPENGLOW_NODES_ASKED"] == "3"
    assert float(environ["ALPENGLOW_DEADLINE"]) == pytest.approx(record["started"] + 600, abs=1)
    assert environ["ALPENGLOW_RUN"] == "/r"
    assert "JSM_NAMESPACE_RANK" not in environ
    assert "PWD" in environ and environ["ALPENGLOW_SCRIPT"] == "env.lsf"


def test_output_grows_while_the_job_runs_and_errors_join_it(site: Site) -> None:
    site.script("slow.lsf", "echo early; echo oops >&2; while [ ! -e go ]; do sleep 0.05; done")
    job = site.bsub("slow.lsf")
    site.wait(job, "RUN")
    site.until(lambda: (site.folder / f"slow.{job}.out").exists() and "oops" in site.output(job))
    assert site.output(job) == "early\noops\n"
    (site.folder / "go").touch()
    assert site.wait(job)["state"] == "DONE"


def test_jobs_wait_for_the_one_slot_in_order(site: Site) -> None:
    site.script("s.lsf", "echo $LSB_JOBID >> order; while [ ! -e go ]; do sleep 0.05; done")
    jobs = [site.bsub("s.lsf") for _ in range(3)]
    site.until(lambda: "behind" in site.job(jobs[2])["reason"])
    assert [site.state(job) for job in jobs] == ["RUN", "PEND", "PEND"]
    (site.folder / "go").touch()
    for job in jobs:
        site.wait(job)
    assert (site.folder / "order").read_text().split() == jobs
    records = [site.job(job) for job in jobs]
    assert all(a["ended"] <= b["started"] for a, b in pairwise(records))


def test_a_job_outlives_the_shell_that_submitted_it(site: Site) -> None:
    site.script("s.lsf", "sleep 1; echo survived")
    shell = subprocess.Popen(
        ["bash", "-c", "bsub s.lsf; sleep 50"],
        cwd=site.folder, env=site.environ, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert shell.stdout is not None
    job = shell.stdout.readline().partition("<")[2].partition(">")[0]
    site.wait(job, "RUN")
    os.killpg(shell.pid, signal.SIGHUP)
    os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    shell.stdout.close()
    assert site.wait(job)["state"] == "DONE"
    assert "survived" in site.output(job)


TRAP = """
import signal, sys, time
def note(number, frame):
    print(signal.Signals(number).name, round(time.time() - began, 2), flush=True)
for name in %r: signal.signal(getattr(signal, name), note)
began = time.time()
print("ready", flush=True)
while True: time.sleep(0.01)
"""


def test_walltime_warns_then_usr2_then_kills(hasty: Site) -> None:
    (hasty.folder / "t.py").write_text(TRAP % (["SIGURG", "SIGUSR2"],))
    hasty.script("w.lsf", "exec python t.py", "-wa URG -wt 5")
    job = hasty.bsub("w.lsf")
    record = hasty.wait(job)
    assert record["state"] == "EXIT" and record["exit_code"] == 137
    words = [
        line.split()[0] for line in hasty.output(job).splitlines() if line.startswith(("r", "SIG"))
    ]
    assert words == ["ready", "SIGURG", "SIGUSR2"]
    # Ten minutes to the walltime and ten more to the kill, a minute being 0.2 s here.
    assert 3.9 < record["ended"] - record["started"] < 10
    assert "TERM_RUNLIMIT" in hasty.output(job)


def test_a_job_that_heeds_the_walltime_signal_is_done(hasty: Site) -> None:
    hasty.script("w.lsf", "trap 'echo saved; exit 0' USR2; while :; do sleep 0.05; done")
    job = hasty.bsub("-W", "4", "w.lsf")
    assert hasty.wait(job)["state"] == "DONE"
    assert "saved" in hasty.output(job)


def test_bkill_is_int_then_term_then_kill(hasty: Site) -> None:
    # The ten seconds between the signals are a sixth of a minute: half a second here.
    (hasty.spool / "settings.toml").write_text("seconds_per_minute = 3\n")
    (hasty.folder / "t.py").write_text(TRAP % (["SIGINT", "SIGTERM"],))
    hasty.script("k.lsf", "exec python t.py")
    job = hasty.bsub("-W", "60", "k.lsf")
    hasty.until(lambda: "ready" in hasty.output(job) if hasty.job(job)["process"] else False)
    killed = hasty.call("bkill", job)
    assert killed.stdout == f"Job <{job}> is being terminated\n"
    record = hasty.wait(job)
    assert (record["state"], record["exit_code"]) == ("EXIT", 137)
    lines = [line.split()[0] for line in hasty.output(job).splitlines() if line.startswith("SIG")]
    assert lines == ["SIGINT", "SIGTERM"]
    assert "TERM_OWNER" in hasty.output(job)
    assert "already finished" in hasty.call("bkill", job).stderr
    assert hasty.call("bkill", "99999").returncode == 255


def test_bkill_s_sends_one_signal(site: Site) -> None:
    site.script("k.lsf", "trap 'echo asked; exit 85' URG; echo ready; while :; do sleep 0.05; done")
    job = site.bsub("k.lsf")
    site.until(lambda: bool(site.job(job)["process"]) and "ready" in site.output(job))
    assert site.call("bkill", "-s", "URG", job).returncode == 0
    assert site.wait(job)["exit_code"] == 85
    assert "asked" in site.output(job)


def test_a_job_does_not_inherit_what_the_submitting_shell_ignores(site: Site) -> None:
    site.script("i.lsf", "echo ready; exec sleep 50")
    done = site.call("sh", "-c", "trap '' INT TERM USR1; bsub i.lsf")
    job = done.stdout.partition("<")[2].partition(">")[0]
    site.until(lambda: bool(site.job(job)["process"]) and "ready" in site.output(job))
    site.call("bkill", "-s", "USR1", job)
    assert site.wait(job)["exit_code"] == 128 + signal.SIGUSR1


def test_kill_reaches_what_the_job_has_started(site: Site, is_alive: Callable[[int], bool]) -> None:
    site.script("k.lsf", "jsrun -r1 -a1 -c1 sh -c 'echo $$; exec sleep 50' & sleep 60")
    job = site.bsub("k.lsf")
    site.until(lambda: bool(site.job(job)["process"]) and len(site.output(job).split()) == 2)
    ranks = [int(word) for word in site.output(job).split()]
    site.call("bkill", "-s", "KILL", job)
    assert site.wait(job)["state"] == "EXIT"
    site.until(lambda: not any(is_alive(rank) for rank in ranks))


def test_a_left_over_process_keeps_the_job_running(site: Site) -> None:
    site.script("b.lsf", "(while [ ! -e go ]; do sleep 0.05; done) & echo gone")
    job = site.bsub("b.lsf")
    site.until(lambda: bool(site.job(job)["process"]) and "gone" in site.output(job))
    time.sleep(0.4)
    assert site.state(job) == "RUN"
    (site.folder / "go").touch()
    assert site.wait(job)["state"] == "DONE"


def test_a_job_whose_supervisor_was_killed_is_lost_not_running(
    site: Site, is_alive: Callable[[int], bool]
) -> None:
    site.script("s.lsf", "echo $PPID; exec sleep 50")
    job = site.bsub("s.lsf")
    site.until(lambda: bool(site.job(job)["process"]) and bool(site.output(job).strip()))
    os.kill(int(site.output(job)), signal.SIGKILL)
    site.until(lambda: site.state(job) == "EXIT")
    assert "lost" in site.job(job)["reason"]
    assert "Exited; lost: its supervisor was killed" in site.call("bhist", "-l", job).stdout
    site.until(lambda: not is_alive(site.job(job)["process"]))
    # Its slot is free again.
    site.script("next.lsf", "true")
    assert site.wait(site.bsub("next.lsf"))["state"] == "DONE"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("none.lsf",), "bsub: no script none.lsf. Job not submitted.\n"),
        (("-fast", "s.lsf"), "bsub: unknown option -fast. Job not submitted.\n"),
        (("-W", "3:00", "s.lsf"), "-W 3:00 is more than 2 h"),
        (("-q", "debug", "-W", "2:01", "s.lsf"), "-W 2:01 is more than 2 h"),
        (("-nnodes", "5000", "s.lsf"), "-nnodes 5000 is more than queue batch"),
        (("-w", "done(77)", "s.lsf"), "there is no job 77"),
        (("-w", "done(77", "s.lsf"), "ends where ')' should stand"),
        (("-n", "4", "s.lsf"), "-nnodes 2 excludes -n"),
        (("-K", "s.lsf"), "-K is not emulated on laptop"),
        (("-J", "a[0-3]", "s.lsf"), "they begin with 1"),
        (("-J", "a[1-3]%0", "s.lsf"), "%0 should be a whole number"),
        (("-J", "a[1-900]", "s.lsf"), "900 elements; this computer takes 64"),
        (("-Q", "EXCLUDE(9)", "s.lsf"), "-Q EXCLUDE(...) is not emulated"),
        (("-Q", "many", "s.lsf"), "many should be an exit code"),
        (("bad.lsf",), "bad.lsf:5: jsrun: -r 7 sets of -g 1 ask for 7 GPUs, but a node has 6"),
        (("-W", "1", "-nnodes", "1", "no-such-command"), "no script or command no-such-command"),
        (("empty.lsf",), "empty.lsf is empty"),
    ],
)
def test_bsub_refuses_with_a_sentence_and_255(
    site: Site, words: tuple[str, ...], says: str
) -> None:
    site.script("s.lsf", "true")
    site.script("bad.lsf", "jsrun -r7 -g1 -c1 x")
    (site.folder / "empty.lsf").touch()
    done = site.call("bsub", *words)
    assert done.returncode == 255
    assert says in done.stderr
    assert "Job not submitted" in done.stderr
    assert not list(site.spool.glob("*.json"))


def test_commands_and_arguments(site: Site) -> None:
    site.script("args.lsf", 'echo "$1|$2"')
    with_arguments = site.bsub("args.lsf", "one", "two words")
    command = site.bsub("-W", "1", "-nnodes", "1", "-o", "c.%J", "echo", "-n", "a b")
    site.wait(with_arguments)
    site.wait(command)
    assert site.output(with_arguments).startswith("one|two words\n")
    assert (site.folder / f"c.{command}").read_text().startswith("a b\n---")


def test_bjobs_shows_tables_and_fields(site: Site) -> None:
    site.script("s.lsf", "true", "-J shown", "-P GEO123")
    job = site.bsub("s.lsf")
    site.wait(job)
    assert "No unfinished job found" in site.call("bjobs").stderr
    header, row = site.call("bjobs", "-a").stdout.splitlines()
    assert header.split()[:3] == ["JOBID", "USER", "STAT"]
    assert row.split()[0] == job and "shown" in row
    fields = site.call("bjobs", "-noheader", "-o", "jobid stat exit_code proj_name", job)
    assert fields.stdout.split() == [job, "DONE", "0", "GEO123"]
    rows = json.loads(site.call("bjobs", "-o", "jobid stat", "-json", job).stdout)
    assert rows["RECORDS"] == [{"JOBID": job, "STAT": "DONE"}]
    assert "has no field colour" in site.call("bjobs", "-o", "colour").stderr
    assert site.call("bjobs", "-zz").returncode == 255
    missing = site.call("bjobs", "4711")
    assert (missing.returncode, missing.stderr) == (255, "Job <4711> is not found\n")


def test_the_spool_is_for_its_owner_only(site: Site, tmp_path: Path) -> None:
    site.script("s.lsf", "true")
    done = site.call("bsub", "s.lsf", ALPENGLOW_SPOOL=str(tmp_path / "fresh"))
    assert done.returncode == 0
    assert (tmp_path / "fresh").stat().st_mode & 0o077 == 0
    fresh = dataclasses.replace(site, spool=tmp_path / "fresh")
    fresh.until(lambda: fresh.job("101")["state"] == "DONE")
    unwritable = site.call("bsub", "s.lsf", ALPENGLOW_SPOOL="/proc/none")
    assert unwritable.returncode == 255 and "cannot be made" in unwritable.stderr


def test_the_backend_validates_what_it_submits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.script("long.lsf", "true", "-q debug")
    for name, value in site.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(site.folder)
    backend = Local(machine.current())
    with pytest.raises(SchedulerError, match="-W 3:00 is more than 2 h"):
        backend.submit(Submission(Path("long.lsf"), JobSpec(walltime=180)))
    assert not list(site.spool.glob("*.json"))


def test_an_exit_code_of_q_runs_the_job_again_under_its_id(site: Site) -> None:
    body = """echo "run ${LSB_RESTART:-first} $LSB_JOBID"
    touch again.$(ls again.* 2>/dev/null | wc -l); [ $(ls again.* | wc -l) -ge 3 ] || exit 85"""
    site.script("q.lsf", body, '-Q "85 86"')
    job = site.bsub("q.lsf")
    after = site.bsub("-w", f"done({job})", "q.lsf")
    other = site.bsub("q.lsf")
    record = site.wait(job)
    assert (record["state"], record["attempt"], record["exit_code"]) == ("DONE", 3, 0)
    runs = [line for line in site.output(job).splitlines() if line.startswith("run ")]
    assert runs == [f"run first {job}", f"run Y {job}", f"run Y {job}"]
    # A requeued job goes before those that wait, and its dependent waits for its last end.
    assert site.wait(after)["started"] >= record["ended"]
    assert site.wait(other)["started"] >= record["ended"]
    history = site.call("bhist", "-l", job).stdout
    assert history.count("Dispatched") == 3
    assert history.count("Requeued job is waiting for rescheduling") == 2
    assert history.index("Exited with exit code 85") < history.index("Done successfully")


def test_each_attempt_of_a_requeued_job_has_a_record_of_its_own(site: Site) -> None:
    step = "jsrun -n1 -a1 -c1 sh -c '[ -e once ] || { touch once; exit 85; }'"
    run = "exec python -m alpenglow_lsf.run --run run --activity work -- "
    site.script("r.lsf", run + step, "-Q 85")
    job = site.bsub("r.lsf")
    assert site.wait(job)["attempt"] == 2, site.output(job)
    records = [json.loads(p.read_text()) for p in sorted(site.folder.glob("run/segments/*.json"))]
    assert [(r["job_id"], r["attempt"]) for r in records] == [(job, 1), (job, 2)]
    assert [(r["reason"], r["exit_code"]) for r in records] == [("more to do", 85), ("complete", 0)]
    # The second attempt has a walltime of its own.
    assert records[1]["deadline"] > records[0]["deadline"]


def test_brequeue_ends_a_job_and_puts_it_behind_the_others(hasty: Site) -> None:
    # The ten seconds between INT and TERM are a fifth of a second here.
    (hasty.spool / "settings.toml").write_text("seconds_per_minute = 1.2\n")
    body = "echo $LSB_JOBID ${LSB_RESTART:-N} >> order; [ -e go ] || exec sleep 50"
    hasty.script("r.lsf", body)
    first, second = hasty.bsub("-W", "2:00", "r.lsf"), hasty.bsub("-W", "2:00", "r.lsf")
    assert "only a running job is requeued" in hasty.call("brequeue", second).stderr
    hasty.until((hasty.folder / "order").exists)
    (hasty.folder / "go").touch()
    assert hasty.call("brequeue", first).stdout == f"Job <{first}> is being requeued\n"
    assert hasty.wait(first)["attempt"] == 2
    assert (hasty.folder / "order").read_text().split() == [first, "N", second, "N", first, "Y"]
    assert "TERM_REQUEUE_OWNER" in hasty.output(first)
    assert hasty.call("brequeue", "-H", first).returncode == 255


def test_bkill_beats_q(hasty: Site) -> None:
    hasty.script("k.lsf", "trap 'exit 85' INT; echo ready; while :; do sleep 0.05; done", "-Q 85")
    job = hasty.bsub("-W", "2:00", "k.lsf")
    hasty.until(lambda: bool(hasty.job(job)["process"]) and "ready" in hasty.output(job))
    hasty.call("bkill", job)
    record = hasty.wait(job)
    assert (record["state"], record["exit_code"], record["attempt"]) == ("EXIT", 85, 1)


@pytest.mark.parametrize(
    "words", ["bjobs -u all", "bjobs -A", "bkill -g /group 0", "bkill -b 1", "brequeue -a 1"]
)
def test_what_lsf_has_and_the_stand_in_lacks_is_refused_by_name(site: Site, words: str) -> None:
    program, option, *_ = words.split()
    done = site.call(*words.split())
    assert done.returncode == 255
    assert done.stderr == f"{program}: {option} is not emulated on this computer\n"


def test_bkill_by_name(site: Site) -> None:
    site.script("s.lsf", "exec sleep 50")
    named, other = site.bsub("-J", "named", "s.lsf"), site.bsub("-J", "other", "s.lsf")
    assert site.call("bkill", "-J", "nobody", "0").returncode == 255
    assert site.call("bkill", "-s", "KILL", "-J", "named").returncode == 0
    assert site.wait(named)["state"] == "EXIT"
    site.wait(other, "RUN")
