"""Figures from traces: hand-made ones known to the ns, unions by brute force, real ones."""

from __future__ import annotations

import gzip
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow_profiling import trace_kinds, traces
from alpenglow_profiling.kineto import TraceError, read
from alpenglow_profiling.trace_account import account
from alpenglow_profiling.trace_collectives import collectives, waits
from alpenglow_profiling.trace_enlarge import enlarge
from alpenglow_profiling.trace_hta import hta_accounts
from alpenglow_profiling.trace_intervals import Times, union

ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_f16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"


def event(
    category: str, name: str, begin_us: float, end_us: float, tid: int = 1, **args: Any
) -> dict[str, Any]:
    length = round(end_us - begin_us, 3)
    fields: dict[str, Any] = {"ph": "X", "cat": category, "name": name, "pid": 0, "tid": tid}
    return {**fields, "ts": begin_us, "dur": length, "args": args}


def gpu(name: str, begin: float, end: float, stream: int, call: int, **args: Any) -> dict[str, Any]:
    category = "gpu_memcpy" if name.startswith("Memcpy") else "kernel"
    return event(category, name, begin, end, stream, stream=stream, correlation=call, **args)


def launch(begin: float, call: int) -> dict[str, Any]:
    return event("cuda_runtime", "cudaLaunchKernel", begin, begin + 0.5, correlation=call)


def saved(path: Path, events: list[dict[str, Any]], rank: int = 0, **meta: Any) -> Path:
    info = {"rank": rank, **meta}
    path.write_text(json.dumps({"distributedInfo": info, "traceEvents": events}))
    return path


# Times in us. Stream 7: 10-20.5, gap of host wait, 40.25-50, gap of 5 (kernel wait), 55-60, gap of
# 40 (other, launched long before), 100-110. Stream 9: communication 45-58 and a copy 58-59.125.
EVENTS = [
    event("user_annotation", "ProfilerStep#1", 0, 52),
    event("user_annotation", "ProfilerStep#2", 52, 120),
    launch(5, 1), launch(30, 2), launch(31, 3), launch(32, 4), launch(33, 5), launch(34, 6),
    gpu("gemm", 10, 20.5, 7, 1),
    gpu("gemm", 40.25, 50, 7, 2),
    gpu("softmax", 55, 60, 7, 3),
    gpu("gemm", 100, 110, 7, 4),
    gpu(ALL_REDUCE, 45, 58, 9, 5),
    gpu("Memcpy DtoH (Device -> Pageable)", 58, 59.125, 9, 6),
    event("cuda_sync", "Stream Wait Event", 60, 100, 7, stream=7, correlation=4),
    event("gpu_user_annotation", "nccl:all_reduce", 45, 58, 9, stream=9),
]  # fmt: skip


def test_exact_figures_of_a_whole_trace(tmp_path: Path) -> None:
    found = account(read(saved(tmp_path / "t.json", EVENTS)))
    # Busy: 10-20.5, 40.25-60, 100-110; compute the same without 50-55 (communication alone there).
    assert (found.span, found.idle) == (100_000, 59_750)
    assert (found.compute, found.non_compute) == (35_250, 5_000)
    assert (found.communication, found.overlap, found.exposed) == (13_000, 8_000, 5_000)
    assert found.memory == 1_125
    seven, nine = found.streams
    assert (seven.stream, seven.span, seven.busy, seven.idle) == (7, 100_000, 35_250, 64_750)
    assert (seven.host_wait, seven.kernel_wait, seven.other) == (19_750, 5_000, 40_000)
    assert (nine.stream, nine.idle, nine.unlinked) == (9, 0, 0)
    assert found.steps == [1, 2]
    assert not found.notes


def test_exact_figures_of_chosen_steps(tmp_path: Path) -> None:
    trace = read(saved(tmp_path / "t.json", EVENTS))
    first = account(trace, 1, 2)
    assert (first.span, first.idle, first.steps) == (52_000, 52_000 - 10_500 - 11_750, [1])
    assert (first.compute, first.overlap, first.communication) == (20_250, 5_000, 7_000)
    assert account(trace, None, None) == account(trace)
    both = account(trace, 1, None)
    assert (both.span, both.idle) == (120_000, 120_000 - 40_250)
    second = account(trace, 2)
    for name in ("span", "compute", "communication", "overlap", "idle"):
        assert getattr(first, name) + getattr(second, name) == getattr(both, name)
    with pytest.raises(TraceError, match="no step in 7:; it has 1 to 2"):
        account(trace, 7)


def test_gpu_events_without_a_launch_get_no_cause(tmp_path: Path) -> None:
    found = account(
        read(saved(tmp_path / "t.json", [e for e in EVENTS if "Launch" not in e["name"]]))
    )
    assert found.idle == 59_750
    assert (found.streams[0].unlinked, found.streams[0].host_wait) == (64_750, 0)
    assert "6 GPU events without their launch" in found.notes[0]


