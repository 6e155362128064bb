"""The recorder, its log and the merged file, with real processes, threads and damage."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from alpenglow_profiling import archive, events
from alpenglow_profiling.blocks import HEADER_BYTES, MAGIC, clock_pair, encode
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
from alpenglow_profiling.kind import PACKED, SUM
from alpenglow_profiling.log import ROWS, Log, LogError, encode_about, read_log
from alpenglow_profiling.step_sums import pack

# One flush of one step of `record_steps`: count of sums, sums of four kinds, six spans.
STEP_BLOCK = HEADER_BYTES + 4 + 4 * SUM.itemsize + 6 * ROW.itemsize
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


def test_a_log_cut_anywhere_is_read_to_its_last_whole_block(tmp_path: Path) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1, flush_seconds=60) as recorder:
        record_steps(recorder, range(1, 4), flush=True)
    path = log_path(tmp_path, 0)
    whole = path.read_bytes()
    first = whole.index(MAGIC, 1)
    block = STEP_BLOCK
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
        # Whatever is cut, a step is there with its sums or not at all.
        steps = log.rows[log.rows["kind"] == Kind.STEP]
        for step in steps:
            own = log.sums["own_ns"][log.sums["step"] == step["step"]].sum()
            assert own == step["end_ns"] - step["begin_ns"]
        assert len(steps) == blocks == len(np.unique(log.sums["step"]))


def test_a_damaged_block_costs_only_itself(tmp_path: Path) -> None:
    with Recorder(tmp_path, 0, "h", world_size=1, flush_seconds=60) as recorder:
        record_steps(recorder, range(1, 6), flush=True)
    path = log_path(tmp_path, 0)
    data = bytearray(path.read_bytes())
    block = STEP_BLOCK
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


def test_a_log_that_changed_without_growing_is_read_again(tmp_path: Path) -> None:
    """The step under way is written in place, so another one may take as much room."""
    path = log_path(tmp_path, 0)
    with Recorder(tmp_path, 0, "h", world_size=1, sample_every=1000, flush_seconds=60) as recorder:
        for step in range(1, 4):
            record_steps(recorder, range(step, step + 1))
        recorder.step = 4
        for i in range(60):
            recorder.record(Kind.FORWARD, i, i + 1)
            if i % 10 == 9:
                recorder.flush()
        size = path.stat().st_size
        assert read(tmp_path).kept.tolist() == [1, 2, 4]
        recorder.record(Kind.STEP, 0, 60)
        recorder.step = 5
        for i in range(61):
            recorder.record(Kind.FORWARD, i, i + 1)
        recorder.flush()
        # 6 headers and 60 rows went; 2 headers, a count, 2 sums and 62 rows came.
        assert path.stat().st_size == size
        assert read(tmp_path).kept.tolist() == [1, 2, 5]


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


def test_the_merge_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "1.0"
    with Recorder(folder, 0, "h", world_size=1) as recorder:
        record_steps(recorder, range(1, 3))
    assert events.main(["merge", str(folder), "--remove-logs"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for line in (
        "ranks    1 of 1 on 1 nodes",
        "sums     8 of 2 steps (1-2)",
        "spans    12, inside",
    ):
        assert line in said.out
    assert [path.name for path in folder.iterdir()] == ["h.h5"]
    for verb in ("merge", "show"):
        assert events.main([verb, str(tmp_path / "none")]) == 1
        assert capsys.readouterr().err.count("\n") == 1
        assert events.main([verb, str(tmp_path)]) == 1
        assert "no event log that can be read" in capsys.readouterr().err


def test_showing_writes_nothing_and_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in (0, 2):
        with Recorder(tmp_path, rank, "h", world_size=3, sample_every=5) as recorder:
            record_steps(recorder, range(1, 13))
    cut = log_path(tmp_path, 2)
    os.truncate(cut, cut.stat().st_size - 1)
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    assert events.main(["show", str(tmp_path)]) == 0
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before
    said = capsys.readouterr()
    assert "ranks    2 of 3 on 1 nodes" in said.out
    assert "5 divides" in said.out
    assert "no events of 1 of 3 ranks (1)" in said.err
    assert "rank-00002.log of h" in said.err


def test_a_log_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a log takes time and memory: once where it is due, never where the file holds it."""
    for rank in range(3):
        with Recorder(tmp_path, rank, f"n{rank}", world_size=3) as recorder:
            record_steps(recorder, range(1, 3))
    asked: list[Path] = []

    def counted(path: Path) -> Log:
        asked.append(path)
        return read_log(path)

    monkeypatch.setattr(archive, "read_log", counted)
    read(tmp_path)
    assert asked == [log_path(tmp_path, rank) for rank in range(3)]
    with Recorder(tmp_path, 1, "n1", world_size=3) as recorder:
        record_steps(recorder, range(3, 4))
    asked.clear()
    assert len(read(tmp_path).outer) == 7
    assert asked == [log_path(tmp_path, 1)]


def test_a_merge_holds_little_more_than_its_rows(tmp_path: Path) -> None:
    steps = [(i, int(Kind.FORWARD), 0, i, i + 1, -1, -1, -1) for i in range(20_000)]
    for rank in range(4):
        block = encode(pack(rank, steps), ROWS, *clock_pair())
        log_path(tmp_path, rank).write_bytes(encode_about(rank, "h", 4) + 3 * block)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    tracemalloc.start()
    try:
        merge(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The rows twice while they are joined, sums made of them, an index.
    assert peak < 3.5 * size
