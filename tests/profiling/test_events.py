"""The recorder, its log and the merged file, with real processes, threads and damage."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from alpenglow_profiling import events
from alpenglow_profiling.bench import row_sizes, span_cost
from alpenglow_profiling.events import (
    ROW,
    EventsError,
    Kind,
    NullRecorder,
    Recorder,
    SpanRecorder,
    log_path,
    merge,
    read,
)
from alpenglow_profiling.kind import PACKED
from alpenglow_profiling.log import HEADER_BYTES, MAGIC, LogError, read_log

KINDS = (
    "startup restart data_wait forward recompute backward weight_grad p2p tensor_reduce "
    "gradient_reduce optimizer checkpoint drain evaluate step"
)


def record_steps(recorder: SpanRecorder, steps: range, *, flush: bool = False) -> None:
    for step in steps:
        recorder.step = step
        with recorder.span(Kind.STEP):
            for micro_batch in range(2):
                with (
                    recorder.span(Kind.FORWARD, micro_batch=micro_batch),
                    recorder.span(Kind.TENSOR_REDUCE, bytes=4096, group=1),
                ):
                    pass
            with recorder.span(Kind.P2P, micro_batch=1, bytes=1 << 40, peer=7):
                pass
        if flush:
            recorder.flush()


def test_numbers_of_kinds_are_frozen() -> None:
    assert [kind.label for kind in Kind] == KINDS.split()
    assert [int(kind) for kind in Kind] == list(range(1, 16))


def test_the_row_is_the_same_for_struct_and_numpy() -> None:
    values = (2**32 - 1, 2**31, 15, -1, -5, 2**62, 1 << 40, 32767, -1)
    assert PACKED.size == ROW.itemsize
    assert np.frombuffer(PACKED.pack(*values), ROW)[0].item() == values


def test_a_round_trip_keeps_every_field(tmp_path: Path) -> None:
    before = time.time_ns()
    with Recorder(tmp_path, 3, "h1", world_size=4) as recorder:
        record_steps(recorder, range(1, 4))
        recorder.record(Kind.CHECKPOINT, time.monotonic_ns() - 10, time.monotonic_ns(), bytes=9)
    after = time.time_ns()
    got = read(tmp_path)
    assert got.nodes == {3: "h1"}
    assert got.world_size == 4
    assert got.damages == ("no events of 3 of 4 ranks (0, 1, 2)",)
    rows = got.rows
    assert len(rows) == 3 * 6 + 1
    assert set(rows["rank"]) == {3}
    assert [int(n) for n in np.bincount(rows["step"])] == [0, 6, 6, 7]
    assert (rows["end_ns"] >= rows["begin_ns"]).all()
    # Wall-clock time: within this test, give or take a clock adjustment.
    assert rows["begin_ns"].min() > before - 50_000_000
    assert rows["end_ns"].max() < after + 50_000_000
    p2p = rows[rows["kind"] == Kind.P2P][0]
    assert (p2p["micro_batch"], p2p["bytes"], p2p["peer"], p2p["group"]) == (1, 1 << 40, 7, -1)
    reduce = rows[rows["kind"] == Kind.TENSOR_REDUCE][0]
    assert (reduce["group"], reduce["bytes"], reduce["micro_batch"]) == (1, 4096, -1)
    order = np.lexsort((rows["rank"], rows["begin_ns"], rows["step"]))
    assert (order == np.arange(len(rows))).all()


def test_a_full_buffer_is_written_and_nothing_is_lost(tmp_path: Path) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1, capacity=16, flush_seconds=60) as recorder:
        record_steps(recorder, range(1, 501))
    rows = read(tmp_path).rows
    assert len(rows) == 500 * 6
    assert (np.bincount(rows["step"])[1:] == 6).all()


def test_threads_record_side_by_side(tmp_path: Path) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1, capacity=64) as recorder:

        def work(group: int) -> None:
            for i in range(2000):
                recorder.record(Kind.BACKWARD, i, i + 1, group=group)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = read_log(log_path(tmp_path, 0)).rows
    assert [int(n) for n in np.bincount(rows["group"])] == [2000] * 4
    for group in range(4):
        assert (rows[rows["group"] == group]["begin_ns"] == np.arange(2000)).all()


def test_closing_twice_and_recording_afterwards_is_harmless(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, 0, "h", world_size=1)
    record_steps(recorder, range(1, 2))
    recorder.close()
    record_steps(recorder, range(2, 3))
    recorder.close()
    assert set(read(tmp_path).rows["step"]) == {1}


def test_the_null_recorder_has_the_same_shape() -> None:
    recorder: SpanRecorder = NullRecorder()
    record_steps(recorder, range(1, 3), flush=True)
    recorder.record(Kind.EVALUATE, 1, 2)
    recorder.close()
    assert recorder.step == 2
    public = {name for name in dir(Recorder) if not name.startswith("_")}
    assert public <= {name for name in dir(NullRecorder) if not name.startswith("_")}


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
    assert steps == list(range(1, len(steps) + 1))
    # 0.6 s after step 100, at most 0.1 s (and a slow machine's delay) can be missing.
    assert len(steps) > 300


def test_a_log_cut_anywhere_is_read_to_its_last_whole_block(tmp_path: Path) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1, flush_seconds=60) as recorder:
        record_steps(recorder, range(1, 4), flush=True)
    path = log_path(tmp_path, 0)
    whole = path.read_bytes()
    first = whole.index(MAGIC, 1)
    block = HEADER_BYTES + 6 * ROW.itemsize
    assert len(whole) == first + 3 * block
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        if size < first:
            with pytest.raises(LogError, match="no whole block"):
                read_log(path)
            continue
        log = read_log(path)
        blocks, rest = divmod(size - first, block)
        assert (len(log.rows), log.unread) == (6 * blocks, rest)


def test_a_damaged_block_costs_only_itself(tmp_path: Path) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1, flush_seconds=60) as recorder:
        record_steps(recorder, range(1, 6), flush=True)
    path = log_path(tmp_path, 0)
    data = bytearray(path.read_bytes())
    block = HEADER_BYTES + 6 * ROW.itemsize
    data[len(data) - 3 * block + HEADER_BYTES + 10] ^= 0x40
    path.write_bytes(data)
    got = read(tmp_path)
    assert sorted(set(got.rows["step"])) == [1, 2, 4, 5]
    assert len(got.damages) == 1
    assert f"{block} of {len(data)} bytes" in got.damages[0]


def test_merge_makes_one_file_a_node_and_is_idempotent(tmp_path: Path) -> None:
    for rank in range(4):
        with Recorder(tmp_path, rank, f"node/{rank // 2}", world_size=4) as recorder:
            record_steps(recorder, range(1, 21))
    files = merge(tmp_path)
    assert [path.name for path in files] == ["node_0.h5", "node_1.h5"]
    first = [(path.stat().st_ino, path.read_bytes()) for path in files]
    assert [(path.stat().st_ino, path.read_bytes()) for path in merge(tmp_path)] == first
    with h5py.File(files[1], "r") as file:
        assert file.attrs["format_version"] == 2
        assert file.attrs["node"] == "node/1"
        assert list(file.attrs["ranks"]) == [2, 3]
        assert file["outer/begin_ns"].shape == (2 * 20,)
        assert file["spans/begin_ns"].shape == (2 * 20 * 5,)
        assert file["sums/own_ns"].shape == (2 * 20 * 4,)
        assert set(file["clock"]["rank"]) == {2, 3}
        assert (np.diff(file["spans/step"][:].astype(int)) >= 0).all()
    got = read(tmp_path)
    assert got.damages == ()
    assert got.nodes == {0: "node/0", 1: "node/0", 2: "node/1", 3: "node/1"}
    assert len(got.rows) == 4 * 20 * 6
    merge(tmp_path, ranks=[2, 3], remove_logs=True)
    assert [path.name for path in sorted(tmp_path.glob("*.log"))] == [
        "rank-00000.log",
        "rank-00001.log",
    ]
    merge(tmp_path, remove_logs=True)
    assert not list(tmp_path.glob("*.log"))
    assert (read(tmp_path).rows == got.rows).all()


def test_a_log_that_grew_is_merged_again_and_removed_ones_are_kept(tmp_path: Path) -> None:
    with Recorder(tmp_path, 0, "h", world_size=2) as recorder:
        record_steps(recorder, range(1, 3))
    merge(tmp_path, remove_logs=True)
    second = Recorder(tmp_path, 1, "h", world_size=2)
    record_steps(second, range(1, 3), flush=True)
    assert len(read(tmp_path).rows) == 24
    record_steps(second, range(3, 4), flush=True)
    assert len(read(tmp_path).rows) == 30
    second.close()
    assert set(read(tmp_path).rows["rank"]) == {0, 1}
    assert [path.name for path in tmp_path.glob("*.h5")] == ["h.h5"]
    assert not list(tmp_path.glob(".*"))


def test_reading_does_not_need_to_write(tmp_path: Path) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1) as recorder:
        record_steps(recorder, range(1, 3))
    (tmp_path / "h.h5").mkdir()  # nothing can take this name, not even for root
    assert len(read(tmp_path).rows) == 12
    assert not list(tmp_path.glob(".*"))


def test_a_foreign_log_and_a_foreign_file_are_named(tmp_path: Path) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1) as recorder:
        record_steps(recorder, range(1, 3))
    log_path(tmp_path, 1).write_bytes(b"not a log at all")
    (tmp_path / "other.h5").write_bytes(b"not HDF5")
    got = read(tmp_path)
    assert len(got.rows) == 12
    assert any("rank-00001.log: no whole block" in damage for damage in got.damages)
    assert any("other.h5: not a readable file" in damage for damage in got.damages)
    with pytest.raises(EventsError, match="no such folder"):
        read(tmp_path / "absent")


FULL_DISK = """
import resource, sys
from pathlib import Path
from alpenglow_profiling.events import Kind, Recorder
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
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


def test_the_merge_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "1.0"
    with Recorder(folder, 0, "h", world_size=1) as recorder:
        record_steps(recorder, range(1, 3))
    assert events.main(["merge", str(folder), "--remove-logs"]) == 0
    assert "12 spans of 1 ranks in 1 files" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["h.h5"]
    assert events.main(["merge", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_span_is_cheap_and_a_row_small(tmp_path: Path) -> None:
    with Recorder(tmp_path / "cost", 0, "h", world_size=1) as recorder:
        # Measured at 1.4 us; the bound leaves room for a busy machine.
        assert span_cost(recorder, 50_000) < 15e-6
    log, merged = row_sizes(tmp_path / "size", 1000)
    assert 41 <= log < 41.5
    assert merged < 10
