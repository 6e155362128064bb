"""report.json: its keys are a promise, its numbers those of the account."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpenglow.parallel.layout import Layout
from alpenglow_analysis import report_json
from alpenglow_analysis.quantity import plain
from alpenglow_analysis.run import Run
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_analysis.utilisation import account
from alpenglow_analysis.writing import build
from alpenglow_profiling.sample_log import HOST, SAMPLE, About, SampleLogFile


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = Synthetic(
        Layout(4, 1, 2), 8, (Segment(1, 12, reason="more to do"), Segment(13, 24)),
        ranks_per_node=2, gpus_per_node=2, peak_flops_per_rank=125e12, jitter=0.02,
    )  # fmt: skip
    return spec.write(tmp_path_factory.mktemp("json") / "run")


@pytest.fixture(scope="module")
def told(run_dir: Path) -> dict[str, Any]:
    folder = build(run_dir, price_per_node_hour=2.0).parent
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def test_every_key_is_documented(told: dict[str, Any]) -> None:
    assert (told["format"], told["version"]) == ("alpenglow-report", 1)
    documented = set(re.findall(r"\b[a-z_]+\b", report_json.__doc__ or ""))
    assert set(told) <= documented
    assert {"account", "rates", "summary", "what_if", "efficiencies", "stragglers"} <= set(told)


def test_rows_of_the_account_add_up(told: dict[str, Any], run_dir: Path) -> None:
    rows = told["account"]["rows"]
    pieces = [row for row in rows[:-1] if not row["part"]]
    whole, where = rows[-1], account(Run.load(run_dir))
    assert whole["ns"] == where.charged_ns
    assert sum(row["ns"] for row in pieces) == where.charged_ns
    assert set(told["account"]["columns"]) == {
        "ns", "share", "equivalents", "node_hours", "dollars",
    }  # fmt: skip
    for column in ("share", "equivalents", "node_hours", "dollars"):
        assert sum(row[column] for row in pieces) == pytest.approx(whole[column])
    parts = [row for row in rows if row["part"]]
    compute = next(row for row in rows if row["key"] == "compute")
    assert sum(row["ns"] for row in parts) == pytest.approx(compute["ns"])
    assert whole["dollars"] == pytest.approx(2 * told["summary"]["charged"]["value"])


def test_every_number_has_a_unit_and_a_baseline(told: dict[str, Any]) -> None:
    for name, number in told["summary"].items():
        assert set(number) == {"value", "unit", "baseline"}, name
        assert number["unit"], name
        assert number["baseline"], name
    for column in told["account"]["columns"].values():
        assert column["unit"]
        assert column["baseline"]
    for change in told["what_if"]:
        assert change["gain"]["baseline"] == "the same replay, unchanged"
    pop = told["efficiencies"]["pop"]
    assert pop["parallel"] == pytest.approx(pop["load_balance"] * pop["communication"])
    assert pop["communication"] == pytest.approx(pop["serialisation"] * pop["transfer"])


def test_what_is_not_finite_is_null() -> None:
    assert plain(float("nan")) is None
    assert plain(np.float64(2.5)) == 2.5
    assert json.dumps(plain(np.int64(3))) == "3"


def test_energy_is_that_of_the_samples(run_dir: Path, tmp_path: Path) -> None:
    """Two GPUs of each of four nodes at 200 W, from the start of the first job to its end."""
    run = Run.load(run_dir)
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    first = run.segments[0]
    seconds = np.arange(0, first.elapsed_ns / 1e9)
    for node in ("n000", "n001", "n002", "n003"):
        about = About(node, first.name, 1.0, 8)
        log = SampleLogFile(copy / "samples" / first.name / f"{node}.log", about)
        for device in (HOST, 0, 1):
            rows = np.zeros(len(seconds), SAMPLE)
            for name in SAMPLE.names or ():
                if rows.dtype[name].kind == "f":
                    rows[name] = np.nan
            rows["device"] = device
            rows["wall_ns"] = first.begin_ns + seconds * 1e9
            rows["monotonic_ns"] = rows["wall_ns"] - first.begin_ns
            if device != HOST:
                rows["power_w"] = 200.0
            log.write(rows)
        log.close()
    folder = build(copy).parent
    told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    joules = 8 * 200.0 * first.elapsed_ns / 1e9
    energy = told["summary"]["energy"]
    assert energy["unit"] == "MWh"
    assert energy["value"] == pytest.approx(joules / 3.6e9, rel=0.02)
    rows = told["account"]["rows"]
    pieces = [row["mwh"] for row in rows[:-1] if not row["part"]]
    assert sum(pieces) == pytest.approx(rows[-1]["mwh"])
    assert rows[-1]["mwh"] == pytest.approx(energy["value"])
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert 'aria-labelledby="power-caption"' in html
    assert "MWh" in html
    assert (folder / "figures" / "power.svg").is_file()
