"""The card: front matter that the Hub parses, facts of the run, and unknown for the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, metadata_load
from release_card import EVALUATION, card_of, head, write_report
from release_run import CONFIG, write_checkpoint

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.order import Order
from alpenglow.exchange.fragments import FragmentSource
from alpenglow.release.cards.front_matter import Publication, hub_licence, size_category
from alpenglow.release.cards.model_card import model_card
from alpenglow.release.cards.own_text import BEGIN, END
from alpenglow.release.error import ReleaseError
from alpenglow.release.record import RunRecord
from alpenglow.release.verification.verify import Verification
from alpenglow.train.checkpoint import Checkpoint

NAMES = [
    'tiny: a "test"',
    "- leading dash",
    "one\n---\ntwo",
    "zwei: 'drei' # é 日本 👀",
    "yes",
    "{a: b}",
    "1e3",
]


def test_the_front_matter_is_what_the_hub_reads(run: Path) -> None:
    data = head(card_of(run))
    assert data["license"] == "unknown"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert data["tags"] == ["gpt_neox", "causal-lm", "alpenglow"]
    assert data["model_name"] == 'tiny: a "test", step 20'
    assert "model-index" not in data


@pytest.mark.parametrize("name", NAMES)
def test_any_name_comes_back(run: Path, tmp_path: Path, name: str) -> None:
    said = Publication(name=name, licence=name, authors=(name,), languages=("de", "code"))
    path = tmp_path / "README.md"
    path.write_text(card_of(run, publication=said), encoding="utf-8")
    data = metadata_load(path)
    assert data is not None
    assert data["model_name"] == name
    assert data["authors"] == [name]
    assert data["license"] == "other"
    assert data["language"] == ["de", "code"]
    assert ModelCard.load(path).data.to_dict() == data
    heading = next(line for line in path.read_text().splitlines() if line.startswith("# "))
    assert heading == "# " + " ".join(name.split())
    # Written again without a word, it says the same; so does one whose results are in an index.
    again = card_of(run, former=path.read_text(encoding="utf-8"), evaluation=EVALUATION)
    assert head(again)["model-index"][0]["name"] == name
    third = head(card_of(run, former=again))
    assert (third["model_name"], third["authors"]) == (name, [name])


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY-SA 4.0", {"license": "cc-by-sa-4.0"}),
        ("My Own, v2", {"license": "other", "license_name": "my-own-v2"}),
    ],
)
def test_licences_are_the_hubs(run: Path, licence: str, fields: dict[str, str]) -> None:
    data = head(card_of(run, publication=Publication(licence=licence)))
    assert {key: data[key] for key in data if key.startswith("license")} == fields


def test_bad_words_of_a_publisher_are_refused() -> None:
    for wrong in ({"languages": ("english",)}, {"datasets": ("no owner",)}, {"licence": "-"}):
        with pytest.raises(ReleaseError):
            Publication(**wrong)
    assert hub_licence("GPL-2.0-only") is None
    assert [size_category(n) for n in (999, 1000, 10**12)] == ["n<1K", "1K<n<10K", "n>1T"]


@pytest.mark.parametrize(
    "line",
    [
        "| parameters | 50,048 |",
        "| residual | serial |",
        "| step | 20 of 20 |",
        "| tokens | 20,480 |",
        "| batch | 1,024 tokens a step: 16 sequences of 64 |",
        "| loss at this step | training 4.2500, validation 4.5000 (step 19) nats a token |",
        "| layout | pipeline 2 x tensor 2 x data 2 = 8 ranks |",
        "| learning rate | 0.001, cosine to 0.0001 at step 20; linear warm-up: unknown |",
        "| optimizer | AdamW, betas 0.9, 0.95, eps unknown, weight decay unknown, "
        "gradient norm clipped at unknown |",
        "| passed over | 1 steps (1 overflow of the loss scale) |",
        "| trained again | 1 steps, after restarts or spikes |",
        "| libraries | unknown |",
        "| jobs | 2 (1 more to do, 1 not closed) |",
        "| node-hours | 3.00 (1 of 2 jobs estimated: never closed) |",
        "| unknown | 1970-01-01 00:00 | 2 | 2.00 | unknown | unknown | more to do |",
        "| energy | unknown |",
        "| against the training model | not made |",
        "In the recipe but not in the catalogue: books (3).",
        "Not prepared: books.",
    ],
)
def test_facts_come_from_the_run(run: Path, line: str) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 19, "loss": 5.0, "val_loss": 4.5, "applied": False}) + "\n")
    lines = card_of(run).splitlines()
    # The line of step 20 that was written first counts as trained twice; so does step 19.
    expected = line.replace("1 steps, after", "2 steps, after")
    assert any(found == expected or found.endswith(expected) for found in lines), expected


def test_a_slice_is_accounted_for(run: Path) -> None:
    catalogue = Catalogue.load(run.parents[1] / "shards")
    order = Order.of(catalogue, {"github": 1.0}, sequence_length=64, seed=7)
    samples = 20 * 16
    epochs = order.epochs(samples)["github"]
    assert epochs > 1
    seen, held = f"{samples * 64:,}", f"{catalogue.tokens:,}"
    lines = card_of(run).splitlines()
    assert f"| github | 100.0% | {held} | 2 | {seen} | {epochs:.2f} |" in lines
    assert "| github | 3 | 2 (66.7%) | too short (1) | Apache-2.0 (2) |" in lines


def test_another_catalogue_tells_nothing(run: Path) -> None:
    path = run / "run.toml"
    fingerprint = Catalogue.load(run.parents[1] / "shards").fingerprint
    path.write_text(path.read_text().replace(fingerprint, "0" * 32))
    card = card_of(run)
    assert "Apache-2.0 (2)" not in card
    assert "| github | 25.0% | unknown | unknown | unknown | unknown |" in card.splitlines()


def test_a_changed_batch_is_told(run: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(run, 20, CONFIG))
    checkpoint.state["batches"] = {"first": 16, "changes": [[0, 0, 16], [8, 128, 12]]}
    card = model_card(RunRecord.load(run), FragmentSource(checkpoint), CONFIG, torch.float32, None)
    row = "| batch | 1,024 tokens a step: 16 sequences of 64; 768 from step 9 |"
    assert row in card.splitlines()


def test_removals_before_and_during_the_run(run: Path) -> None:
    for name, removals in (("1.1.json", 2), ("2.1.json", 5)):
        path = run / "segments" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": {"removals": removals}}))
    catalogue = run.parents[1] / "shards" / "catalogue.json"
    catalogue.write_text(json.dumps(json.loads(catalogue.read_text()) | {"removals": 6}))
    row = "| removals | 2 before training, 3 during it, 1 since |"
    assert row in card_of(run).splitlines()


def test_a_long_chain_is_told_by_reason(run: Path) -> None:
    for number in range(20):
        record = {"activity": "pretrain", "nodes_charged": 4, "started": 1e4, "ended": 13600.0}
        record |= {"reason": "failed" if number % 4 == 0 else "walltime"}
        (run / "segments" / f"{100 + number}.1.json").write_text(json.dumps(record))
    lines = card_of(run).splitlines()
    assert "| walltime | 15 | 60.00 |" in lines
    assert "| failed | 5 | 20.00 |" in lines
    assert "22 jobs from 1970-01-01 00:00 to 1970-01-01 03:46 UTC." in lines


def test_the_loss_scale_of_fp16(run: Path) -> None:
    path = run / "run.toml"
    path.write_text(path.read_text() + "\n[recipe.precision]\ninitial_scale_power = 12\n")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20, "loss": 4.25, "loss_scale": 8192.0}) + "\n")
    checkpoint = Checkpoint.open(write_checkpoint(run, 20, CONFIG))
    checkpoint.state["dtype"] = "fp16"
    card = model_card(RunRecord.load(run), FragmentSource(checkpoint), CONFIG, "float16", None)
    row = "| precision | fp16 with a dynamic loss scale (from 2^12, doubled after unknown without "
    assert row + "overflow; 8,192 at this step) |" in card.splitlines()


def test_the_report_tells_energy_and_idle_time(run: Path) -> None:
    write_report(run)
    lines = card_of(run).splitlines()
    assert "| energy | 12.3 kWh, of the GPUs alone (all jobs that were sampled) |" in lines
    start = lines.index("| **Forward and backward compute** (useful) | 50.0% | 4.00 |")
    assert lines[start + 1 : start + 4] == [
        "| Transfer of gradients | 30.0% | 2.40 |",
        "| Start-up | 20.0% | 1.60 |",
        "| Charged, the sum | 100.0% | 8.00 |",
    ]
    assert "| MFU | 31.4% | peak FLOP/s; 6 N a token |" in lines


def test_an_evaluation_names_its_implementations(run: Path) -> None:
    card = card_of(run, evaluation=EVALUATION)
    lines = card.splitlines()
    assert "| mmlu | helm | exact_match (strict) | 0.2430 | 5 | 14,042 |" in lines
    assert "| mmlu | whole answer | acc | 0.2740 | 5 | 500 of 14,042 (partial) |" in lines
    assert "| github | 16 | 1,024 | 5.5000 | 244.69 | unknown |" in lines
    assert "lm_eval 0.4.13 (commit `abc1234`)" in card
    metrics = head(card)["model-index"][0]["results"][0]["metrics"]
    assert [(metric["type"], metric["value"]) for metric in metrics] == [
        ("accuracy", 0.251),
        ("exact_match", 0.243),
    ], "a part of the items is no result for a leaderboard"
    other = EVALUATION | {"model": {"step": 10}}
    assert "is of step 10, not of this release" in card_of(run, evaluation=other)
    assert "model-index" not in head(card_of(run, evaluation=other))


def test_the_verification_is_told(run: Path) -> None:
    card = card_of(run, Verification(28, 512, 1.234e-6, 1e-4, "x"))
    assert "largest difference 1.2e-06 over 512 positions" in card


def test_a_run_that_continues_a_model_names_it(run: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(run, 20, CONFIG))
    checkpoint.state["began_with"] = {"from": "huggingface", "repository": "EleutherAI/pythia-14m"}
    card = model_card(RunRecord.load(run), FragmentSource(checkpoint), CONFIG, "float16", None)
    assert head(card)["base_model"] == "EleutherAI/pythia-14m"
    assert "for 20,480 tokens from EleutherAI/pythia-14m." in card


def test_a_run_that_began_with_an_import_says_so(run: Path) -> None:
    first = Checkpoint.open(write_checkpoint(run, 0, CONFIG))
    manifest = first.directory / "manifest.json"
    table = json.loads(manifest.read_text())
    table["state"]["imported"] = {
        "from": "neox",
        "path": "/gpfs/x/models/m/global_step9",
        "step": 9,
    }
    manifest.write_text(json.dumps(table))
    row = "| began with weights | from neox, path m/global_step9, step 9 |"
    card = card_of(run)
    assert row in card.splitlines()
    assert "no instruction or safety training" not in card, "nobody knows of what came before"


def test_words_of_a_person_stay(run: Path) -> None:
    mine = "We made this.\n\n| a | b |\n|---|---|\n| 1 | <2> |"
    former = card_of(run).replace(f"{BEGIN}\n{END}", f"{BEGIN}\n{mine}\n{END}")
    again = card_of(run, former=former)
    assert again == former
    with pytest.raises(ReleaseError, match="would be lost"):
        card_of(run, former=former.replace(END, ""))
    with pytest.raises(ReleaseError, match="cannot be read"):
        card_of(run, former=former.replace("license: unknown", "license: [unknown"))


def test_values_cannot_break_a_table(run: Path) -> None:
    path = run / "segments" / "1.1.json"
    record = json.loads(path.read_text()) | {"reason": "a | b\n<script>"}
    path.write_text(json.dumps(record))
    assert "unknown | unknown | a \\| b &lt;script> |" in card_of(run)


def test_a_bare_run_says_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The checkout may hold real shards, which a run without a catalogue would find.
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALPENGLOW_ROOT", raising=False)
    run = tmp_path / "runs" / "bare"
    run.mkdir(parents=True)
    (run / "run.toml").write_text("")
    card = card_of(run)
    assert "# bare, step 20" in card
    assert "The mixture is unknown." in card
    for line in ("jobs", "node-hours", "layout", "fingerprint", "machine", "optimizer", "energy"):
        assert f"| {line} | unknown |" in card.splitlines()


def test_a_model_of_no_run_and_no_step(run: Path) -> None:
    class Nothing:
        form, step, state = "neox", None, dict[str, object]()

    card = model_card(RunRecord.unknown("thing"), Nothing(), CONFIG, "float16", None)
    assert head(card)["model_name"] == "thing"
    assert "| step | unknown |" in card.splitlines()
    assert "a checkpoint in the form neox" in card
    assert "trained with Alpenglow" not in card
    assert "no instruction or safety training" not in card
