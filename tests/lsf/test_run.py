from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from alpenglow_lsf import segment
from alpenglow_lsf.flight import Flight
from alpenglow_lsf.segment import FIELDS, RunLock, Segment, SegmentError, close_lost, read_segments

if TYPE_CHECKING:
    from tests.lsf.conftest import Site


def parent(command: str, *options: str, run: str = "runs/x") -> str:
    words = ["exec python -m alpenglow_lsf.run --run", run, "--activity pretrain", *options]
    return f"{' '.join(words)} -- {command}"


def record(site: Site, name: str, run: str = "runs/x") -> dict[str, Any]:
    found = json.loads((site.folder / run / "segments" / f"{name}.json").read_text())
    assert isinstance(found, dict)
    return found


RANK0 = (
    "import json, os, pathlib as p; "
    "run, seg = p.Path(os.environ['ALPENGLOW_RUN']), os.environ['ALPENGLOW_SEGMENT']; "
    "p.Path(run, 'segments', seg + '.rank0.json').write_text(json.dumps("
    "{'last_step': 7, 'last_durable_checkpoint': 5, 'startup_s': 1.5, 'loss': 3})); "
    "print(seg, os.environ['ALPENGLOW_DEADLINE'], os.environ['ALPENGLOW_RESERVED_HOSTS'], "
    "os.environ['ALPENGLOW_JOB_ID'])"
)


def test_a_segment_is_recorded_and_its_successor_submitted(site: Site) -> None:
    site.script("report.lsf", 'echo "run is $ALPENGLOW_RUN"', "-J report")
    (site.folder / "rank0.py").write_text(RANK0)
    step = "jsrun -r1 -a6 -g6 -c42 -b packed:7 python rank0.py"
    site.script("train.lsf", parent(step, "--then report.lsf"), "-J train", "-P GEO123")
    job = site.bsub("train.lsf")
    assert site.wait(job)["state"] == "DONE", site.output(job)
    found = record(site, f"{job}.1")
    assert tuple(found) == FIELDS
    then = str(int(job) + 1)
    expected = {
        "format": 1, "job_id": job, "attempt": 1, "job_name": "train", "activity": "pretrain",
        "script": "train.lsf", "machine": "laptop", "project": "GEO123", "queue": "batch",
        "nodes_asked": 2, "nodes_used": 2, "ranks": 8, "hosts": ["node1", "node2"],
        "walltime_s": 600.0, "charge_rule": "nodes x elapsed", "last_step": 7,
        "last_durable_checkpoint": 5, "startup_s": 1.5, "resumed_from_step": None, "exit_code": 0,
        "reason": "complete", "reason_text": "jsrun exited with code 0", "estimated": False,
        "then": [{"script": "report.lsf", "job_id": then}],
    }  # fmt: skip
    assert {k: found[k] for k in expected} == expected
    assert found["submitted"] <= found["started"] <= found["ended"] == found["heartbeat"]
    assert found["deadline"] == pytest.approx(site.job(job)["started"] + 600)
    assert found["command"][:2] == ["jsrun", "-r1"]
    assert f"{job}.1 {found['deadline']!r} batch,login {job}\n" in site.output(job)
    assert f"submitted report.lsf as job {then}" in site.output(job)
    assert site.wait(then)["state"] == "DONE"
    assert f"run is {site.folder / 'runs/x'}" in site.output(then)


@pytest.mark.parametrize(
    ("code", "reason", "says"),
    [(85, "more to do", "x has more to do; `bsub t.lsf` continues it"), (7, "failed", "")],
)
def test_exit_codes_are_kept_and_nothing_follows(
    site: Site, code: int, reason: str, says: str
) -> None:
    site.script("next.lsf", "true")
    site.script("t.lsf", parent(f"jsrun -n1 -a2 -c2 sh -c 'exit {code}'", "--then next.lsf"))
    job = site.bsub("t.lsf")
    assert site.wait(job)["exit_code"] == code
    found = record(site, f"{job}.1")
    assert (found["exit_code"], found["reason"], found["then"]) == (code, reason, [])
    assert says in site.output(job)
    assert len(list(site.spool.glob("*.json"))) == 1


JUDGED = """
import json, os, pathlib, sys
folder = pathlib.Path(os.environ["ALPENGLOW_RUN"], "preflight", os.environ["ALPENGLOW_SEGMENT"])
if os.environ["JSM_NAMESPACE_RANK"] == "0":
    folder.mkdir(parents=True)
    (folder / "verdict.json").write_text(sys.argv[1])
    sys.exit(json.loads(sys.argv[1])["exit_code"])
"""


