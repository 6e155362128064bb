"""A running job seen from outside, while its recorders write."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.report import main
from alpenglow_analysis.run import Facts
from alpenglow_analysis.synthetic import CREATED, Segment, Synthetic
from alpenglow_analysis.watch import Watcher
from alpenglow_analysis.watch_command import view
from alpenglow_profiling.kind import Kind
from alpenglow_profiling.log_tail import LogTail
from alpenglow_profiling.recorder import Recorder, log_path

SLOW = 3


def start(path: Path, steps: int = 40) -> Path:
    """A run directory of 4 ranks whose first job has just begun."""
    spec = Synthetic(Layout(2, 1, 2), 2, (Segment(1, 1),), ranks_per_node=2)
    spec.write(path)
    for folder in ("events/1001.0", "report"):
        for file in (path / folder).glob("*"):
            file.unlink()
    (path / "metrics.jsonl").unlink()
    facts = (path / "run.toml").read_text(encoding="utf-8")
    facts += f"\n[recipe.train]\nsteps = {steps}\n"
    (path / "run.toml").write_text(facts, encoding="utf-8")
    record(path, ended=None, reason=None)
    return path


def record(path: Path, ended: float | None, reason: str | None) -> None:
    file = path / "segments" / "1001.0.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    fields |= {"started": time.time() - 60, "ended": ended, "reason": reason, "heartbeat": None}
    fields["exit_code"] = None if reason is None else 0
    file.write_text(json.dumps(fields), encoding="utf-8")


def recorders(path: Path) -> list[Recorder]:
    folder = path / "events" / "1001.0"
    return [Recorder(folder, rank, f"n{rank // 2:03d}", world_size=4) for rank in range(4)]


def train(path: Path, ranks: list[Recorder], step: int) -> None:
    """One step of every rank, and its line of metrics; rank 3 computes half as long again."""
    for rank, recorder in enumerate(ranks):
        recorder.step = step
        now = time.monotonic_ns()
        took = 45_000_000 if rank == SLOW else 30_000_000
        recorder.record(Kind.FORWARD, now, now + took, micro_batch=0)
        recorder.record(Kind.P2P, now + took, now + 60_000_000, micro_batch=0)
        recorder.record(Kind.STEP, now, now + 60_000_000)
    line = {
        "segment": "1001.0", "step": step, "loss": 5.0 - step / 100, "tokens": step * 1000,
        "step_time_s": 0.06, "tokens_per_s": 16_000.0, "time": time.time(),
    }  # fmt: skip
    with (path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def fingerprint(path: Path) -> dict[str, str]:
    """Every file of the record with the hash of its bytes."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in ("events", "samples", "segments")
        for file in sorted((path / folder).rglob("*"))
        if file.is_file()
    }


