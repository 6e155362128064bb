"""Reports on runs that came back damaged: they name what is missing, and their sums still hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from damaged_runs import DAMAGES

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_analysis.writing import build


def make(path: Path) -> Path:
    spec = Synthetic(
        Layout(2, 1, 4), 4, (Segment(1, 8, reason="more to do"), Segment(9, 12)),
        ranks_per_node=2, form="nodes",
    )  # fmt: skip
    return spec.write(path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_has_a_report_that_says_so(damage: str, tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    sentence = DAMAGES[damage](run)
    folder = build(run).parent
    told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    rows = told["account"]["rows"]
    assert sum(row["ns"] for row in rows[:-1] if not row["part"]) == rows[-1]["ns"]
    html = (folder / "index.html").read_text(encoding="utf-8")
    if sentence is not None:
        assert any(sentence in text for text in told["missing"])
        assert 'href="#missing"' in html, "the first screen says that something is missing"
    lost = next((row for row in rows if row["key"] == "unrecorded"), None)
    if lost is not None:
        assert any("left no events: it is in the sum" in text for text in told["missing"])


def test_a_run_whose_jobs_left_nothing(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    for folder in ("events", "samples"):
        for file in (run / folder).rglob("*.*"):
            if file.is_file():
                file.unlink()
    (run / "metrics.jsonl").unlink()
    told = json.loads((build(run).parent / "report.json").read_text(encoding="utf-8"))
    assert {row["key"] for row in told["account"]["rows"]} == {"unrecorded", "compute", "charged"}
    assert told["rates"] == []
    assert not {"what_if", "efficiencies", "stragglers", "slow"} & set(told)
    assert any("No whole step" in text for text in told["missing"])