@pytest.mark.parametrize(("code", "reason"), [(4, "failed"), (0, "complete")])
def test_what_a_preflight_decided_is_in_the_record(site: Site, code: int, reason: str) -> None:
    (site.folder / "judged.py").write_text(JUDGED)
    verdict = {
        "exit_code": code, "hosts": ["node2"], "left_out": [], "missing": ["node1"], "ranks": [1],
        "text": ["node1: did not report in 9 s", "1 of 2 nodes measured"],
    }  # fmt: skip
    command = shlex.join(["python", "judged.py", json.dumps(verdict)])
    site.script("t.lsf", parent(f"jsrun -n2 -r1 -a1 {command}"))
    job = site.bsub("t.lsf")
    assert site.wait(job)["exit_code"] == code, site.output(job)
    found = record(site, f"{job}.1")
    assert found["reason"] == reason
    nodes = [found[key] for key in ("nodes_asked", "nodes_used", "nodes_spare", "left_out")]
    if code:
        assert nodes == [2, 2, 0, []]
        assert found["reason_text"] == (
            "jsrun exited with code 4: pre-flight: node1: did not report in 9 s; "
            "1 of 2 nodes measured"
        )
    else:
        assert nodes == [2, 1, 1, ["node1"]]
        assert (found["hosts"], found["ranks"]) == (["node2"], 1)


def test_a_step_with_silent_ranks_is_over_when_the_others_have_told(tmp_path: Path) -> None:
    folder = tmp_path / "preflight/7.1"
    (folder / "ended").mkdir(parents=True)
    verdict = {"exit_code": 0, "hosts": ["b", "c"], "left_out": [], "missing": ["a"],
               "ranks": [2, 3, 4, 5], "text": []}  # fmt: skip
    assert Flight.read(tmp_path, "7.1") is None
    (folder / "verdict.json").write_text(json.dumps(verdict))
    flight = Flight.read(tmp_path, "7.1")
    assert flight is not None and flight.left_out == ("a",)
    (folder / "ended/b").write_text("2 0\n3 85\n")
    (folder / "ended/c").write_text("4 0\n5 ")
    assert flight.over() is None
    (folder / "ended/c").write_text("4 0\n5 0\n")
    assert flight.over() == 85
    (folder / "ended/c").write_text("4 7\n5 0\n")
    assert flight.over() == 7
    (folder / "verdict.json").write_text(json.dumps({**verdict, "missing": []}))
    whole = Flight.read(tmp_path, "7.1")
    assert whole is not None and whole.over() is None


SAVES = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIG{name}, lambda *a: sys.exit({code}))\n"
    "print('ready', flush=True)\n"
    "while True: time.sleep(0.05)\n"
)


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("URG", 85, "more to do"),
        ("USR2", 85, "more to do"),
        ("TERM", 9, "signal TERM"),
        ("USR2", 9, "walltime"),
    ],
)
def test_signals_reach_the_ranks_through_the_parent(
    site: Site, name: str, code: int, reason: str
) -> None:
    (site.folder / "s.py").write_text(SAVES.format(name=name, code=code))
    site.script("t.lsf", parent("jsrun -n1 -a2 -c2 python s.py"))
    job = site.bsub("t.lsf")
    site.until(lambda: bool(site.job(job)["process"]) and site.output(job).count("ready") == 2)
    site.call("bkill", "-s", name, job)
    assert site.wait(job)["exit_code"] == code
    assert record(site, f"{job}.1")["reason"] == reason


def test_a_killed_parent_leaves_no_ranks_and_the_next_segment_closes_its_record(
    site: Site, is_alive: Callable[[int], bool]
) -> None:
    site.script("t.lsf", parent("jsrun -n1 -a2 -c2 sh -c 'echo $$; exec sleep 50'"))
    first = site.bsub("t.lsf")
    site.until(lambda: bool(site.job(first)["process"]) and len(site.output(first).split()) >= 2)
    ranks = [int(word) for word in site.output(first).split()[:2]]
    os.kill(site.job(first)["process"], signal.SIGKILL)
    assert site.wait(first)["exit_code"] == 137
    site.until(lambda: not any(is_alive(rank) for rank in ranks))
    assert record(site, f"{first}.1")["ended"] is None
    site.script("u.lsf", parent("jsrun -n1 true"))
    second = site.bsub("u.lsf")
    assert site.wait(second)["state"] == "DONE", site.output(second)
    closed = record(site, f"{first}.1")
    # The scheduler knows when the job ended, and how.
    assert (closed["reason"], closed["estimated"]) == ("failed", False)
    assert (closed["ended"], closed["exit_code"]) == (site.job(first)["ended"], 137)
    assert "closed from its scheduler (Exited with exit code 137.)" in closed["reason_text"]
    assert f"by {second}.1" in closed["reason_text"]
    assert f"closed the record that segment {first}.1 left open" in site.output(second)
    assert not list((site.folder / "runs/x/segments").glob("*.lock"))


