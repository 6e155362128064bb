"""The cost of the whole job: sizes, rates, and what more nodes or slower cores do to it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from alpenglow.data.bench_stages import main as bench_stages
from alpenglow.data.bench_workers import Timed, report
from alpenglow.data.bench_workers import main as bench_workers
from alpenglow.data.cost import (
    Workplace,
    estimate,
    lines,
    loads,
    main,
    node_counts,
    smallest,
)
from alpenglow.data.cost_rates import Rates
from alpenglow.data.cost_volumes import STEPS, moved, size, sizes
from alpenglow.data.document import DataError
from alpenglow.data.recipe import SLICES
from alpenglow.data.stage_functions import STAGES
from alpenglow.data.tokenizer import Tokenizer
from alpenglow_lsf.machine import load

PLACE = Workplace(load("summit"), 42, 0.9, 1.0, 250e9)


def stages(path: Path, **rates: dict[str, float]) -> Path:
    """A file as bench_stages writes it."""
    tables = {
        "format": "alpenglow-data-stages",
        "version": 1,
        "hardware": "a core",
        "rates": {s: {n: {"median": v} for n, v in by.items()} for s, by in rates.items()},
    }
    path.write_text(json.dumps(tables))
    return path


def test_text_becomes_less_from_stage_to_stage_and_every_size_has_a_source() -> None:
    for name in SLICES:
        text, stored, left, kept = (
            size(name, what).bytes for what in ("text", "stored", "left", "kept")
        )
        assert text >= stored >= left >= kept > 0
        # Raw input is compressed, except that arXiv's holds figures too.
        assert size(name, "disk").bytes < text or name == "arxiv"
    assert all(each.source for each in sizes().values())


def test_core_hours_are_bytes_over_rates() -> None:
    found = lines(Rates.load())
    assert len(found) == sum(len(step.slices) for step in STEPS)
    (line,) = [
        each for each in found if (each.step.stage, each.slice) == ("tokenise", "commoncrawl")
    ]
    assert line.core_hours == pytest.approx(
        size("commoncrawl", "left").bytes / (line.rate.value * 1e6) / 3600
    )
    (total, _) = (sum(column) for column in zip(*loads(found), strict=True))
    assert total == pytest.approx(sum(each.core_hours for each in found))


def test_a_rate_is_the_slices_own_then_of_others_then_the_tables(tmp_path: Path) -> None:
    path = stages(
        tmp_path / "s.json",
        tokenise={"github": 20.0, "books": 10.0, "c4": 12.0},
        read={"github": 100.0},
    )
    rates = Rates.load(path)
    assert (rates.of("tokenise", "github").value, rates.of("tokenise", "github").own) == (20, True)
    middle = rates.of("tokenise", "arxiv")
    assert (middle.value, middle.own) == (12.0, False)
    assert "median of github, books, c4" in middle.source
    # A reader of code says nothing of a reader of Wikipedia.
    assert rates.of("read", "wikipedia").value == Rates.load().of("read", "wikipedia").value
    with pytest.raises(DataError, match="no rate of dreaming for c4"):
        rates.of("dreaming", "c4")


def test_half_the_speed_is_twice_the_hours_and_files_bound_many_nodes() -> None:
    steps = loads(lines(Rates.load()))
    free = dataclasses.replace(PLACE, file_system=None)
    one, slow = estimate(steps, free, 46), estimate(steps, dataclasses.replace(free, speed=0.5), 46)
    assert slow.hours == pytest.approx(2 * one.hours, rel=1e-6)
    assert one.node_hours == pytest.approx(estimate(steps, free, 92).node_hours, rel=1e-3)
    many = estimate(steps, PLACE, 4608)
    bytes_moved = sum(moved_bytes for _, moved_bytes in steps)
    assert many.hours >= bytes_moved / 250e9 / 3600
    assert many.bound_by_files > 0
    assert many.node_hours > one.node_hours
    assert sum(moved(step, name) for step in STEPS for name in step.slices) == bytes_moved


def test_jobs_are_of_the_bins_walltime() -> None:
    steps = [(42 * 0.9 * 45 * 5.0, 0.0)]  # five hours of 45 nodes
    found = estimate(steps, PLACE, 45)
    assert found.bin is not None
    assert found.hours == pytest.approx(5.0)
    assert (found.bin.hours, found.jobs) == (2, 3)
    one = smallest(steps, PLACE)
    assert one is not None
    assert one.nodes == 46  # the next bin gives six hours
    assert node_counts(PLACE.machine) == [45, 91, 921, 2764, 4608]
    assert smallest([(1e12, 0.0)], PLACE) is None


def test_the_command_prints_costs_and_what_was_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stages(tmp_path / "s.json", signals=dict.fromkeys(SLICES, 1e-3))
    assert main(["--stages", str(path), "--nodes", "512"]) == 0
    said = capsys.readouterr().out
    first = said.split("largest costs\n")[1].split()
    assert first[:2] == ["signals", "commoncrawl"]
    assert "measured on a core" in said
    assert "rate of signals" not in said.split("not measured here")[1]
    assert "commoncrawl, text: 125 TB: arXiv 1911.00359" in said
    (row,) = [line for line in said.splitlines() if line.split()[:1] == ["512"]]
    assert "x 12 h" in row


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--machine", "nowhere"], "machine nowhere"),
        (["--nodes", "5000"], "5000 nodes: summit has 4608"),
        (["--stages", "absent.json"], "absent.json: cannot be read"),
        (["--stages", "cut.json"], "cut, or not written by bench_stages"),
        (["--stages", "zero.json"], "tokenise of c4 has no rate above 0"),
        (["--stages", "other.json"], "this reads alpenglow-data-stages 1"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cut.json").write_text('{"format": "alpenglow-data-stages", "version": 1')
    Path("other.json").write_text('{"format": "else", "version": 1}')
    stages(Path("zero.json"), tokenise={"c4": 0.0})
    assert main(words) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["--nodes", "0"], ["--efficiency", "1.5"], ["--core-speed", "-1"]]
)
def test_wrong_usage_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 2


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books and C4 of some kilobytes, and a tokenizer trained on them."""
    folder = tmp_path_factory.mktemp("raw")
    texts = [
        "\n".join(f"The lamp of house {n} was seen from hill {i}." for i in range(50))
        for n in range(8)
    ]
    (folder / "books").mkdir()
    for number, text in enumerate(texts):
        (folder / "books" / f"{number}.txt").write_text(text)
    (folder / "c4").mkdir()
    rows = [
        json.dumps({"text": text, "url": f"https://a.invalid/{i}"}) for i, text in enumerate(texts)
    ]
    (folder / "c4" / "a.jsonl").write_text("\n".join(rows))
    (folder / "tokenizer.json").write_text(Tokenizer.train(texts, 300).json)
    return folder