def test_a_trace_without_gpu_or_steps_says_so(tmp_path: Path) -> None:
    host = [event("cpu_op", "aten::mm", 1, 4), event("cpu_op", "aten::add", 2, 6.5)]
    path = saved(tmp_path / "t.json", host)
    found = account(read(path))
    assert found.idle is None
    assert found.overlap is None
    assert found.notes == [
        f"{path}: no GPU kernels in this trace: nothing is said of idle GPU time"
    ]
    assert found.host == {"span": 5_500, "operators": 5_500, "communication": 0, "overlap": 0}
    assert not hta_accounts([read(path)])
    found = account(read(saved(path, EVENTS[2:])))
    assert "no ProfilerStep" in found.notes[0]
    with pytest.raises(TraceError, match="no ProfilerStep at all"):
        account(read(path), 1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (ALL_REDUCE, "communication"),
        ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*)", "communication"),
        ("ncclAllReduceRingLLKernel_sum_f32(ncclColl)", "communication"),
        ("nccldevkernel_allgather", "communication"),
        ("void ncclKernel_Broadcast", "communication"),
        ("ncclSymkDevKernel_AllReduce_LLMC", "communication"),
        ("Memset (Device)", "memory"),
        ("Memcpy HtoD (Pageable -> Device)", "memory"),
        ("void at::native::vectorized_elementwise_kernel<4>", "computation"),
        ("volta_fp16_s884gemm_fp16_128x128", "computation"),
    ],
)
def test_kernels_are_told_by_their_names(tmp_path: Path, name: str, kind: str) -> None:
    trace = read(saved(tmp_path / "t.json", [gpu(name, 1, 2, 7, 1)]))
    kinds = {
        k: bool(getattr(trace_kinds, k)(trace)[0])
        for k in ("communication", "memory", "computation")
    }
    assert kinds == {k: k == kind for k in kinds}


INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=12)


def marked(times: Times) -> set[int]:
    return {t for b, e in zip(times.begin, times.end, strict=True) for t in range(b, e)}


def set_of(intervals: list[list[int]]) -> Times:
    pairs = np.array(intervals, dtype=np.int64).reshape(-1, 2)
    return union(pairs[:, 0], pairs[:, 1])