def test_two_segments_of_one_run_at_once_are_refused(site: Site) -> None:
    (site.spool / "settings.toml").write_text("jobs_at_once = 2\n")
    site.script("t.lsf", parent("jsrun -n1 sh -c 'while [ ! -e go ]; do sleep 0.05; done'"))
    first = site.bsub("t.lsf")
    site.until((site.folder / "runs/x/segments" / f"{first}.1.json").exists)
    second = site.bsub("t.lsf")
    assert site.wait(second)["exit_code"] == 1
    assert f"is in use by job {first} on" in site.output(second)
    (site.folder / "go").touch()
    assert site.wait(first)["state"] == "DONE"
    assert [r["job_id"] for r in read_segments(site.folder / "runs/x")] == [first]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--run", "r", "--activity", "a"), "no command: write `-- jsrun ...` at the end"),
        (("--run", "r", "--activity", "a b", "--", "true"), "should be one word"),
        (
            ("--run", "r", "--activity", "a", "--then", "no.lsf", "--", "true"),
            "--then no.lsf: no such script",
        ),
        (
            ("--run", "/proc/none", "--activity", "a", "--", "true"),
            "run directory /proc/none is not writable",
        ),
        (("--run", "r", "--activity", "a", "--", "no-such-thing"), "cannot start no-such-thing"),
        (
            ("--run", "r", "--activity", "a", "--", "jsrun", "-r7", "-g1", "x"),
            "7 GPUs, but a node has 6",
        ),
    ],
)
def test_what_cannot_start_is_one_sentence(site: Site, words: tuple[str, ...], says: str) -> None:
    done = site.call(sys.executable, "-m", "alpenglow_lsf.run", *words, LSB_JOBID="101")
    assert done.returncode in (1, 127)
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(site.folder.glob("r/segments/*.lock"))


def test_tmpdir_is_refused_where_it_breaks_jsrun(site: Site) -> None:
    words = (sys.executable, "-m", "alpenglow_lsf.run", "--run", "r", "--activity", "a", "--")
    job = {"LSB_JOBID": "101", "ALPENGLOW_MACHINE": "summit", "TMPDIR": "/tmp"}
    done = site.call(*words, "jsrun", "-n1", "true", **job)
    assert done.returncode == 1
    assert "TMPDIR is set, which breaks jsrun on summit: unset it" in done.stderr
    assert not (site.folder / "r/segments").exists()


def test_outside_a_job_it_says_so(site: Site) -> None:
    done = site.call(
        sys.executable, "-m", "alpenglow_lsf.run", "--run", "r", "--activity", "a", "--", "true"
    )
    assert done.returncode == 1
    assert "submit the script by bsub" in done.stderr


def test_attempts_of_a_requeued_job_are_counted(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    names = [Segment(tmp_path, {"job_id": "7", "activity": "a"}).name for _ in range(3)]
    assert names == ["7.1", "7.2", "7.3"]
    with pytest.raises(KeyError, match="no colour"):
        Segment(tmp_path, {"job_id": "7", "colour": 1})


def test_open_records_are_read_with_rank_0_s_fields(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    one = Segment(
        tmp_path,
        {"job_id": "7", "activity": "a", "started": 1.0, "heartbeat": 2.0, "deadline": 9.0},
    )
    (tmp_path / "segments" / "7.1.rank0.json").write_text('{"last_step": 3, "heartbeat": 10.0}')
    (found,) = read_segments(tmp_path)
    assert (found["last_step"], found["heartbeat"]) == (3, 10.0)
    # The last sign of life came after the deadline: the walltime ended it.
    assert close_lost(tmp_path, "b", "8.1") == []
    assert close_lost(tmp_path, "a", "8.1") == [one.name]
    (closed,) = read_segments(tmp_path)
    assert (closed["ended"], closed["reason"], closed["last_step"]) == (10.0, "walltime", 3)


def test_a_lock_of_a_silent_owner_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    path = tmp_path / "segments" / "a.lock"
    path.write_text(json.dumps({"job_id": "5", "host": "elsewhere", "process": 1}))
    with (
        pytest.raises(SegmentError, match="in use by job 5 on elsewhere"),
        RunLock(tmp_path, "a").held("6"),
    ):
        pass
    old = time.time() - segment.STALE_S - 1
    os.utime(path, (old, old))
    with RunLock(tmp_path, "a").held("6"):
        assert json.loads(path.read_text())["job_id"] == "6"
    assert not path.exists()
