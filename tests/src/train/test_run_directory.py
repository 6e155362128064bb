"""run.toml says what a run is; metrics and progress survive a kill."""

from __future__ import annotations

import copy
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from alpenglow.config import ConfigError
from alpenglow.train.run_directory import Metrics, RunDirectory, code_version

TABLES: dict[str, Any] = {
    "run": {"name": "r"},
    "data": {"catalogue": "c.json", "fingerprint": "aa", "tokenizer_hash": "t1"},
    "layout": {"data": 2},
    "recipe": {
        "model": {"num_layers": 2},
        "batch": {"global_batch_size": 8, "micro_batch_size": 2},
        "parallel": {"pipeline": 2},
        "data": {"seed": 1},
        "train": {"steps": 10, "log_every": 1},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    tables = copy.deepcopy(TABLES)
    table = tables
    *parents, key = path.split(".")
    for parent in parents:
        table = table[parent]
    table[key] = value
    return tables


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "r", "7.1")


def test_a_run_is_described_once(run: RunDirectory) -> None:
    run.describe(TABLES)
    run.describe(changed("layout.data", 4))
    assert tomllib.loads((run.path / "run.toml").read_text())["layout"] == {"data": 2}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("recipe.batch.micro_batch_size", 4),
        ("recipe.batch.global_batch_size", 7),
        ("recipe.parallel.pipeline", 1),
        ("recipe.data.documents", "joined"),  # what a run of before the key did
        ("recipe.data.validation_samples", 5),
    ],
)
def test_the_layout_may_change(run: RunDirectory, path: str, value: int) -> None:
    run.describe(TABLES)
    run.describe(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("data.fingerprint", "bb", r"on a catalogue of fingerprint aa, and c\.json is of bb: name"),
        ("data.tokenizer_hash", "t2", r"on shards of tokenizer t1, and c\.json is of t2: name the"),
        ("recipe.data.documents", "masked", r"documents = 'joined', this recipe says 'masked'"),
        ("recipe.data.validation_fraction", 0.1, r"fraction = 0.0, this recipe says 0.1"),
        ("recipe.model.num_layers", 3, r"model.num_layers = 2, this recipe says 3"),
        ("recipe.train.steps", 20, r"train.steps = 10, this recipe says 20"),
        ("recipe.train.tokens", 99, r"train.tokens = None, this recipe says 99"),
    ],
)
def test_another_run_is_refused(run: RunDirectory, path: str, value: object, sentence: str) -> None:
    run.describe(TABLES)
    with pytest.raises(ConfigError, match=sentence):
        run.describe(changed(path, value))


def test_half_a_line_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step":1}\n{"st')
    metrics = Metrics(path)
    metrics.append(step=2)
    metrics.close()
    metrics = Metrics(path)
    metrics.append(step=3)
    metrics.close()
    assert path.read_text() == '{"step":1}\n{"st\n{"step":2}\n{"step":3}\n'


def test_segments_without_a_scheduler_are_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALPENGLOW_RUN", raising=False)
    monkeypatch.delenv("ALPENGLOW_SEGMENT", raising=False)
    assert RunDirectory.of_environment(Path("jobs/x.toml")).path == Path("runs/x")
    first = RunDirectory.of_environment(Path("x.toml"), tmp_path)
    assert first.segment == "local.1"
    first.report(last_step=3)
    assert RunDirectory.of_environment(Path("x.toml"), tmp_path).segment == "local.2"
    monkeypatch.setenv("ALPENGLOW_RUN", str(tmp_path / "named"))
    monkeypatch.setenv("ALPENGLOW_SEGMENT", "12.1")
    assert RunDirectory.of_environment(Path("x.toml")) == RunDirectory(tmp_path / "named", "12.1")


def test_the_code_has_a_version() -> None:
    assert code_version().startswith("0.")


def test_the_last_segments_say_how_long_a_save_takes(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path, "9.1").measured() is None
    for number in range(8):
        run = RunDirectory(tmp_path, f"{number}.1")
        run.report(save_s=100.0 - number, drain_s=float(number))
        path = tmp_path / f"segments/{number}.1.rank0.json"
        os.utime(path, (number, number))
    RunDirectory(tmp_path, "8.1").report(save_s=None, drain_s=None)
    (tmp_path / "segments/9.1.rank0.json").write_text("half a")
    # The last five: 5 to 9, of which the last two tell nothing.
    assert RunDirectory(tmp_path, "10.1").measured() == (95.0, 7.0, 0.0)
    assert RunDirectory(tmp_path, "10.1").stop == tmp_path / "STOP"
