"""The card: front matter that the Hub parses, facts of the run, and unknown for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from release_run import CONFIG, write_checkpoint

from alpenglow.data.catalogue import Catalogue
from alpenglow.exchange.fragments import FragmentSource
from alpenglow.release.card import model_card
from alpenglow.release.record import RunRecord
from alpenglow.release.verify import Verification
from alpenglow.train.checkpoint import Checkpoint


def card_of(run: Path, verification: Verification | None = None) -> str:
    source = FragmentSource.open(write_checkpoint(run, 20, CONFIG))
    return model_card(RunRecord.load(run), source, CONFIG, torch.float32, verification)


def test_the_front_matter_is_what_the_hub_reads(run: Path) -> None:
    data: dict[str, object] = ModelCard(card_of(run)).data.to_dict()  # type: ignore[no-untyped-call]
    assert data["license"] == "unknown"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert data["tags"] == ["gpt_neox", "causal-lm", "alpenglow"]
    assert data["model_name"] == 'tiny: a "test", step 20'


@pytest.mark.parametrize(
    "line",
    [
        "| parameters | 50,048 |",
        "| residual | serial |",
        "| books | 3 | 0.0% | 0 | 0 | unknown | no raw files | unknown |",
        "| steps | 20 of 20 |",
        "| tokens | 20,480 |",
        "| training loss at this step | 4.2500 |",
        "| layout | pipeline 2 x tensor 2 x data 2 |",
        "| weight decay | unknown |",
        "| segments | 2 (1 more to do, 1 not closed), 1 of them estimated: never closed |",
        "| node-hours | 3.00 |",
        "| energy | unknown |",
        "| against the training model | not made |",
    ],
)
def test_facts_come_from_the_run(run: Path, line: str) -> None:
    assert line in card_of(run).splitlines()


def test_a_slice_is_accounted_for(run: Path) -> None:
    tokens = Catalogue.load(run.parents[1] / "shards").tokens
    row = f"| github | 1 | 100.0% | {tokens:,} | 2 | 3 | too short 1 | Apache-2.0 2 |"
    assert row in card_of(run).splitlines()


def test_a_changed_batch_is_told(run: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(run, 20, CONFIG))
    checkpoint.state["batches"] = {"first": 16, "changes": [[0, 0, 16], [8, 128, 12]]}
    card = model_card(RunRecord.load(run), FragmentSource(checkpoint), CONFIG, torch.float32, None)
    assert "| tokens a step | 1,024, 768 from step 9 |" in card.splitlines()


def test_the_verification_is_told(run: Path) -> None:
    card = card_of(run, Verification(28, 512, 1.234e-6, 1e-4, "x"))
    assert "largest difference 1.2e-06 over 512 positions" in card


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
    for line in ("segments", "node-hours", "layout", "fingerprint", "machine"):
        assert f"| {line} | unknown |" in card.splitlines()
