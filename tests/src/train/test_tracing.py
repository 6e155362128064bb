"""Kernel windows of one rank: when they begin, what is in them, and what goes wrong beside them."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from alpenglow.train.checkpoint_group import SingleProcess
from alpenglow.train.deadline import Deadline
from alpenglow.train.measure_recipe import MeasureRecipe
from alpenglow.train.run_directory import RunDirectory
from alpenglow.train.stop import StopRequest
from alpenglow.train.tracing import Tracing


class Run:
    """A run of one rank whose steps are a matrix product."""

    def __init__(self, path: Path, *steps: int) -> None:
        self.run = RunDirectory(path, "local.1")
        self.said: list[str] = []
        self.stop = StopRequest(Deadline(None), 0.0)
        recipe = MeasureRecipe(trace_steps=steps)
        self.tracing = Tracing(recipe, self.run, SingleProcess(), self.stop, self.said.append)

    def go(self, steps: Sequence[int]) -> None:
        for number in steps:
            self.stop.heard = self.stop.also()  # what all ranks agree on at the border
            with self.tracing.step(number):
                torch.ones(8, 8) @ torch.ones(8, 8)

    def traces(self) -> dict[str, list[str]]:
        """File -> its step marks; each trace holds a product for each."""
        found = {}
        for path in sorted(self.run.traces.glob("*")):
            events: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))[
                "traceEvents"
            ]
            names = [event.get("name", "") for event in events]
            marks = [name for name in names if name.startswith("ProfilerStep#")]
            assert names.count("aten::mm") == len(marks)
            found[path.name] = marks
        return found


def test_a_segment_that_begins_within_the_steps_does_the_rest(tmp_path: Path) -> None:
    run = Run(tmp_path, 3, 4)
    run.go(range(5, 9))
    run.tracing.close()
    assert run.traces() == {"rank-00000-step-000005.json.gz": ["ProfilerStep#5", "ProfilerStep#6"]}
    assert len(run.said) == 1


def test_a_segment_that_ends_within_the_steps_keeps_what_it_saw(tmp_path: Path) -> None:
    run = Run(tmp_path, 2, 100)
    run.go(range(1, 4))
    run.tracing.close()
    run.tracing.close()
    assert run.traces() == {"rank-00000-step-000002.json.gz": ["ProfilerStep#2", "ProfilerStep#3"]}


def test_a_file_waits_for_the_window_under_way(tmp_path: Path) -> None:
    run = Run(tmp_path, 1, 2)
    run.go([1])
    (tmp_path / "TRACE").write_text("steps=1\n")
    run.go([2])
    assert (tmp_path / "TRACE").exists()
    step = 2
    while (tmp_path / "TRACE").exists():  # it is looked for once a second
        step += 1
        run.go([step])
    run.go([step + 1])
    run.tracing.close()
    assert run.traces() == {
        "rank-00000-step-000001.json.gz": ["ProfilerStep#1", "ProfilerStep#2"],
        f"rank-00000-step-{step:06d}.json.gz": [f"ProfilerStep#{step}"],
    }


def test_a_file_that_is_a_folder_traces_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / "TRACE").mkdir()
    run.go([1, 2])
    assert [said for said in run.said if "cannot be read and removed: Is a directory" in said]
    assert run.traces() == {}


@pytest.mark.parametrize("when", ["before", "between", "packing"])
def test_what_cannot_be_written_costs_the_trace_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    run = Run(tmp_path, 1, 2)
    traces = run.run.traces
    if when == "before":
        traces.parent.touch()
    run.go([1])
    if when == "between":
        shutil.rmtree(traces)
    if when == "packing":
        (traces / "rank-00000-step-000001.json.gz").mkdir()
    with caplog.at_level(logging.WARNING):
        run.go([2, 3])
        run.tracing.close()
    if when != "before":
        assert len(caplog.records) == 1
        assert "trace" in caplog.text
    assert [path.name for path in traces.glob(".*")] == []


def test_another_profiler_is_left_alone(tmp_path: Path) -> None:
    with torch.profiler.profile() as other:
        run = Run(tmp_path, 1, 1)
        run.go([1, 2])
        run.tracing.close()
    assert len(run.said) == 1
    assert any(event.name == "aten::mm" for event in other.events())
