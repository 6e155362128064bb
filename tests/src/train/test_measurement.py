"""Samples, clocks and kernel traces of real runs: two ranks that pretend to be two nodes."""

from __future__ import annotations

import gzip
import json
import logging
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from program_ranks import begin, clocks_can_differ, end, wait_for_steps
from small_recipe import small_recipe
from small_shards import write_small_shards

from alpenglow.config import ConfigError
from alpenglow.train.checkpoint_group import SingleProcess
from alpenglow.train.measure_recipe import MeasureRecipe
from alpenglow.train.measurement import Measurement
from alpenglow.train.run_directory import RunDirectory
from alpenglow.train.tracing import STEPS, Request, RequestError
from alpenglow_lsf.ranks import Ranks
from alpenglow_profiling.clock_exchange import read_exchanges
from alpenglow_profiling.events import Kind
from alpenglow_profiling.events import read as read_events
from alpenglow_profiling.samples import HOST, read

MEASURE = {"sample_seconds": 0.05, "trace_ranks": [0, 1, 9], "trace_steps": [2, 2]}
RECIPE = small_recipe(
    {"steps": 100_000, "checkpoint_every": 100_000, "log_every": 100},
    parallel={"pipeline": 2},
    measure=MEASURE,
)
AHEAD_S = 1000 if clocks_can_differ() else 0


def wait_until(happened: Callable[[], bool], ranks: list[subprocess.Popen[str]]) -> None:
    for _ in range(600):
        if happened():
            return
        assert all(rank.poll() is None for rank in ranks)
        time.sleep(0.05)
    raise AssertionError("it did not happen")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    (folder / "tiny.toml").write_text(RECIPE)
    write_small_shards(folder / "shards")
    return folder


@pytest.fixture(scope="module")
def stopped(place: Path) -> tuple[Path, list[tuple[int, str, str]]]:
    """A run that was asked for two more traces, one of them in vain, and then stopped."""
    ranks = begin(place, size=2, nodes=True, ahead_s=AHEAD_S)
    try:
        wait_for_steps(place, 4)
        run = place / "run"
        for text in ("ranks=7 steps=2", "ranks=1 steps=1"):
            (run / ".asked").write_text(text)
            (run / ".asked").rename(run / "TRACE")
            wait_until(lambda: not (run / "TRACE").exists(), ranks)
        wait_until(lambda: len(list(run.glob("traces/*/*.gz"))) == 3, ranks)
        ranks[1].send_signal(signal.SIGTERM)
        return run, end(ranks)
    finally:
        for rank in ranks:
            rank.kill()


def traces(run: Path) -> dict[str, dict[str, Any]]:
    return {
        path.name: json.loads(gzip.decompress(path.read_bytes()))
        for path in sorted(run.glob("traces/local.1/*"))
    }