def test_measured_stages_are_what_the_cost_reads(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every stage of this room runs on real input; those of absent modules say so."""
    written = tmp_path / "stages.json"
    words = [str(raw), "--tokenizer", str(raw / "tokenizer.json"), "--rounds", "2"]
    assert bench_stages([*words, "--write", str(written)]) == 0
    said = capsys.readouterr().out
    found = json.loads(written.read_text())
    assert found["input"]["books"]["documents"] == 8
    for stage in ("read", "store", "load", "filters", "tokenise", "shards"):
        assert set(found["rates"][stage]) == {"books", "c4"}
    assert found["rounds"] == 2
    for stage in STAGES:
        assert stage in found["rates"] or f"{stage}: not measured: " in said
    rates = Rates.load(written)
    assert rates.of("shards", "c4").own
    assert len(lines(rates)) == len(lines(Rates.load()))
    assert list(tmp_path.iterdir()) == [written]


def test_a_folder_without_slices_is_one_sentence(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tokenizer", str(raw / "tokenizer.json")]
    assert bench_stages([str(tmp_path), *words]) == 1
    assert "holds no folder with the name of a slice" in capsys.readouterr().err
    (tmp_path / "books").mkdir()
    assert bench_stages([str(tmp_path), *words]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_whole_pipelines_in_turn_make_equal_files(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'[slices.books]\ninput = "{raw / "books"}"\n[tokenizer]\norigin = "file"\n'
        f'file = "{raw / "tokenizer.json"}"\n[cluster]\nprotocol = "tcp"\n'
    )
    words = [str(recipe), "--workers", "1", "--rounds", "2", "--scratch", str(tmp_path)]
    assert bench_workers(words) == 0
    said = capsys.readouterr().out
    assert "files of all 2 runs are equal" in said
    assert "2 interleaved rounds" in said
    assert list(tmp_path.iterdir()) == [recipe]
    assert bench_workers([*words, "slices.books.mode=other"]) == 1
    assert capsys.readouterr().err.startswith("bench_workers: ")


def test_efficiency_of_workers_and_files_that_differ() -> None:
    files = {"a.h5": "1", "catalogue.json": "2"}
    runs = [
        Timed(1, 1.0, 10.0, files, 50_000_000),
        Timed(2, 1.0, 6.25, files, 50_000_000),
        Timed(2, 1.0, 6.25, files, 50_000_000),
        Timed(1, 1.0, 10.0, files, 50_000_000),
    ]
    said, equal = report(runs)
    assert equal
    assert said.splitlines()[3].split()[-3:] == ["8.00", "1.60", "80.0%"]
    other = dataclasses.replace(runs[1], files={**files, "a.h5": "3"})
    said, equal = report([runs[0], other])
    assert not equal
    assert said.endswith("files differ between runs: a.h5")
