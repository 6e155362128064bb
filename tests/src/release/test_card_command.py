"""`alpenglow release card`: a folder's card anew, and a data card of shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tomli_w
from huggingface_hub import DatasetCard
from release_card import EVALUATION, head, release, write_gguf_report

from alpenglow.release.__main__ import main
from alpenglow.release.cards.own_text import BEGIN, END
from alpenglow.release.hub.package import model_package
from alpenglow.release.released import Released


def test_a_card_is_rewritten_from_what_is_recorded_now(run: Path) -> None:
    folder = release(run)
    card = folder / "README.md"
    card.write_text(card.read_text().replace(BEGIN, f"{BEGIN}\nOurs."))
    assert main(["card", str(folder), "--license", "apache-2.0", "--language", "en"]) == 0
    weights = Released.load(folder).weights
    model = EVALUATION["model"] | {"weights": weights}
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION | {"model": model}))
    shutil.rmtree(run / "checkpoints")  # what it says of training is in the run's metrics, too
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20, "loss": 4.25, "tokens": 20480, "samples": 320}) + "\n")
    assert main(["card", str(folder)]) == 0
    text = card.read_text()
    data = head(text)
    assert (data["license"], data["language"]) == ("apache-2.0", ["en"])
    assert len(data["model-index"][0]["results"][0]["metrics"]) == 2
    assert f"{BEGIN}\nOurs.\n{END}" in text
    assert "| tokens | 20,480 |" in text.splitlines()
    assert "largest difference 1.2e-06 over 512 positions" in text
    assert "| parameters | 50,048 |" in text.splitlines()


def test_gguf_files_beside_the_release_are_told(run: Path) -> None:
    folder = release(run)
    write_gguf_report(run)
    assert main(["card", str(folder)]) == 0
    lines = (folder / "README.md").read_text().splitlines()
    assert "| `tiny-f16.gguf` | 100 B | 0.00037 | 0.01 | 250.5000 |" in lines
    assert "Compared by llama.cpp (0.3.36)." in lines


def test_an_evaluation_of_other_weights_is_left_out(run: Path) -> None:
    folder = release(run)
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    assert main(["card", str(folder)]) == 0
    text = (folder / "README.md").read_text()
    assert "0.2510" not in text
    assert "Unknown: no evaluation is recorded for this release." in text


def test_the_code_of_the_card_runs(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = release(run)
    text = (folder / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("The ")


def test_the_loss_is_drawn_where_there_is_enough_of_it(run: Path) -> None:
    folder = release(run)
    picture = folder / "assets" / "loss.png"
    assert main(["card", str(folder)]) == 0
    assert not picture.exists(), "two steps make no curve"
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(1, 41):
            line: dict[str, float | None] = {
                "step": step,
                "loss": 5.0 - step / 20,
                "tokens": step * 1024,
            }
            line |= {"val_loss": 4.5} if step % 10 == 0 else {"val_loss": None}
            file.write(json.dumps(line) + "\n")
    assert main(["card", str(folder)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in picture.parent.iterdir()] == ["loss.png"]
    assert (
        "![Training and validation loss by tokens](assets/loss.png)"
        in (folder / "README.md").read_text()
    )
    assert "assets/loss.png" in model_package(folder, None).files


def test_what_cannot_be_written_is_one_sentence(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = release(run)
    card = folder / "README.md"
    mine = "# By hand\n"
    for spoil, words in (
        (lambda: card.write_text(mine), "not a card of this command"),
        (lambda: (folder / "evaluation.json").write_text("{"), "evaluation.json: not JSON"),
        ((folder / "config.json").unlink, "config.json: missing: not a Hugging Face folder"),
    ):
        spoil()
        before = card.read_text()
        assert main(["card", str(folder)]) == 1
        said = capsys.readouterr().err
        assert words in said
        assert said.startswith("alpenglow release card: ")
        assert said.count("\n") == 1
        assert card.read_text() == before
        card.unlink()
        release(run) if not (folder / "config.json").exists() else card.write_text(BEGIN + END)
    assert main(["card", str(folder), "--language", "english"]) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["card"])


def prepared(run: Path) -> tuple[Path, Path]:
    """Shards of the tiny run, and a run directory of the job that would have prepared them."""
    shards, job = run.parents[1] / "shards", run.parent / "prepare"
    job.mkdir()
    fingerprint = json.loads((shards / "catalogue.json").read_text())["fingerprint"]
    facts = {
        "run": {"name": "prepare", "activity": "prepare", "created": "2026-11-25T10:00:00+00:00"},
        "data": {"catalogue": str(shards / "catalogue.json"), "fingerprint": fingerprint},
        "recipe": {
            "slices": {
                "github": {
                    "origin": "installed",
                    "mode": "faithful",
                    "presets": ["basic", "code"],
                    "thresholds": {"too short": {"least": 50}},
                    "mask": ["email"],
                    "max_bytes": 5_000_000,
                }
            },
            "signals": {"language": "en", "lines": True, "repetition": False},
            "tokenizer": {"origin": "train", "vocab_size": 300, "sample_bytes": 10_000},
        },
    }
    (job / "run.toml").write_text(tomli_w.dumps(facts))
    return shards, job


def test_a_data_card_of_shards_and_of_a_run(run: Path) -> None:
    shards, _ = prepared(run)
    assert main(["card", "--data", str(shards), "--language", "en"]) == 0
    assert main(["card", "--data", str(run), "--language", "en"]) == 0
    folder = run / "release" / "data_card"
    names = ["README.md", "catalogue.json", "ledger.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names[1:]:
        assert (folder / name).read_bytes() == (shards / name).read_bytes()
    text = (folder / "README.md").read_text()
    assert (shards / "data_card" / "README.md").read_text() == text
    data = DatasetCard.load(folder / "README.md").data.to_dict()
    assert data["task_categories"] == ["text-generation"]
    assert data["size_categories"] == ["n<1K"]
    assert data["language"] == ["en"]
    assert data["license"] == "apache-2.0", "all documents have it"
    lines = text.splitlines()
    catalogue = json.loads((shards / "catalogue.json").read_text())
    tokens = f"{catalogue['tokens']:,}"
    source = "packages of the Python that prepared it"
    for line in (
        f"| fingerprint (slices, files, lengths) | `{catalogue['fingerprint']}` |",
        "| prepared by recipe | `r` |",
        "| github | too short | 1 | 5 B | - |",
        "| github | Apache-2.0 | 2 | 200 |",
        "| github | basic, code | too short: least 50 | email | 5 MB |",
        "| tokenizer | byte-level BPE, trained: 300 tokens from 10 kB of this text |",
        "Not prepared: books (no raw files).",
    ):
        assert line in lines, line
    row = next(line for line in lines if line.endswith(f"| faithful | {source} |"))
    assert f"| {tokens} | 100.0% |" in row
    assert "alpenglow data remove shards --url" in text
    assert str(run.parents[1]) not in text, "folders of this machine are no business of readers"


def test_a_data_card_without_the_job_says_unknown(run: Path) -> None:
    shards = run.parents[1] / "shards"
    (shards / "ledger.json").unlink()
    assert main(["card", "--data", str(shards)]) == 0
    text = (shards / "data_card" / "README.md").read_text()
    assert "Unknown: the run directory of the job" in text
    assert "Unknown: no ledger lies beside the catalogue." in text
    assert "\nlicense: unknown\n" in text


def test_a_data_card_of_other_data_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, job = prepared(run)
    assert main(["card", "--data", str(tmp_path)]) == 1
    assert "no catalogue of shards" in capsys.readouterr().err
    path = job / "run.toml"
    path.write_text(path.read_text().replace("fingerprint = ", "fingerprint = 'x'\nwas = "))
    assert main(["card", "--data", str(shards), "--run", str(job)]) == 1
    assert "no such fingerprint" in capsys.readouterr().err
    assert not (shards / "data_card").exists()
