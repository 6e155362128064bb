"""Schedules side by side; the bubble of theory is that of a run which nothing else makes wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.timeline import Durations, bubble
from alpenglow_analysis import comparison, style
from alpenglow_analysis.bubble import ideal_bubble, in_words, schedule_name
from alpenglow_analysis.findings import findings
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import rates
from alpenglow_analysis.synthetic import Segment, Synthetic
from alpenglow_analysis.utilisation import account


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("schedules")
    made = []
    for name, backward in (("1f1b", 70_000_000), ("zb-h1", 40_000_000)):
        spec = Synthetic(
            Layout(6, 1, 2), 8, (Segment(1, 3),), schedule=name, backward=backward, tensor_reduce=0
        )
        made.append(Run.load(spec.write(folder / name)))
    return made


def test_what_a_run_idles_is_what_its_schedule_does(runs: list[Run]) -> None:
    took = {"1f1b": Durations(3, 7, 0), "zb-h1": Durations(3, 4, 3)}
    for run, name in zip(runs, took, strict=True):
        assert schedule_name(run) == name
        computed = bubble(name, 6, 8, took[name])
        assert ideal_bubble(run, 8) == pytest.approx(computed)
        _, measured = comparison.median_step(
            run, [run.facts.layout.rank(s, 0, 0) for s in range(6)]
        )
        assert measured == pytest.approx(computed)


def test_the_report_names_the_schedule(runs: list[Run]) -> None:
    assert in_words(runs[0], 8) == "(p - 1) / (m + p - 1) = 5/13 = 38.5 %"
    for run, name in zip(runs, ("1F1B", "ZB-H1"), strict=True):
        where = account(run)
        found = rates(run, where)
        (ideal,) = (rate for rate in found if rate.key == "schedule")
        assert ideal.label == f"Ideal, {name} schedule"
        compute = next(rate for rate in found if rate.key == "compute")
        assert ideal.tokens_per_s == pytest.approx(
            compute.tokens_per_s * (1 - ideal_bubble(run, 8))
        )
        said = next(text for text in findings(run, where, found) if "By theory" in text)
        assert f"{name} with 6 stages and 8 micro-batches idles {in_words(run, 8)}" in said


def test_the_picture(runs: list[Run], tmp_path: Path) -> None:
    """Both parts have one scale; every pass of the shown ranks is a box."""
    with style.settings():
        made = comparison.comparison(runs)
    parts = made.get_axes()
    assert len({part.get_xlim() for part in parts}) == 1
    for part, passes in zip(parts, (2, 3), strict=True):
        labels = [text for text in part.texts if text.get_text().isdigit()]
        assert len(labels) == 6 * 8 * passes
    output = tmp_path / "both.png"
    assert comparison.main([*(str(run.path) for run in runs), "--output", str(output)]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")


def test_no_run_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert comparison.main([str(tmp_path / "none"), "--output", str(tmp_path / "x.png")]) == 1
    assert "no such run directory" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
