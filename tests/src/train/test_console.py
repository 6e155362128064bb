"""The progress line keeps its columns; ETA and MFU are computed; the summary is short."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from training_ranks import tiny_recipe

from alpenglow.train.console import Console, amount, clock, progress_line
from alpenglow.train.deadline import Deadline
from alpenglow.train.restart import Position
from alpenglow.train.run_directory import RunDirectory
from alpenglow.train.stop import StopRequest


@dataclass
class Step:
    """What a step gave."""

    loss: float = 4.0
    grad_norm: float | None = 1.0
    loss_scale: float = 1.0
    applied: bool = True


def begun(step: int) -> Position:
    """A run of global batch 16 after so many steps."""
    position = Position(step, step, 16 * step, 16 * step)
    position.go_on(16)
    return position


@pytest.mark.parametrize("mfu", [None, 0.5])
def test_the_line_keeps_its_columns(mfu: float | None) -> None:
    lines = [
        progress_line(1, 190_735, 4_194_304, 10.8301, 379_000, mfu, 7000, 8e6),
        progress_line(190_735, 190_735, 800e9, 2.1, 1_234_567.8, mfu, 0, 0),  # type: ignore[arg-type]
    ]
    assert len({len(line) for line in lines}) == 1
    assert len({tuple(i for i, c in enumerate(line) if c == "|") for line in lines}) == 1
    assert ("MFU 50.0 %" in lines[0]) == (mfu is not None)
    assert "left 1:56:40, run 92d 14h" in lines[0]
    assert "800 G tokens" in lines[1]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (999.6, "1.00 k"), (10_240, "10.2 k"), (999_500, "1.00 M"),
     (4_194_304, "4.19 M"), (1.2e12, "1.20 T"), (5e15, "5000 T")],
)  # fmt: skip
def test_amounts(number: float, text: str) -> None:
    assert amount(number) == text


def test_durations() -> None:
    assert [clock(s) for s in (0, 59.6, 3723, 96 * 3600)] == [
        "0:00:00",
        "0:01:00",
        "1:02:03",
        "4d 00h",
    ]


def test_a_segment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(train={"steps": 1000, "log_every": 2, "monitor": ("csv",)})
    run = RunDirectory(tmp_path, "job.1")
    position = begun(4)
    stop = StopRequest(Deadline(time.time() + 500), 0.0)
    flops = recipe.model.flops_per_token(recipe.batch.sequence_length)
    # 256 tokens in a second at a peak of four times that: MFU 25 %.
    console = Console(
        recipe, run, position, stop, speaks=True, peak_flops=1024 * flops, startup_s=3
    )
    for number in range(5, 9):
        position.advance(16, applied=number != 6)
        console.step(position, Step(loss=float(number), applied=number != 6), 1e-3, 1.0)
    console.saved(8, 10**6, 0.25, 1.5)
    console.summary(position, 0.004)
    console.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["6/1000", "8/1000"]
    assert lines[0].endswith("skipped: overflow at scale 1")
    assert all("256 tokens/s | MFU 25.0 %" in line for line in lines[:2])
    assert (
        lines[2] == "checkpoint step 8: 1.0 MB, training stood still for 0.25 s, drained in 1.5 s"
    )
    summary = " ".join(" ".join(lines[3:]).split())
    assert len(lines) == 5
    for part in (
        "job.1: steps 5 to 8, 1.02 k tokens",
        "after 3 s of start",
        "loss 5.0000 to 8.0000",
        "256 tokens/s (median), MFU 25.0 %",
        "waiting for data 0.4 % of the steps",
        "1 steps skipped",
        "1 checkpoints stalled 0.2 s",
    ):
        assert part in summary
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in kept] == [5, 6, 7, 8]
    assert {line["mfu"] for line in kept} == {0.25}
    assert json.loads((tmp_path / "progress.json").read_text())["done"] >= 5


def test_the_segment_ends_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """998 steps of a second are left, and 500 s less the reserve of 10 s and what a save takes."""
    recipe = tiny_recipe(train={"steps": 1000})
    now = [1000.0]
    monkeypatch.setattr("alpenglow.train.console.monotonic", lambda: now[0])
    monkeypatch.setattr("alpenglow.train.console.time.time", lambda: now[0])
    stop = StopRequest(Deadline(1502.0, wall=lambda: now[0], steady=lambda: now[0]), 20.0)
    position = begun(0)
    console = Console(recipe, RunDirectory(tmp_path, "a.1"), position, stop, speaks=True)
    for _ in range(2):
        now[0] += 1.0
        position.advance(16, applied=True)
        console.step(position, Step(), 1e-3, 1.0)
    console.close()
    wanted = f"left {clock(500 - stop.reserve())}, run {clock(998)}"
    assert capsys.readouterr().out.splitlines()[-1].endswith(wanted)


def test_the_other_ranks_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = StopRequest(Deadline(None), 0.0)
    run = RunDirectory(tmp_path / "run", "a.1")
    console = Console(tiny_recipe(), run, begun(0), stop, speaks=False)
    console.step(begun(1), Step(), 1e-3, 1.0)
    console.saved(1, 1, 1.0, 1.0)
    console.summary(begun(1), 0.0)
    console.close()
    assert capsys.readouterr().out == ""
    assert not run.path.exists()
