"""What a death leaves: kill -9 in any place, exceptions, signals, cut files, full disks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from alpenglow_profiling.blocks import MAGIC
from alpenglow_profiling.events import Kind, Recorder, log_path, read
from alpenglow_profiling.log import LogError, read_log
from alpenglow_profiling.self_time import sums

KILLED = """
import sys, time
from pathlib import Path
from alpenglow_profiling.events import Kind, Recorder
recorder = Recorder(Path(sys.argv[1]), 0, "h", world_size=1, flush_seconds=float(sys.argv[2]))
for step in range(1, 1_000_000):
    recorder.step = step
    with recorder.span(Kind.STEP):
        time.sleep(0.0005)
    if step == 100:
        recorder.flush()
        print("flushed", flush=True)
"""


def killed_log(folder: Path, flush_seconds: float, after: float) -> Path:
    command = [sys.executable, "-c", KILLED, str(folder), str(flush_seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "flushed\n"
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    return log_path(folder, 0)


def test_kill_9_loses_only_what_came_after_the_last_flush(tmp_path: Path) -> None:
    killed_log(tmp_path, 60, 0.1)
    assert list(read(tmp_path).rows["step"]) == list(range(1, 101))


def test_the_thread_flushes_by_itself(tmp_path: Path) -> None:
    log = read_log(killed_log(tmp_path, 0.1, 0.6))
    assert log.unread == 0
    steps = list(log.rows["step"])
    assert log.sums["step"].tolist() == steps
    assert steps == list(range(1, len(steps) + 1))
    # 0.6 s after step 100, at most 0.1 s (and a slow machine's delay) can be missing.
    assert len(steps) > 300


# Steps 1 to 5 or 6 end; then two spans of the next, a flush, and one more span.
IN_A_STEP = """
import sys, time
from pathlib import Path
from alpenglow_profiling.events import Kind, Recorder
folder, every, last, how = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
recorder = Recorder(folder, 0, "h", world_size=1, sample_every=every, flush_seconds=60)
def forward(micro_batch):
    with recorder.span(Kind.FORWARD, micro_batch=micro_batch):
        with recorder.span(Kind.TENSOR_REDUCE, group=0):
            pass
for step in range(1, last + 1):
    recorder.step = step
    start = time.monotonic_ns()
    forward(0)
    forward(1)
    recorder.flush()
    recorder.record(Kind.STEP, start, start + 1_000_000)
with recorder.span(Kind.CHECKPOINT):
    pass
recorder.flush()
if how != "between":
    recorder.step = last + 1
    with recorder.span(Kind.STEP):
        forward(0)
        recorder.flush()
        forward(1)
        recorder.flush()
        forward(2)
        if how == "exception":
            raise RuntimeError("gradients")
        print("ready", flush=True)
        time.sleep(60)
