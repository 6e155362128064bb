"""Scaling studies: what they measured, the laws fitted to them, and studies that are damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alpenglow_analysis.scaling_command import main
from alpenglow_analysis.scaling_example import MICRO_BATCHES, PIPELINE, WARM_UP, make
from alpenglow_analysis.scaling_fit import fits
from alpenglow_analysis.scaling_study import Point, Repeat, ScalingStudy, Series, StudyError


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("studies") / "example", steps=6)


@pytest.fixture
def copy(example: Path, tmp_path: Path) -> Path:
    shutil.copytree(example, tmp_path / "study")
    return tmp_path / "study"


def point(ranks: int, *seconds: float, micro_batches: int = 8, batch: int = 64) -> Point:
    repeats = tuple(Repeat(f"runs/{ranks}-{i}", 10, s, 0.1, 1.0) for i, s in enumerate(seconds))
    return Point(1, ranks, 1, 1, ranks, 1, micro_batches, batch, 2048, "1f1b", repeats)


def test_both_series_of_a_study_and_where_they_meet(example: Path) -> None:
    study = ScalingStudy.load(example)
    assert study.synthetic and not study.missing
    strong, weak = study.series
    assert [p.ranks for p in strong.points] == [p.ranks for p in weak.points] == [24, 48, 96, 192]
    assert {p.global_batch_size for p in strong.points} == {2 * MICRO_BATCHES * 8}
    assert {p.micro_batches for p in weak.points} == {MICRO_BATCHES}
    assert strong.points[-1] == weak.points[-1]
    # Runs of both series are charged once.
    runs = {r.run: r.node_hours for s in study.series for p in s.points for r in p.repeats}
    assert study.node_hours == sum(runs.values()) and len(runs) == 14
    for series in study.series:
        for each in series.points:
            slots = each.micro_batches + PIPELINE - 1
            assert each.bubble == pytest.approx((PIPELINE - 1) / slots)
            assert all(repeat.steps == 6 - WARM_UP for repeat in each.repeats)
            assert each.communication is not None and 0 < each.communication < 1
        assert series.efficiency(series.points[0]) == series.speedup(series.points[0]) == 1.0
    # Without jitter the schedule alone loses: m + p - 1 slots of m. Its share is Amdahl's.
    (amdahl, power) = fits(strong)
    slots = PIPELINE - 1
    assert amdahl.value == pytest.approx(slots / (64 + slots), abs=0.02)
    assert power.value > -0.9
    assert strong.efficiency(strong.points[-1]) == pytest.approx(75 / (8 * 19), rel=0.05)
    assert weak.efficiency(weak.points[-1]) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["strong", "weak"])
def test_fits_find_the_serial_share_within_its_interval(kind: str, share: float) -> None:
    dice = np.random.default_rng(1)

    def seconds(ranks: int) -> float:
        if kind == "strong":
            return 3.0 * (share + (1 - share) / ranks)
        return 3.0 / (1 - share + share / ranks)

    points = tuple(
        point(n, *(seconds(n) * np.exp(0.01 * dice.standard_normal(7)))) for n in (1, 2, 4, 8, 16)
    )
    fit = fits(Series(kind, points))[0]
    assert fit.interval is not None
    low, high = fit.interval
    assert low - 0.005 <= share <= high + 0.005
    assert high - low < 0.08
    assert fit.error < 0.03
    assert fit.seconds(4) == pytest.approx(seconds(4), rel=0.03)


def test_one_size_has_no_law_and_one_repeat_no_interval() -> None:
    assert fits(Series("strong", (point(1, 2.0),))) == []
    found = fits(Series("strong", (point(1, 2.0), point(2, 1.2))))
    assert [fit.law for fit in found] == ["Amdahl", "log-linear"]
    assert all(fit.interval is None for fit in found)
    assert found[0].value == pytest.approx(0.2)


def test_bubble_by_schedule() -> None:
    whole = replace(point(8, 1.0), pipeline=4)
    assert whole.bubble == pytest.approx(3 / 11)
    # zb-h1 idles (p - 1)(F + B - W) a stage (Qi et al. 2023): with equal passes, p - 1 beside 3 m.
    assert replace(whole, schedule="zb-h1").bubble == pytest.approx(3 / 27)
    # Half the fill of 1F1B (Narayanan et al. 2021, section 2.2).
    assert replace(whole, schedule="interleaved-2").bubble == pytest.approx(1.5 / 9.5)
    assert point(8, 1.0).bubble == 0.0


def test_the_page_is_written_and_marks_what_is_synthetic(
    example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert main([str(example), "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "nProc  actual (s)  ideal (s)" in said
    assert "This study is synthetic" in said
    assert {p.name for p in tmp_path.iterdir()} == {
        "figures", "index.html", "scaling.json", "scaling.md",
    }  # fmt: skip
    value = json.loads((tmp_path / "scaling.json").read_text())
    assert value["synthetic"] is True
    assert [p["ranks"] for p in value["series"]["strong"]] == [24, 48, 96, 192]
    assert "predicted_seconds" not in value["series"]["strong"][0]
    assert "Synthetic" in (tmp_path / "index.html").read_text()
    assert "| nProc | actual (s) | ideal (s) |" in (tmp_path / "scaling.md").read_text()


def test_runs_that_are_missing_are_named_and_the_others_count(copy: Path) -> None:
    plan = json.loads((copy / "study.json").read_text())
    first, second = plan["sizes"][0]["runs"]
    shutil.rmtree(copy / first)
    (copy / second / "metrics.jsonl").write_text("")
    study = ScalingStudy.load(copy)
    assert [p.ranks for p in study.series[0].points] == [48, 96, 192]
    assert study.missing == (
        f"{first}: was not started",
        f"{second}: no step beyond its {WARM_UP} of warm-up",
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "no scaling study"),
        ("{", "not the plan of a study"),
        ('{"format": 9}', "form 9, this is 1"),
        ('{"format": 1, "sizes": []}', "no run of the study is whole"),
    ],
)
def test_folders_that_are_no_study(
    text: str | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(StudyError, match=sentence):
        ScalingStudy.load(tmp_path)
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "report").exists()
