"""Curves in CSV, TensorBoard and W&B, read back; steps that repeat after a restart."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from alpenglow.config import ConfigError
from alpenglow.train import monitors
from alpenglow.train.monitors import CsvTable, TensorBoard, check_monitors, open_monitors
from alpenglow.train.run_directory import RunDirectory


def fields(segment: str, step: int, **more: Any) -> dict[str, Any]:
    return {"segment": segment, "step": step, "loss": step + 0.5, "grad_norm": None, **more}


def test_a_table_over_two_segments(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = CsvTable(path)
    for step in (1, 2, 3):
        first.append(fields("a.1", step))
    first.close()
    with path.open("a") as file:
        file.write("a.1,4,4.")  # a kill in the middle of a line
    second = CsvTable(path)
    second.append(fields("b.1", 3, mfu=0.5))  # a column that the table does not have
    second.close()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["segment"], row["step"], row["loss"]) for row in rows] == [
        ("a.1", "1", "1.5"),
        ("a.1", "2", "2.5"),
        ("a.1", "3", "3.5"),
        ("b.1", "3", "3.5"),
    ]
    assert {row["grad_norm"] for row in rows} == {""}


def test_tensorboard_forgets_the_steps_that_are_done_again(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    for segment, start, steps in (("a.1", 0, 5), ("b.1", 3, 6)):
        board = TensorBoard(tmp_path, start)
        for step in range(start + 1, steps + 1):
            offset = 100.0 if segment == "b.1" else 0.0
            board.append({**fields(segment, step), "loss": step + offset, "time": 1e9 + step})
        board.close()
    # In the order of the segments: their names hold the second in which they began.
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for place, path in enumerate(files):
        path.rename(tmp_path / f"events.out.tfevents.{place}")
    events = accumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 104.0),
        (5, 105.0),
        (6, 106.0),
    ]


def test_wandb_stays_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    run = RunDirectory(tmp_path / "run", "a.1")
    run.path.mkdir()
    opened = open_monitors(["wandb"], run, 0)
    for monitor in opened:
        monitor.append(fields("a.1", 1))
        monitor.close()
    assert list(run.path.glob("wandb/offline-run-*/*.wandb"))


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(monitors.PACKAGES, "wandb", "no_such_package_here")
    check_monitors(["csv"])
    with pytest.raises(ConfigError, match="wandb, but the package no_such_package_here is not"):
        check_monitors(["csv", "wandb"])