def test_a_running_job_is_seen_step_by_step(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    watcher = Watcher(run)
    look = watcher.look()
    assert (look.segment, look.running, look.over, look.step) == ("1001.0", True, False, 0)
    ranks = recorders(run)
    for step in range(1, 7):
        train(run, ranks, step)
    for recorder in ranks:
        recorder.flush()
    look = watcher.look()
    assert (look.step, look.steps, look.heard) == (6, 40, 4)
    assert look.loss == pytest.approx(4.94)
    assert look.step_s == pytest.approx(0.06)
    assert look.useful == pytest.approx((3 * 30 + 45) / 240)
    assert look.waiting == pytest.approx(1 - look.useful)
    assert [(slow.rank, slow.node, slow.stage) for slow in look.slow] == [(SLOW, "n001", 1)]
    text = view(Facts.load(run / "run.toml"), look)
    assert "step 6 of 40" in text
    assert "rank 3 (n001, stage 1)" in text
    before = watcher.look()
    train(run, ranks, 7)
    for recorder in ranks:
        recorder.close()
    after = watcher.look()
    assert (before.step, after.step) == (6, 7)
    record(run, ended=time.time(), reason="complete")
    look = watcher.look()
    assert (look.running, look.over, look.reason) == (False, True, "complete")


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    """A log is read on from where the last look ended, and a block that is not whole waits."""
    run = start(tmp_path / "run")
    ranks = recorders(run)
    path = log_path(run / "events" / "1001.0", 0)
    for step in (1, 2):
        train(run, ranks, step)
        ranks[0].flush()
    tail = LogTail(path)
    rows, told = tail.news()
    steps = {*rows["step"].tolist(), *told["step"].tolist()}
    assert steps == {1, 2}
    assert (tail.node, tail.world_size) == ("n000", 4)
    assert [len(part) for part in tail.news()] == [0, 0]
    train(run, ranks, 3)
    for recorder in ranks:
        recorder.close()
    whole = path.read_bytes()
    read = LogTail(path)
    path.write_bytes(whole[:-5])
    cut = {*read.news()[0]["step"].tolist()}
    path.write_bytes(whole)
    rows, told = read.news()
    late = {*rows["step"].tolist(), *told["step"].tolist()}
    assert cut | late == {1, 2, 3}
    assert late
    assert not (cut & late) or cut == {1, 2, 3}
    short = LogTail(path, look_back=1)
    assert [len(part) for part in short.news()] == [0, 0]
    assert short.node == "n000"


def test_the_page_is_kept_fresh_and_the_record_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path / "run")
    ranks = recorders(run)
    for step in range(1, 5):
        train(run, ranks, step)
    for recorder in ranks:
        recorder.flush()
    before = fingerprint(run)
    words = [sys.executable, "-m", "alpenglow_analysis.report", "--watch", str(run)]
    with subprocess.Popen(
        [*words, "--every", "0.1", "--page", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as watching:  # fmt: skip
        page = run / "report" / "index.html"
        deadline = time.monotonic() + 120
        while not page.exists() and time.monotonic() < deadline and watching.poll() is None:
            time.sleep(0.05)
        assert page.exists()
        watching.send_signal(signal.SIGINT)
        out, error = watching.communicate(timeout=60)
    assert (watching.returncode, error) == (0, "")
    assert "step 4 of 40" in out
    assert 'http-equiv="refresh"' in page.read_text(encoding="utf-8")
    assert fingerprint(run) == before, "nothing was merged, nothing removed"
    for recorder in ranks:
        recorder.close()
    record(run, ended=time.time(), reason="complete")
    assert main(["--watch", str(run), "--every", "0.1"]) == 0
    assert f"report: {page}\n" in capsys.readouterr().out
    assert 'http-equiv="refresh"' not in page.read_text(encoding="utf-8")


def test_a_dead_job_is_given_up(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    ranks = recorders(run)
    train(run, ranks, 1)
    for recorder in ranks:
        recorder.close()
    watcher = Watcher(run, patience_s=100)
    now = time.time()
    assert watcher.look(now).running
    late = watcher.look(now + 300)
    assert (late.running, late.over, late.reason) == (False, True, "")
    assert "no sign of life for 5 min" in view(watcher.facts, late)


def test_a_chain_is_waited_for(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    record(run, ended=time.time(), reason="more to do")
    look = Watcher(run).look()
    assert (look.running, look.over) == (False, False)
    assert "the next job is waited for" in view(Facts.load(run / "run.toml"), look)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent"], "absent: no such run directory"),
        (["EMPTY"], "it holds no run.toml"),
        (["RUN", "--every", "0"], "--every and --patience are above 0"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    real = {"RUN": str(start(tmp_path / "run")), "EMPTY": str(tmp_path / "empty")}
    assert main(["--watch", *(real.get(word, word) for word in arguments)]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_run_of_the_past_is_over(tmp_path: Path) -> None:
    """A run that was killed long ago, its record open."""
    spec = Synthetic(Layout(2, 1, 2), 2, (Segment(1, 4, killed=True),), ranks_per_node=2)
    run = spec.write(tmp_path / "run")
    for file in (run / "events").rglob("*"):
        if file.is_file():
            os.utime(file, (CREATED + 60, CREATED + 60))
    look = Watcher(run).look()
    assert (look.running, look.over) == (False, True)
