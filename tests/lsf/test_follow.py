from __future__ import annotations

import json
import os
import pty
import sys
import time
from typing import TYPE_CHECKING

import pytest

from alpenglow_lsf.follow import bar

if TYPE_CHECKING:
    from tests.lsf.conftest import Site

FOLLOW = (sys.executable, "-m", "alpenglow_lsf.follow", "--interval", "0.1")


def test_a_campaign_is_followed_through_its_successors(site: Site) -> None:
    run = "python -m alpenglow_lsf.run --run runs/x --activity"
    site.script("a.lsf", f"exec {run} a --then b.lsf -- jsrun -n1 true", "-J prepare")
    site.script("b.lsf", f"exec {run} b --then c.lsf -- jsrun -n1 true", "-J train")
    site.script("c.lsf", "true", "-J report")
    job = site.bsub("a.lsf")
    done = site.call(*FOLLOW, "--watch", f"{job}=runs/x", "--finally", "open the report")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "open the report"
    ended = [line for line in lines if " DONE " in line]
    assert [line.split()[3] for line in ended] == ["prepare", "train", "report"]


@pytest.mark.parametrize("ends", ["complete", "fails"])
def test_a_chain_is_followed_to_its_end(site: Site, ends: str) -> None:
    """The first segment crashes: no failure, since the next goes on."""
    last = "mkdir -p runs/x/checkpoints/step-5; touch runs/x/checkpoints/step-5/manifest.json"
    body = f"test -e crashed && {{ {last}; exit 0; }}; touch crashed; exit 9"
    code = "exit 9" if ends == "fails" else body
    run = "python -m alpenglow_lsf.run --run runs/x --activity a --chain --then c.lsf"
    site.script("a.lsf", f"exec {run} -- jsrun -n1 sh -c '{code}'", "-J train")
    site.script("c.lsf", "true", "-J report")
    job = site.bsub("a.lsf")
    done = site.call(*FOLLOW, "--watch", f"{job}=runs/x", "--finally", "all is done")
    ended = [line.split()[1:] for line in done.stdout.splitlines() if " s" in line[-3:]]
    jobs = [words[2] for words in ended if words[0] in ("DONE", "EXIT")]
    if ends == "complete":
        assert done.returncode == 0, done.stdout + done.stderr
        assert jobs == ["train", "train", "report"]
        assert done.stdout.splitlines()[-1] == "all is done"
        assert "failed" not in done.stdout
    else:
        assert done.returncode == 9
        assert done.stdout.count("failed with exit code 9") == 1
        assert f"job {int(job) + 1} train failed" in done.stdout
        assert "all is done" not in done.stdout
    assert [site.job(str(int(job) + 2))["started"]] == [None]


def test_a_failure_shows_the_end_of_the_output_and_ends_the_dependants(site: Site) -> None:
    body = "seq 40; echo the last step; echo the shard is cut >&2; exit 7"
    site.script("bad.lsf", body, "-J bad", "-e bad.%J.err")
    bad = site.bsub("bad.lsf")
    waits = site.bsub("-w", f"done({bad})", "-J", "waits", "bad.lsf")
    too = site.bsub("-w", f"done({waits})", "-J", "too", "bad.lsf")
    words = [word for job in (bad, waits, too) for word in ("--watch", f"{job}=runs/x")]
    done = site.call(*FOLLOW, *words, "--finally", "never said")
    assert done.returncode == 7
    assert f"job {bad} bad failed with exit code 7" in done.stdout
    assert f"the end of {site.folder}/bad.{bad}.out:" in done.stdout
    assert f"the end of {site.folder}/bad.{bad}.err:\n  the shard is cut\n" in done.stdout
    assert "  27\n" in done.stdout and "  26\n" not in done.stdout
    assert (
        f"job {waits} waits can never start (done({bad}) does not hold): it is killed"
        in done.stdout
    )
    assert f"job {too} too can never start" in done.stdout
    assert "never said" not in done.stdout
    assert [site.job(job)["state"] for job in (bad, waits, too)] == ["EXIT"] * 3


def test_progress_of_this_job_is_shown_and_older_progress_is_not(site: Site) -> None:
    (site.folder / "runs").mkdir()
    progress = site.folder / "runs/progress.json"
    progress.write_text(
        json.dumps({"done": 9, "total": 10, "text": "old", "time": time.time() - 9})
    )
    site.script("s.lsf", "while [ ! -e go ]; do sleep 0.05; done", "-J s")
    job = site.bsub("s.lsf")
    site.wait(job, "RUN")
    follower = site.start(*FOLLOW, "--watch", f"{job}=runs")
    assert follower.stdout is not None
    assert " RUN " in follower.stdout.readline()
    time.sleep(0.5)
    fresh = {"done": 1, "total": 4, "unit": "steps", "text": "loss 3.1", "time": time.time()}
    progress.write_text(json.dumps(fresh))
    assert "[######..................]  25% 1/4 steps loss 3.1" in follower.stdout.readline()
    (site.folder / "go").touch()
    assert follower.wait(60) == 0
    assert "old" not in follower.communicate()[0]


def test_a_terminal_is_redrawn_in_place(site: Site) -> None:
    site.script("s.lsf", "sleep 0.5", "-J s")
    job = site.bsub("s.lsf")
    master, slave = pty.openpty()
    child = os.fork()
    if child == 0:
        os.dup2(slave, 1)
        os.chdir(site.folder)
        words = [*FOLLOW, "--watch", f"{job}=runs", "--finally", "all done"]
        os.execvpe(words[0], words, site.environ)
    os.close(slave)
    shown = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        shown += data
    assert os.waitpid(child, 0)[1] == 0
    os.close(master)
    assert b"\x1b[1A\x1b[J" in shown
    assert shown.rstrip().endswith(b"all done")
    assert shown.count(b"DONE") == 1


def test_what_cannot_be_followed_is_one_sentence(site: Site) -> None:
    for words, says in (
        (("--watch", "4711=r"), "there is no job 4711"),
        (("--watch", "x"), "JOBID=RUN"),
    ):
        done = site.call(*FOLLOW, *words)
        assert done.returncode == 1
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        ({"text": "tokenizer"}, "tokenizer"),
        ({"done": 5, "total": 0, "text": "a"}, "a"),
        ({"done": 30, "total": 10}, "[########################] 100% 30/10"),
        ({"done": 0, "total": 10, "unit": "files"}, "[........................]   0% 0/10 files"),
    ],
)
def test_bars(progress: dict[str, object], text: str) -> None:
    assert bar(progress) == text
