"""An allocation's runs added up, its burn and forecast, and the under-use dates."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpenglow.parallel.layout import Layout
from alpenglow_analysis.allocation import DAY, Allocation, seconds_of
from alpenglow_analysis.burn import Burn, burn, dues, forecast
from alpenglow_analysis.report import main
from alpenglow_analysis.run import Run
from alpenglow_analysis.synthetic import Segment, Synthetic

YEAR = Allocation(1000.0, datetime.date(2023, 1, 1), datetime.date(2023, 12, 31), "ABC", "INCITE")


def used_until(day: datetime.date, node_hours: float) -> Burn:
    """Evenly used from the beginning to a day."""
    return Burn(np.array([YEAR.begin_s, seconds_of(day)]), np.array([0.0, node_hours]))


@pytest.mark.parametrize(
    ("day", "used", "taken"),
    [
        (datetime.date(2023, 5, 1), 99, 0.30 * 901),
        (datetime.date(2023, 5, 1), 149, 0.15 * 851),
        (datetime.date(2023, 5, 1), 150, 0),
        (datetime.date(2023, 9, 1), 99, 0.75 * 901),
        (datetime.date(2023, 9, 1), 329, 0.50 * 671),
        (datetime.date(2023, 9, 1), 499, 0.33 * 501),
        (datetime.date(2023, 9, 1), 500, 0),
    ],
)
def test_under_use_takes_what_the_policy_says(
    day: datetime.date, used: float, taken: float
) -> None:
    at = seconds_of(day)
    (due,) = [row for row in dues(YEAR, used_until(day, used), at) if row.at_s == at]
    assert not due.forecast
    assert due.used == pytest.approx(used / 1000)
    assert due.taken == pytest.approx(taken)


def test_a_date_ahead_is_forecast_by_todays_rate() -> None:
    now = seconds_of(datetime.date(2023, 4, 1))
    found = used_until(datetime.date(2023, 4, 1), 90)
    may, september = dues(YEAR, found, now)
    assert may.forecast
    assert may.used == pytest.approx((90 + 30 * 1.0) / 1000)
    assert may.rule is not None
    assert may.needed == pytest.approx(60 / 30)
    assert september.needed == pytest.approx(410 / 153)
    seen = forecast(YEAR, found, now)
    assert seen.rate == pytest.approx(1.0)
    assert seen.at_end == pytest.approx(90 + 275)
    assert seen.exhausted_s is None
    assert seen.to_use_all == pytest.approx(910 / 275)
    fast = forecast(YEAR, used_until(datetime.date(2023, 4, 1), 900), now)
    assert fast.exhausted_s == pytest.approx(now + 10 * DAY)
    assert fast.at_end == pytest.approx(1000)


def test_burn_is_the_charge_spread_over_each_job(tmp_path: Path) -> None:
    run = Run.load(
        Synthetic(Layout(2, 1, 2), 4, (Segment(1, 9), Segment(10, 12)), ranks_per_node=2).write(
            tmp_path / "run"
        )
    )
    found = burn(run.segments)
    first, second = run.segments
    assert found.at(first.started) == 0
    middle = (first.started + first.ended) / 2
    assert found.at(middle) == pytest.approx(first.node_hours / 2)
    assert found.at(second.started) == pytest.approx(first.node_hours)
    assert found.at(second.ended + DAY) == pytest.approx(first.node_hours + second.node_hours)
    at_once = burn([first, first])
    assert at_once.at(middle) == pytest.approx(first.node_hours)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("allocation")
    segments = (Segment(1, 9, reason="more to do"), Segment(10, 14, killed=True), Segment(10, 20))
    paths = [
        Synthetic(Layout(2, 1, data), 4, segments, ranks_per_node=2).write(folder / f"dp{data}")
        for data in (2, 4)
    ]
    other = folder / "prepared"
    (other / "segments").mkdir(parents=True)
    record = json.loads((paths[0] / "segments" / "1001.0.json").read_text(encoding="utf-8"))
    record |= {"activity": "prepare_data", "nodes_asked": 7, "nodes_charged": 7}
    (other / "segments" / "900.0.json").write_text(json.dumps(record), encoding="utf-8")
    return [*paths, other]


def test_the_report_adds_runs_and_activities_up(runs: list[Path], tmp_path: Path) -> None:
    toml = tmp_path / "allocation.toml"
    toml.write_text(
        'name = "ABC123"\nnode_hours = 2\nstart = 2023-01-01\nuntil = 2023-12-31\n'
        'program = "INCITE"\nprice_per_node_hour = 3.0\n',
        encoding="utf-8",
    )
    words = ["--quarter", str(toml), *map(str, runs), "--now", "2023-12-01"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    told: dict[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert (told["format"], told["version"]) == ("alpenglow-quarter", 1)
    segments = [segment for path in runs[:2] for segment in Run.load(path).segments]
    trained = sum(segment.node_hours for segment in segments)
    activities = told["activities"]
    assert activities["pretrain"]["charged"]["value"] == pytest.approx(trained)
    whole = trained + activities["prepare_data"]["charged"]["value"]
    assert told["charged"]["value"] == pytest.approx(whole)
    assert sum(run["charged"]["value"] for run in told["runs"]) == pytest.approx(whole)
    assert told["allocation"]["used"]["value"] == pytest.approx(whole / 2)
    assert sum(piece["value"] for piece in told["pieces"].values()) == pytest.approx(trained)
    assert [row["forecast"] for row in told["allocation"]["under_use_dates"]] == [False, False]
    assert any("run.toml" in text for text in told["missing"])
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for word in ("ABC123", "1 May 2023", "1 September 2023", "under-utilization policy"):
        assert word in html
        assert word in text
    assert (tmp_path / "out" / "figures" / "burn.png").is_file()
    assert (tmp_path / "out" / "figures" / "burn.svg").is_file()


def test_a_period_counts_what_lies_in_it(runs: list[Path], tmp_path: Path) -> None:
    """Jobs of 14 and 15 November 2023; a job across midnight counts in part."""
    out = tmp_path / "out"
    found = []
    for day in ("2023-11-14", "2023-11-15"):
        words = ["--quarter", *map(str, runs[:2]), "--from", day, "--to", day]
        assert main([*words, "--output", str(out)]) == 0
        told = json.loads((out / "report.json").read_text(encoding="utf-8"))
        found.append(told["charged"]["value"])
        assert "allocation" not in told
    segments = [segment for path in runs[:2] for segment in Run.load(path).segments]
    assert sum(found) == pytest.approx(sum(segment.node_hours for segment in segments))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent"], "absent: no such run directory"),
        (["RUN", "RUN"], "would count twice"),
        (["RUN", "--allocation", "5"], "--allocation, --start and --until belong together"),
        (["RUN", "--allocation", "0", "--start", "2023-01-01", "--until", "2023-02-01"],
         "node_hours = 0.0: is not above 0"),
        (["RUN", "--allocation", "1", "--start", "2023-03-01", "--until", "2023-02-01"],
         "lies before start"),
        (["RUN", "--allocation", "1", "--start", "1 May", "--until", "2023-02-01"],
         "'1 May': a date is written as 2023-01-31"),
        (["RUN", "--from", "2023-05-01", "--to", "2023-04-01"], "ends before it begins"),
        (["TOML", "RUN"], "unknown key nodehours"),
        (["EMPTY"], "no job left a record"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_sentence(
    runs: list[Path],
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    toml, empty = tmp_path / "a.toml", tmp_path / "empty"
    toml.write_text("nodehours = 2\n", encoding="utf-8")
    empty.mkdir()
    real = {"RUN": str(runs[0]), "TOML": str(toml), "EMPTY": str(empty)}
    words = [real.get(word, word) for word in arguments]
    assert main(["--quarter", *words, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