def marks(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return [e for e in trace["traceEvents"] if e.get("name", "").startswith("ProfilerStep#")]


@pytest.mark.distributed
def test_the_run_itself_is_as_quiet_as_ever(
    stopped: tuple[Path, list[tuple[int, str, str]]],
) -> None:
    run, ranks = stopped
    assert [(code, error) for code, _, error in ranks] == [(85, ""), (85, "")]
    said = [line for line in ranks[0][1].splitlines() if "rac" in line]
    assert said[0] == f"tracing rank 0, 1 from step 2 on, 2 steps, in {Path('run/traces/local.1')}"
    assert said[1] == (
        "TRACE asks for 2 steps of ranks [7], and this job has ranks 0 to 1; nothing is traced"
    )
    assert said[2].startswith("tracing rank 1 from step ")
    assert not list(run.rglob(".*"))


@pytest.mark.distributed
def test_traces_are_torchs_own_with_the_runs_steps(
    stopped: tuple[Path, list[tuple[int, str, str]]],
) -> None:
    run, _ = stopped
    found = traces(run)
    first, second, asked = found
    assert (first, second) == ("rank-00000-step-000002.json.gz", "rank-00001-step-000002.json.gz")
    assert asked.startswith("rank-00001-step-")
    for name in (first, second):
        trace = found[name]
        assert [mark["name"] for mark in marks(trace)] == ["ProfilerStep#2", "ProfilerStep#3"]
        assert trace["distributedInfo"]["rank"] == int(name[5:10])
        names = {event.get("name", "") for event in trace["traceEvents"]}
        assert {"aten::addmm", "aten::embedding"} & names or "aten::mm" in names
        assert any(name.startswith("gloo:") for name in names)
        assert not any("Call stack" in event.get("args", {}) for event in trace["traceEvents"])
    (mark,) = marks(found[asked])
    assert mark["name"] == f"ProfilerStep#{int(asked[16:22])}"
    # A trace lasts as long as its steps did by the recorder, and the recorder's spans leave the
    # writing of it out.
    rows = read_events(run / "events/local.1").rows
    steps = rows[(rows["kind"] == Kind.STEP) & (rows["rank"] == 0) & np.isin(rows["step"], [2, 3])]
    recorded = (steps["end_ns"] - steps["begin_ns"]) / 1e3
    marked = np.array([mark["dur"] for mark in marks(found[first])])
    assert (marked >= recorded).all()


@pytest.mark.distributed
def test_every_node_is_sampled_from_start_to_end(
    stopped: tuple[Path, list[tuple[int, str, str]]],
) -> None:
    run, _ = stopped
    folder = run / "samples/local.1"
    assert sorted(path.name for path in folder.iterdir()) == ["node00.h5", "node01.h5"]
    samples = read(folder)
    assert samples.nodes == ("node00", "node01")
    assert samples.damages == ()
    assert [about.period_s for about in samples.about] == [0.05, 0.05]
    events = read_events(run / "events/local.1").rows
    steps = events[events["kind"] == Kind.STEP]
    for node in range(2):
        rows = samples.rows[(samples.rows["node"] == node) & (samples.rows["device"] == HOST)]
        assert rows["time_ns"][0] < steps["begin_ns"].min()
        assert rows["time_ns"][-1] > steps["end_ns"].max()
        assert (np.diff(rows["time_ns"]) > 0).all()
        assert np.nanmax(rows["cpu_busy"]) > 0
        # One rank of torch: more than 50 MB, less than all that is in use.
        assert 50e6 < rows["rss_bytes"].max() < rows["memory_bytes"].max()


@pytest.mark.distributed
def test_clocks_are_exchanged_at_both_ends(
    stopped: tuple[Path, list[tuple[int, str, str]]],
) -> None:
    run, _ = stopped
    both = read_exchanges(run / "events/local.1")
    assert [(one.node, one.reference) for one in both] == [("node01", "node00")] * 2
    assert both[0].when_ns < both[1].when_ns
    for one in both:
        assert abs(one.offset_ns - AHEAD_S * 10**9) <= one.error_ns
    assert json.loads((run / "events/local.1/clock_exchange.json").read_text())["missing"] == []


@pytest.mark.distributed
def test_a_killed_rank_leaves_its_samples_and_ends_the_others(place: Path) -> None:
    arguments = ["measure.trace_steps=[]", "--run", "killed"]
    ranks = begin(place, arguments, size=2, nodes=True)
    try:
        metrics = place / "killed/metrics.jsonl"
        wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 3, ranks)
        ranks[1].kill()
        (code, _, error), _ = end(ranks)
    finally:
        for rank in ranks:
            rank.kill()
    assert code == 1
    assert error.count("\n") == 1
    assert "lost a peer" in error
    folder = place / "killed/samples/local.1"
    assert sorted(path.suffix for path in folder.iterdir()) == [".log", ".log"]
    samples = read(folder)
    assert samples.nodes == ("node00", "node01")
    assert samples.damages == ()
    assert sorted(path.suffix for path in folder.iterdir()) == [".h5", ".h5", ".log", ".log"]
    assert [one.node for one in read_exchanges(place / "killed/events/local.1")] == ["node01"]


ONE = Ranks(0, 0, 1, 1, "h1", "127.0.0.1", 1)


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_one_node_has_no_clocks_to_compare_and_may_go_unsampled(
    tmp_path: Path, seconds: float
) -> None:
    run = RunDirectory(tmp_path / "run", "local.1")
    recipe = MeasureRecipe(sample_seconds=seconds)
    measurement = Measurement.begin(recipe, ONE, run, SingleProcess())
    measurement.end()
    measurement.keep()
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == (["run/samples/local.1/h1.h5"] if seconds else [])


def test_samples_that_cannot_be_written_are_told_and_cost_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "samples").touch()
    run = RunDirectory(tmp_path, "local.1")
    with caplog.at_level(logging.WARNING):
        measurement = Measurement.begin(MeasureRecipe(), ONE, run, SingleProcess())
        measurement.end()
        measurement.keep()
    (told,) = caplog.messages
    assert told.startswith("this node is not sampled: ")


@pytest.mark.parametrize(
    ("text", "ranks", "steps"),
    [
        ("", (0, 3), STEPS),
        ("steps=1\n", (0, 3), 1),
        ("ranks=2,0,2 steps=5", (0, 2), 5),
        ("ranks=1,64", (1,), STEPS),
    ],
)
def test_what_a_trace_file_asks_for(text: str, ranks: tuple[int, ...], steps: int) -> None:
    assert Request.of_text(text, (0, 3), 4) == Request(ranks, steps)


@pytest.mark.parametrize("text", ["ranks=all", "rank=3", "steps=0", "steps=", "ranks=4", "please"])
def test_a_trace_file_that_makes_no_sense_is_one_sentence(text: str) -> None:
    with pytest.raises(RequestError, match=r"^TRACE (says|asks)"):
        Request.of_text(text, (0,), 4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sample_seconds": -1.0}, "sample_seconds = -1.0: 0 for none, or at least 0.01"),
        ({"sample_seconds": 0.001}, "sample_seconds = 0.001"),
        ({"trace_ranks": (-1,)}, r"trace_ranks = \[-1\]: ranks count from 0"),
        ({"trace_steps": (5,)}, r"trace_steps = \[5\]: the first step"),
        ({"trace_steps": (0, 2)}, r"trace_steps = \[0, 2\]"),
        ({"trace_ranks": (), "trace_steps": (1, 2)}, r"trace_steps = \[1, 2\] with no"),
    ],
)
def test_what_the_table_refuses(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        MeasureRecipe(**changes)
