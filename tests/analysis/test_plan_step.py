"""`alpenglow plan step` and `plan compare`: one layout, tables of layouts, several machines."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from alpenglow.parallel.published_runs import steps as published_steps
from alpenglow_analysis import compare_command, step_command

SEVEN = "--model 7b --machine summit --nodes 512 --tensor 2"


def test_a_step_is_told_part_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert step_command.main([*SEVEN.split(), "--pipeline", "12"]) == 0
    said = capsys.readouterr().out
    assert "PP12 x TP2 x DP128" in said
    made = step_command.predict(
        step_command.parser().parse_args([*SEVEN.split(), "--pipeline", "12"])
    )
    assert sum(made.cost.parts().values()) == pytest.approx(made.cost.seconds)
    low, high = made.interval
    assert low < made.cost.seconds < high
    assert step_command.main([*SEVEN.split(), "--pipeline", "12", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["predicted_seconds"] == made.cost.seconds and value["fits"] is True
    assert len(value["memory"]) == 12


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--pipeline 13", "does not divide 3,072 GPUs; with tensor 2, the nearest that fits is "
                          "12 or 16"),
        ("--pipeline 40", "every stage needs one; the nearest that fits is 32"),
        ("--pipeline 12 --micro-batch 3", "micro-batches: the nearest that fits is 2 or 4"),
        ("--pipeline 12 --micro-batch 32", "micro-batches: the nearest that fits is 16"),
        ("--pipeline 12 --schedule 2f2b", "choose from 1f1b"),
        ("--pipeline 12 --schedule interleaved-3", "no 3 equal chunks"),
        ("--pipeline 12 --batch 100", "the nearest batch that fits is 128"),
    ],
)  # fmt: skip
def test_what_does_not_divide_says_the_nearest_that_does(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert step_command.main([*SEVEN.split(), *words.split()]) == 1
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_a_tensor_degree_that_divides_no_heads(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--model 7b --machine summit --nodes 512 --pipeline 12 --tensor 3"
    assert step_command.main(words.split()) == 1
    assert "num_attention_heads = 32; the nearest that fits is 2 or 4" in capsys.readouterr().err


def test_what_does_not_fit_the_memory_is_predicted_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "--model 7b --machine summit --nodes 512 --micro-batch 16 --pipeline 4 --tensor 2"
    assert step_command.main([*words.split(), "--batch", "6144"]) == 0
    assert "It does not fit: a rank of stage" in capsys.readouterr().out


PUBLISHED = """# three rows of Narayanan et al. 2021, Table 1
name,layers,hidden,heads,vocab,tied,gpus,batch,pipeline,tensor,micro-batch,no-overlap
3.6B,30,3072,32,51200,true,64,512,1,2,16,
39.1B,48,8192,64,51200,true,512,1536,2,8,4,true
"""
OPTIONS = [
    "--machine", "selene", "--framework", "megatron-2021", "--attention", "plain", "--loss",
    "plain", "--split", "even", "--sequence", "2048", "--recompute", "full",
]  # fmt: skip


def test_a_table_of_layouts_comes_back_with_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(PUBLISHED)
    assert step_command.main(["--csv", str(path), *OPTIONS]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows] == ["3.6B", "39.1B"]
    published = {row.name.split()[0]: row for row in published_steps("narayanan2021_table1").rows}
    for row in rows:
        # The command and the validation predict the same.
        ours = float(row["predicted_hardware_tflops_per_gpu"])
        assert ours == pytest.approx(published[row["name"]].predicted, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name\n", "a line of column names and a row are needed"),
        ("model,gpus,pipeline,batch\n7b,3072,13,2048\n", "line 2: pipeline 13"),
        ("# a note\n\nmodel,gpus,pipeline\n7b,64,2\n9b,8,1\n", "line 5: --model 9b"),
        ("model,pipeline\n7b,2\n", "line 2"),
    ],
)
def test_a_table_that_cannot_be_names_its_line(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    assert step_command.main(["--csv", str(path), "--machine", "summit"]) == 1
    assert sentence in capsys.readouterr().err


def compare(words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    assert compare_command.main([*words.split(), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    return {row["machine"]: row for row in value["machines"]}


SMALL = "--model layers=8,hidden=2048,heads=16 --batch 96"


def test_machines_are_compared_at_equal_gpus_nodes_or_peak(
    capsys: pytest.CaptureFixture[str],
) -> None:
    machines = "--machines summit,perlmutter,frontier,selene"
    rows = compare(f"{machines} {SMALL} --gpus 24", capsys)
    assert {r["gpus"] for r in rows.values()} == {24}
    assert next(iter(rows)) == "selene"
    rows = compare(f"{machines} {SMALL} --nodes 4", capsys)
    assert {name: r["gpus"] for name, r in rows.items()} == {
        "summit": 24, "perlmutter": 16, "frontier": 32, "selene": 32,
    }  # fmt: skip
    rows = compare(f"{machines} {SMALL} --peak 5e15", capsys)
    assert all(2.5e15 <= float(str(r["peak_flops"])) <= 10e15 for r in rows.values())


def test_a_machine_without_a_peak_is_told_and_the_others_compared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = compare(f"--machines summit,selene {SMALL} --dtype bf16 --gpus 24", capsys)
    assert "peak_flops.bf16" in str(rows["summit"]["why"])
    assert rows["selene"]["gpus"] == 24
    rows = compare(f"--machines laptop {SMALL} --nodes 2", capsys)
    assert list(rows) == ["laptop, as summit"]


def test_comparisons_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        (f"--machines nowhere {SMALL} --gpus 8", "machine nowhere: no file"),
        (f"--machines , {SMALL} --gpus 8", "names none"),
    ):
        assert compare_command.main(words.split()) == 1
        assert sentence in capsys.readouterr().err
    assert compare_command.main(["--machines", "summit", "--model", "7b", "--nodes", "9000"]) == 0
    assert "has 4,608 nodes, and 9,000 are asked for" in capsys.readouterr().out