print("ready", flush=True)
time.sleep(60)
"""


def die(folder: Path, every: int, last: int, how: str) -> None:
    command = [sys.executable, "-c", IN_A_STEP, str(folder), str(every), str(last), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()


def forwards(folder: Path, step: int) -> int:
    return int(np.count_nonzero(read(folder).spans([step])["kind"] == Kind.FORWARD))


@pytest.mark.parametrize(
    ("every", "last", "kept"),
    [(1000, 5, [1, 2, 6]), (3, 5, [1, 2, 3, 6])],
    ids=["an unsampled step", "a sampled step"],
)
def test_kill_9_in_a_step(tmp_path: Path, every: int, last: int, kept: list[int]) -> None:
    die(tmp_path, every, last, "in")
    log = read_log(log_path(tmp_path, 0))
    assert log.unread == 0
    events = read(tmp_path)
    assert events.damages == ()
    assert events.kept.tolist() == kept
    steps = events.outer[events.outer["kind"] == Kind.STEP]
    assert steps["step"].tolist() == list(range(1, last + 1))
    assert np.count_nonzero(events.outer["kind"] == Kind.CHECKPOINT) == 1
    for step in kept:
        assert forwards(tmp_path, step) == 2  # of step 6 the third came after the last flush
    assert events.sums.step.tolist() == list(range(1, last + 2))
    assert (events.sums.count[:, 0, events.sums.kinds.index(Kind.FORWARD)] == 2).all()
    assert (events.sums.own_ns[:last].sum(axis=(1, 2)) == 1_000_000).all()
    assert 0 < events.sums.own_ns[last].sum() < 60e9


def test_a_rank_that_is_started_again_adds_to_its_log(tmp_path: Path) -> None:
    """Killed in step 6, it does steps 5 and 6 again: nothing of its first life is lost to that."""
    die(tmp_path, 1000, 5, "in")
    path = log_path(tmp_path, 0)
    with path.open("ab") as file:
        file.write(b"AGEV cut in the middle of a block")
    first = read_log(path).rows
    with Recorder(tmp_path, 0, "h", world_size=1, sample_every=1000) as recorder:
        for step in (5, 6, 7):
            recorder.step = step
            recorder.record(Kind.FORWARD, step, step + 1)
            recorder.record(Kind.STEP, step, step + 2)
    log = read_log(path)
    assert log.unread == 33
    assert np.isin(first, log.rows).all()
    steps = log.rows["step"][log.rows["kind"] == Kind.STEP].tolist()
    assert sorted(steps) == [1, 2, 3, 4, 5, 5, 6, 7]
    assert forwards(tmp_path, 6) == 3  # two of the first life, one of the second


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_kill_9_between_steps_and_a_cut_anywhere(tmp_path: Path, every: int) -> None:
    die(tmp_path, every, 6, "between")
    path = log_path(tmp_path, 0)
    whole = path.read_bytes()
    log = read_log(path)
    assert log.unread == 0
    steps = log.rows[log.rows["kind"] == Kind.STEP]
    assert steps["step"].tolist() == [1, 2, 3, 4, 5, 6]
    kept = np.unique(log.rows["step"][log.rows["kind"] == Kind.FORWARD]).tolist()
    assert kept == {1: [1, 2, 3, 4, 5, 6], 3: [1, 2, 3, 6], 1000: [1, 2]}[every]
    found = [0]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        if size < whole.index(MAGIC, 1):
            with pytest.raises(LogError, match="no whole block"):
                read_log(path)
            continue
        cut = read_log(path)
        ended = cut.rows[cut.rows["kind"] == Kind.STEP]
        found.append(len(ended))
        for row in ended:
            assert cut.sums["own_ns"][cut.sums["step"] == row["step"]].sum() == 1_000_000
    assert found == sorted(found)
    assert set(found) == {0, 1, 2, 3, 4, 5, 6}


def test_an_exception_leaves_the_step_under_way(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IN_A_STEP, str(tmp_path), "1000", "5", "exception"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "gradients" in done.stderr
    assert forwards(tmp_path, 6) == 3
    assert read(tmp_path).kept.tolist() == [1, 2, 5, 6]


def test_closing_in_a_step_keeps_it(tmp_path: Path) -> None:
    """As `atexit` does where a handler of a signal ends the process."""
    recorder = Recorder(tmp_path, 0, "h", world_size=1, sample_every=1000, flush_seconds=60)
    for step in range(1, 5):
        recorder.step = step
        recorder.record(Kind.FORWARD, step * 100, step * 100 + 5)
        recorder.record(Kind.STEP, step * 100, step * 100 + 10)
    recorder.step = 5
    recorder.record(Kind.FORWARD, 500, 505)
    recorder.flush()
    recorder.record(Kind.BACKWARD, 505, 507)
    recorder.close()
    events = read(tmp_path)
    assert events.kept.tolist() == [1, 2, 5]
    assert events.spans([5])["kind"].tolist() == [Kind.FORWARD, Kind.BACKWARD]
    assert events.sums.own_ns[-1].sum() == 7


def test_a_log_grows_by_what_is_kept(tmp_path: Path) -> None:
    """However often the step under way is flushed, it takes its room once, and gives it back."""
    path = log_path(tmp_path, 0)
    with Recorder(tmp_path, 0, "h", world_size=1, sample_every=1000, flush_seconds=60) as recorder:
        sizes, ends = [], []
        for step in range(1, 8):
            recorder.step = step
            for i in range(20):
                recorder.record(Kind.FORWARD, step * 1000 + i, step * 1000 + i + 1)
                recorder.flush()
                sizes.append(path.stat().st_size)
            recorder.record(Kind.STEP, step * 1000, step * 1000 + 30)
            recorder.flush()
            ends.append(path.stat().st_size)
    grown = np.diff(ends)
    assert (grown[0] > grown[1:]).all()
    assert len(set(grown[1:])) == 1
    assert max(sizes) > ends[-1]
    assert ends[-1] == path.stat().st_size


def test_what_is_left_of_old_blocks_does_no_harm(tmp_path: Path) -> None:
    """A death between writing a step's end and cutting off what it replaced leaves old blocks."""
    path = log_path(tmp_path, 0)
    with Recorder(tmp_path, 0, "h", world_size=1, sample_every=1000, flush_seconds=60) as recorder:
        for step in range(1, 6):
            recorder.step = step
            for i in range(9):
                recorder.record(Kind.FORWARD, step * 1000 + i, step * 1000 + i + 1)
                recorder.flush()
            before = path.read_bytes()
            recorder.record(Kind.STEP, step * 1000, step * 1000 + 30)
            recorder.flush()
    after = read_log(path)
    settled = path.read_bytes()
    assert len(before) > len(settled)
    path.write_bytes(settled + before[len(settled) :])
    torn = read_log(path)
    assert 0 < torn.unread < len(before) - len(settled)  # whole blocks are there, and known as old
    assert (torn.rows == after.rows).all()
    assert (torn.sums == after.sums).all()
    assert (sums(after.rows)["step"] != 0).all()


def test_a_number_that_fits_no_row_ends_the_recording_not_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1, flush_seconds=60) as recorder:
        for step in (1, 2, 3):
            recorder.step = step
            recorder.record(Kind.FORWARD, 1, 2, micro_batch=0 if step < 3 else 10**6)
            recorder.record(Kind.STEP, 0, 3)
            recorder.flush()
    assert "rank-00000.log: recording ends here: " in (recorder.failure or "")
    assert "recording ends here" in caplog.text
    assert read(tmp_path).sums.step.tolist() == [1, 2]


FULL_DISK = """
import resource, sys
from pathlib import Path
from alpenglow_profiling.events import Kind, Recorder
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
recorder = Recorder(Path(sys.argv[1]), 0, "h", world_size=1, flush_seconds=60)
for step in range(1, 201):
    recorder.step = step
    recorder.record(Kind.STEP, step, step + 1)
    if step % 50 == 0:
        recorder.flush()
recorder.close()
print(recorder.failure)
"""


def test_a_full_disk_ends_the_recording_not_the_training(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "rank-00000.log: recording ends here: File too large" in done.stdout
    log = read_log(log_path(tmp_path, 0))
    assert list(log.rows["step"]) == list(range(1, 101))
    assert log.unread > 0
