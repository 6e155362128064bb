"""A small rehearsal: real ranks and engine, an ordinary run directory, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alpenglow.parallel.schedule import SCHEDULES, Action
from alpenglow.parallel.timeline import Durations, bubble
from alpenglow_analysis import comparison
from alpenglow_analysis.run import Run
from alpenglow_profiling.events import Kind
from alpenglow_profiling.passes import PASSES, mean_lengths

KIND = {
    Action.forward: Kind.FORWARD,
    Action.backward: Kind.BACKWARD,
    Action.backward_input: Kind.BACKWARD,
    Action.backward_weight: Kind.WEIGHT_GRAD,
}


def rehearse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alpenglow.train.rehearsal", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.distributed
def test_a_rehearsal_is_a_run(tmp_path: Path) -> None:
    """Three unequal stages x 2: every pass of the schedule, in its order, no shorter than said; the
    report's reader and the picture take it."""
    lengths = ("--forward", "15,12,18", "--backward-input", "15", "--backward-weight", "12")
    done = rehearse(str(tmp_path / "all"), "--case", "3x2:4", "--steps", "2", "--anyway", *lengths)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "all/table.md").read_text()
    assert text == done.stdout
    took = Durations((0.015, 0.012, 0.018), 0.015, 0.012)
    lines = text.splitlines()
    predicted = [line.split("|")[1].strip() for line in lines[-2:]]
    assert predicted == ["1f1b", "zb-h1 (learnt from)"]
    for line, name in zip(lines[2:4], ("1f1b", "zb-h1"), strict=True):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[:4] == [name, "3", "4", "15,12,18:15:12"]
        message = float(cells[4]) / 1e3
        assert message > 0
        computed = bubble(name, 3, 4, took)
        assert float(cells[5].split()[0]) >= 100 * computed - 0.1, "messages only add"

        run = Run.load(tmp_path / f"all/pp3-m4-{name}")
        assert run.facts.recipe["parallel"]["schedule"] == name
        assert run.metrics.step.tolist() == [1, 2]
        (events,) = run.events.values()
        assert events.world_size == 6
        for rank in range(6):
            mine = events.rows[(events.rows["rank"] == rank) & (events.rows["step"] == 2)]
            mine = np.sort(mine, order="begin_ns")
            passes = mine[np.isin(mine["kind"], PASSES)]
            plan = [i for i in SCHEDULES[name](3, 4, rank // 2) if i.action in KIND]
            assert passes["kind"].tolist() == [KIND[i.action] for i in plan]
            assert passes["micro_batch"].tolist() == [i.micro_batch for i in plan]
            assert (mine["kind"] == Kind.GRADIENT_REDUCE).any(), "two replicas reduce"
            lasted = mean_lengths(passes)
            whole = 0.015 if name == "zb-h1" else 0.027
            # A rank may wake early by what it has learnt to be late.
            assert lasted[Kind.BACKWARD] > 0.8 * whole
    picture = tmp_path / "picture.png"
    runs = sorted(str(path) for path in (tmp_path / "all").glob("pp3-*"))
    assert comparison.main([*runs, "--output", str(picture)]) == 0
    assert picture.stat().st_size > 10_000


@pytest.mark.distributed
def test_passes_shorter_than_fifty_messages_are_refused(tmp_path: Path) -> None:
    done = rehearse(str(tmp_path / "all"), "--case", "2x1:2", "--forward", "0.001")
    assert done.returncode == 1
    assert "0.001 ms, less than 50 messages of" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--case", "12:8"], "PIPELINExDATA:MICRO_BATCHES"),
        (["--case", "1x2:8"], "two stages or more"),
        (["--forward", "0"], "must be greater than 0"),
        (["--forward", "1,2", "--case", "3x1:2"], "2 lengths are given for 3 stages"),
        (["--steps", "1"], "at least 2"),
    ],
)
def test_bad_requests(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    done = rehearse(str(tmp_path / "all"), *arguments)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert not (tmp_path / "all").exists()


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    done = rehearse(str(tmp_path))
    assert done.returncode == 1
    assert "exists" in done.stderr