@given(first=INTERVALS, second=INTERVALS, low=st.integers(0, 60), width=st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_arithmetic_of_times_is_that_of_sets(
    first: list[list[int]], second: list[list[int]], low: int, width: int
) -> None:
    one, two = set_of(first), set_of(second)
    points = {t for b, e in first for t in range(b, e)}
    others = {t for b, e in second for t in range(b, e)}
    cases = [
        (one, points),
        (one & two, points & others),
        (one | two, points | others),
        (one - two, points - others),
        (one.within(low, low + width), points & set(range(low, low + width))),
    ]
    for times, expected in cases:
        assert marked(times) == expected
        assert times.total == len(expected)
        assert (times.end > times.begin).all()
        assert (times.begin[1:] > times.end[:-1]).all()


def ranks_with_skew(folder: Path, ahead_us: float, sequence: bool = True) -> list[Path]:
    """Two ranks, three all-reduces; rank 1 comes 4, 0 and 2 us later, its clock is ahead."""
    arrivals = {0: [10.0, 40.0, 70.0], 1: [14.0, 40.0, 72.0]}
    ends = [20.0, 45.0, 80.0]
    paths = []
    for rank, begins in arrivals.items():
        shift = ahead_us * rank
        events = [gpu("gemm", 1 + shift, 5 + shift, 7, 99)]
        for i, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            args: dict[str, Any] = {
                "Collective name": "allreduce", "In msg nelems": 1000, "Out msg nelems": 1000,
                "dtype": "Half", "Process Group Name": "0", "Process Group Ranks": "[0, 1]",
            }  # fmt: skip
            if sequence:
                args["Seq"] = i
            events.append(gpu(ALL_REDUCE, begin + shift, end + shift, 9, i, **args))
        paths.append(saved(folder / f"rank{rank}.json", events, rank))
    return paths


@pytest.mark.parametrize("sequence", [True, False])
def test_waits_and_transfers_of_ranks_with_different_clocks(tmp_path: Path, sequence: bool) -> None:
    operations = [collectives(read(p)) for p in ranks_with_skew(tmp_path, 1234.5, sequence)]
    assert [c.bytes for c in operations[0]] == [2000, 2000, 2000]
    assert operations[0][0].ranks == (0, 1)
    found = waits(operations)
    assert found.matched == 3
    assert found.offset_ns == {0: 0, 1: 1_234_500}
    assert found.wait_ns == {0: 6_000, 1: 0}
    assert found.transfer_ns == {0: 6_000 + 5_000 + 8_000, 1: 6_000 + 5_000 + 8_000}
    assert (found.disordered, found.residual_ns) == (0, 0)


def test_collectives_that_cannot_be_matched_are_not(tmp_path: Path) -> None:
    paths = ranks_with_skew(tmp_path, 0, sequence=False)
    document = json.loads(paths[1].read_text())
    del document["traceEvents"][-1]  # this rank's trace ends earlier: which is which?
    paths[1].write_text(json.dumps(document))
    found = waits([collectives(read(p)) for p in paths])
    assert (found.matched, found.wait_ns) == (0, {})
    assert "different collectives without sequence numbers" in found.notes[0]


def test_sizes_come_from_the_record_where_the_kernel_has_none(tmp_path: Path) -> None:
    record: dict[str, Any] = {
        "Collective name": "allgather", "In msg nelems": 10, "Out msg nelems": 80,
        "dtype": "BFloat16", "Process Group Name": "dp", "Process Group Ranks": "[0, 1, ...]",
    }  # fmt: skip
    events = [
        event("cpu_op", "record_param_comms", 1, 2, **{"External id": 5}, **record),
        gpu("ncclKernel_AllGather_RING_LL", 3, 4, 9, 1, **{"External id": 5}),
        gpu("ncclKernel_AllGather_RING_LL", 5, 6, 9, 2, **{"External id": 6}),
    ]
    listed = [{"pg_name": "dp", "ranks": [0, 1, 2]}, {"pg_name": "tp", "ranks": [0]}]
    known, unknown = collectives(read(saved(tmp_path / "t.json", events, pg_config=listed)))
    assert (known.operation, known.group, known.ranks, known.bytes) == (
        "allgather",
        "dp",
        (0, 1, 2),
        160,
    )
    assert (unknown.operation, unknown.group, unknown.bytes) == ("AllGather", "", None)


def table(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = traces.main([str(a) for a in arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks_with_skew(tmp_path, 500)
    code, out, err = table(capsys, tmp_path, "--jobs", "2", "--streams")
    assert (code, err) == (0, "")
    assert "3 collectives matched" in out
    assert "allreduce" in out
    code, out, _ = table(capsys, tmp_path, "--json")
    document = json.loads(out)
    assert [r["rank"] for r in document["ranks"]] == [0, 1]
    assert document["waits"]["wait_ns"] == {"0": 6000, "1": 0}
    assert document["ranks"][0]["collectives"][0]["bytes"] == 6000
    path = saved(tmp_path.with_name("one.json"), EVENTS)
    code, out, _ = table(capsys, path, "--rules", "hta")
    assert (code, len(out.splitlines())) == (0, 2)
    code, out, _ = table(capsys, path, "--steps", "1")
    assert out.splitlines()[1].split()[:2] == ["0", "0.052"]


@pytest.mark.parametrize(
    ("content", "arguments", "says"),
    [
        ("", [], "the file is empty"),
        ("[]]", ["--rules", "hta", "--steps", "1:"], "--steps has no meaning"),
        ('{"traceEvents": []}', ["--steps", "1:"], "no ProfilerStep at all"),
        ('{"traceEvents": []}', ["--rules", "hta"], "no trace with GPU kernels"),
    ],
)
def test_bad_input_gets_one_sentence_and_code_1(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    arguments: list[str],
    says: str,
) -> None:
    path = tmp_path / "t.json"
    path.write_text(content)
    code, out, err = table(capsys, path, *arguments)
    assert (code, out) == (1, "")
    assert says in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("alpenglow_profiling.traces: ")


def test_a_cut_trace_is_used_and_the_table_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "t.json", EVENTS)
    path.write_text(path.read_text()[:-200])
    code, out, _ = table(capsys, path)
    assert code == 0
    assert f"{path}: the file ends within the list of events; its first" in out


# Frozen figures of Holistic Trace Analysis 0.5.0 from PyPI (pandas 3.1, numpy 2.4), a file alone:
# TraceAnalysis(trace_files={rank: file}), get_temporal_breakdown(visualize=False) (idle, compute,
# non-compute, kernel time in us), get_comm_comp_overlap(visualize=False), and by stream
# get_idle_time_breakdown(ranks=[rank], visualize=False) (host wait, kernel wait, other in us).
# `python -m alpenglow_profiling.bench_traces FILE...` installs it and compares again.
HTA: dict[str, tuple[tuple[float, ...], dict[int, tuple[float, ...]]]] = {
    "sampled_rank-0of128": (
        (321378, 106252, 172428, 600058, 11.81),
        {7: (213825, 1985, 261740), 23: (596037, 70, 34), 25: (0, 9, 47865),
         84: (148934, 6, 0), 203: (0, 0, 0)},
    ),
    "sampled_rank-1of128": (
        (328671, 135548, 136455, 600674, 20.05),
        {7: (156827, 1816, 281064), 23: (596313, 100, 0), 25: (0, 9, 53028),
         84: (251860, 0, 23247), 203: (0, 0, 0)},
    ),
    "nccl_a100_rank-0of2": (
        (338781, 75169, 21636, 435586, 14.31),
        {7: (357247, 2155, 0), 40: (381499, 0, 0)},
    ),
}  # fmt: skip


def real_trace(name: str) -> Path:
    folder = os.environ.get("ALPENGLOW_TEST_DATA")
    if not folder or not Path(folder, "traces").is_dir():
        pytest.skip("ALPENGLOW_TEST_DATA names no folder with traces: no real traces to read")
    return Path(folder, "traces", f"{name}.json.gz")


@pytest.mark.parametrize("name", HTA)
def test_by_its_rules_the_figures_are_those_of_holistic_trace_analysis(name: str) -> None:
    (found,) = hta_accounts([read(real_trace(name))])
    figures, by_stream = HTA[name]
    ours = (found.idle, found.compute, found.non_compute, found.span, found.overlap_percent)
    assert ours == figures
    assert found.idle_by_stream == by_stream


def test_its_rules_on_hand_made_traces(tmp_path: Path) -> None:
    # The figures below are that tool's own for these traces, obtained as above.
    # Rounded inwards: 10-20, 41-50, 55-60, 100-110; one within a us, 30.2-30.6, counts as -1.
    events = [*EVENTS[2:10], EVENTS[11], gpu("tiny", 30.2, 30.6, 7, 6)]
    (found,) = hta_accounts([read(saved(tmp_path / "t.json", events))])
    assert (found.idle, found.compute, found.non_compute, found.span) == (72, 28, 0, 100)
    assert math.isnan(found.overlap_percent)
    assert found.idle_by_stream == {7: (11, 11, 50)}
    # With two steps the kernels of the last one go; a wait for an event counts as computation.
    late = [*EVENTS, launch(60, 20), gpu("gemm", 200, 300, 7, 20)]
    (found,) = hta_accounts([read(saved(tmp_path / "t.json", late))])
    assert (found.idle, found.compute, found.non_compute, found.span) == (21, 79, 0, 100)
    assert found.overlap_percent == 100
    assert found.idle_by_stream == {7: (21, 5, 40), 9: (0, 0, 0)}


@pytest.mark.parametrize("name", ["nccl_a100_rank-0of2", "sampled_rank-1of128"])
def test_an_enlarged_trace_is_the_same_several_times(tmp_path: Path, name: str) -> None:
    source = real_trace(name)
    target = tmp_path / "large.json.gz"
    size = len(gzip.decompress(source.read_bytes())) / 1e6
    copies = enlarge(source, target, 2.5 * size, rank=5)
    one, many = read(source), read(target)
    assert copies == 3
    assert len(many) == 3 * len(one)
    assert many.rank == 5
    assert len(many.steps) == 3 * len(one.steps)
    assert np.count_nonzero(many.launch >= 0) == 3 * np.count_nonzero(one.launch >= 0)
    alone, together = account(one), account(many)
    for figure in ("compute", "communication", "overlap", "memory"):
        assert getattr(together, figure) == 3 * getattr(alone, figure)


PROFILED = """
import sys, torch, torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, schedule
rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
weight = torch.zeros(64, 64)
saved = lambda p: p.export_chrome_trace(f"{folder}/rank{rank}.json.gz")
steps = schedule(wait=0, warmup=1, active=3)
cpu = [ProfilerActivity.CPU]
with profile(activities=cpu, schedule=steps, record_shapes=True, on_trace_ready=saved) as p:
    for _ in range(4):
        weight = weight @ weight
        dist.all_reduce(weight)
        dist.all_reduce(torch.zeros(1000, dtype=torch.float64))
        p.step()
dist.barrier()  # a rank that leaves early takes its sockets from under the other
dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_a_trace_of_gloo_made_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = [
        subprocess.Popen([sys.executable, "-c", PROFILED, str(rank), port, str(tmp_path)])
        for rank in (0, 1)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    found = [read(tmp_path / f"rank{rank}.json.gz") for rank in (0, 1)]
    assert [t.rank for t in found] == [0, 1]
    assert [list(t.steps) for t in found] == [[1, 2, 3]] * 2
    operations = [collectives(t) for t in found]
    for each in operations:
        assert sorted(c.bytes or 0 for c in each) == [8000] * 3 + [16384] * 3
        assert {(c.operation, c.group, c.ranks) for c in each} == {("all_reduce", "0", (0, 1))}
    assert waits(operations).matched == 6
    one = account(found[0])
    assert one.idle is None
    assert 0 < one.host["communication"] <= one.host["span"]
    code, out, _ = table(capsys, tmp_path)
    assert code == 0
    assert "no GPU kernels in this trace" in out
