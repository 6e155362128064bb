"""Published steps and layers: errors within stated bounds, and what they hang on."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from alpenglow.parallel import validation
from alpenglow.parallel.comparison import Row, Table, percentile
from alpenglow.parallel.framework import DEEPSPEED, MEGATRON_2021, MEGATRON_DEEPSPEED
from alpenglow.parallel.published_runs import SOURCES, predict, records, steps
from alpenglow.parallel.validation import held_out, layers, main
from alpenglow_analysis.calibration import UNCALIBRATED

PEER = 0.0365
"""calculon's mean error on its own table of eight (its `llm-validation`, commit caa4b11)."""


@pytest.mark.parametrize(
    ("name", "points", "mean", "worst"),
    [
        # Measured runs of one layout repeat within a per cent or two; interleaving and micro-batch
        # sizes of Table 1 are those of scripts published later, of which one row may differ.
        ("narayanan2021_table1", 10, 0.03, 0.08),
        ("narayanan2021_table2", 6, PEER, 0.05),
        ("korthikanti2022_table5", 8, PEER, 0.05),
        # Slow ranks at 8,192 and more are not in the model, and attention's kernel is not stated.
        ("jiang2024_table2", 8, 0.045, 0.08),
        # One efficiency for an engine whose losses are not known: they grow with the replicas.
        ("smith2022", 3, 0.05, 0.08),
        # The trials' own repeats differ by 3 to 6 %; four rows by a fifth, for no stated reason.
        ("bigscience2022_before", 52, 0.07, 0.18),
        ("bigscience2022_after", 44, 0.08, 0.26),
        ("bigscience2022_balanced", 19, 0.07, 0.13),
        ("black2022", 1, 0.16, 0.16),
        # The network reached a quarter of its ports' rate, and repeats differ by 40 %.
        ("bigscience2021_v100", 16, 0.16, 0.37),
        ("bigscience2021_v100_deepspeed", 4, 0.21, 0.23),
        ("dao2022_gpt3", 5, 0.08, 0.17),
        # Seven rows whose weights and optimizer nearly fill the memory are 15 to 41 % slower than
        # predicted, three others for no stated reason.
        ("mpt_a100", 55, 0.06, 0.38),
        ("mpt_a100_40gb", 78, 0.07, 0.43),
    ],
)
def test_published_steps(name: str, points: int, mean: float, worst: float) -> None:
    table = steps(name)
    assert len(table.rows) == points
    assert table.mean < mean, str(table)
    assert abs(table.worst.error) < worst, str(table)


def test_every_source_is_in_the_table_above() -> None:
    marks = test_published_steps.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == set(SOURCES)


def test_the_interval_of_a_plan_covers_what_was_held_out() -> None:
    found = [*(steps(name) for name in SOURCES), *validation.megatron_2019()]
    kept = held_out(found)
    errors = [abs(row.error) for table in kept for row in table.rows]
    assert len(errors) >= 290
    # Not wider than it need be either.
    assert UNCALIBRATED - 0.02 < percentile(errors, 0.9) <= UNCALIBRATED
    assert f"{len(errors)} steps that set no constant" in validation.spread(found)


def test_the_engines_loss_is_that_of_runs_that_set_nothing() -> None:
    """None of them was as fast as the ideal; at the engine's efficiency they lie on both sides."""
    slower: dict[float, list[float]] = {}
    for how in (replace(MEGATRON_DEEPSPEED, efficiency=1.0), MEGATRON_DEEPSPEED):
        for name in ("bigscience2022_before", "bigscience2022_after", "bigscience2022_balanced"):
            source = replace(SOURCES[name], how=how)
            for record in records(name):
                share = float(record["published"]) / predict(record, source).seconds - 1
                slower.setdefault(how.efficiency, []).append(share)
    assert min(slower[1.0]) > 0
    assert abs(percentile(slower[DEEPSPEED.efficiency], 0.5)) < 0.05
    assert DEEPSPEED.efficiency == MEGATRON_DEEPSPEED.efficiency


def test_percentiles_and_signs() -> None:
    assert [percentile((3, 1, 2, 4), share) for share in (0.05, 0.5, 0.75, 1.0)] == [1, 2, 3, 4]
    # Twice as long as predicted, in seconds and as a rate.
    long = Table("", "seconds", (Row("", 2.0, 1.0),))
    slow = Table("", "TFLOP/s", (Row("", 1.0, 2.0),))
    assert long.slower == slow.slower == (1.0,)
    assert (long.bias, slow.bias) == (-0.5, 1.0)


def test_another_machine_and_another_split() -> None:
    assert abs(validation.bloom().worst.error) < 0.08


def test_published_layers() -> None:
    table = layers()
    assert table.mean < 0.03 and abs(table.worst.error) < 0.05, str(table)


def test_v100_runs_of_2019_show_what_is_missing() -> None:
    base, weak, strong = validation.megatron_2019()
    assert abs(base.worst.error) < 0.10
    # About 0.2 s a step beyond one GPU, in weak and in strong scaling alike, is in no part of the
    # model: predictions are too good, and that is said rather than fitted away.
    assert 0 < weak.bias < 0.12
    assert strong.bias > 0.2


def test_no_row_alone_sets_the_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving any row of Table 1 out moves its mean error by less than a per cent of speed."""
    table = steps("narayanan2021_table1")
    for left in range(len(table.rows)):
        rest = Table("", "", table.rows[:left] + table.rows[left + 1 :])
        assert abs(rest.bias - table.bias) < 0.01
    slower = replace(SOURCES["narayanan2021_table1"], how=replace(MEGATRON_2021, efficiency=0.85))
    monkeypatch.setitem(SOURCES, "narayanan2021_table1", slower)
    assert steps("narayanan2021_table1").mean > table.mean


@pytest.mark.parametrize("name", [*SOURCES, "deepbench_v100_fp16"])
def test_every_file_names_its_source(name: str) -> None:
    first = (validation.FOLDER / f"{name}.csv").read_text().splitlines()[0]
    assert first.startswith("# ") and ("arXiv" in first or "/" in first)
    assert records(name)


def test_all_of_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    found = [steps("korthikanti2022_table5"), steps("smith2022"), *validation.products()[1:]]
    main([], found)
    out = capsys.readouterr().out
    assert "530B 280 GPUs selective" in out and "columns: published, predicted, error" in out
    assert out.count("points: mean") == 5
    main(["--csv"], found)
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(lines) == 8 + 3 + 76
    first = lines[0]
    error = float(first["predicted"]) / float(first["published"]) - 1
    assert float(first["error"]) == pytest.approx(error, abs=1e-4)
    assert {line["set by it"] for line in lines} == {
        "the A100's sustained",
        "MEGATRON_DEEPSPEED's efficiency",
        "the V100's [gpu]",
    }
    main(["--markdown"], [*found, steps("narayanan2021_table2")])
    page = capsys.readouterr().out
    assert "nothing: held out" in page and "6 steps that set no constant" in page
    assert page.count("\n## ") == 4 and "| 530B 280 GPUs selective | 37.83 |" in page
