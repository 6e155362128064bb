"""Held-out perplexity of a release: equal to the run's own validation loss, by slice, in bytes."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from held_out_run import describe, make_held_out_run
from takedown_shards import write_takedown_shards
from taught_model import byte_tokenizer
from training_ranks import metrics, tiny_recipe
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedTokenizerFast,
)

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.loader import Loader
from alpenglow.data.removal_command import main as remove
from alpenglow.evaluate.__main__ import main
from alpenglow.evaluate.error import EvaluateError
from alpenglow.evaluate.held_out import HeldOut, RunText, document_mask, token_bytes
from alpenglow.evaluate.recipe import PerplexityRecipe
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.tensor import IGNORED_LABEL
from alpenglow.train.batches import ValidationBatches
from alpenglow.train.recipe import PretrainRecipe

JOB = Path(__file__).parents[3] / "jobs" / "evaluate.toml"
SOME = PerplexityRecipe(windows=12)


@pytest.fixture(scope="module", params=["joined", "masked"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PretrainRecipe]:
    return make_held_out_run(tmp_path_factory.mktemp(request.param), request.param)


def load(run: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        run / "release" / "huggingface", dtype=torch.float32, local_files_only=True
    )


def read(run: Path, recipe: PerplexityRecipe = SOME, batch: int = 4) -> Any:
    model = load(run)
    backend = Catalogue.load(run.parents[1] / "shards").folder / "tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(backend))
    sizes = token_bytes(tokenizer, model.config.vocab_size)
    rows, notes = HeldOut(model, RunText.of(run), recipe, sizes, batch).losses()
    return {row.slice: row for row in rows}, notes


@pytest.mark.distributed
def test_all_is_the_validation_loss_of_the_run(trained: tuple[Path, PretrainRecipe]) -> None:
    run, _ = trained
    (own,) = [line["val_loss"] for line in metrics(run) if line.get("val_loss") is not None]
    rows, notes = read(run)
    # fp32 on both sides; sums differ in their order.
    assert rows["all"].loss == pytest.approx(own, abs=1e-5)
    assert rows["all"].windows == 21
    assert (sorted(rows), notes) == (["all", "github", "mixture", "wikipedia"], [])
    mixed = 0.75 * rows["github"].loss + 0.25 * rows["wikipedia"].loss
    assert rows["mixture"].loss == pytest.approx(mixed)
    assert rows["mixture"].fields()["perplexity"] == pytest.approx(math.exp(mixed))


@pytest.mark.distributed
def test_a_slice_is_its_own_held_out_windows(trained: tuple[Path, PretrainRecipe]) -> None:
    """Window by window with labels counted by hand; the batch changes nothing."""
    run, recipe = trained
    rows, _ = read(run, batch=5)
    text = RunText.of(run)
    mixed = text.order(text.weights(), held_out=True)
    seen = {tuple(mixed.sample(number)) for number in range(4 * mixed.windows["github"])}
    order = text.order({"github": 1.0}, held_out=True)
    loader, nats, tokens = Loader(order, text.catalogue), 0.0, 0
    model = load(run)
    for number in range(12):
        assert tuple(order.sample(number)) in seen
        ids = loader.read(np.array([number]))[0]
        counts = loader.counted(np.array([number]))[0]
        places = loader.rows(np.array([number]), positions=True).positions
        assert places is not None
        starts = np.flatnonzero(places[0] == 0)
        whole = recipe.data.documents == "joined"
        for label in np.flatnonzero(counts):
            begin = 0 if whole else int(starts[starts <= label].max())
            with torch.no_grad():
                context = torch.from_numpy(ids[None, begin : label + 1])
                logits = model(input_ids=context).logits[0, -1].double().log_softmax(-1)
            nats -= float(logits[ids[label + 1]])
            tokens += 1
    assert 0 < tokens < 12 * 16
    assert (rows["github"].windows, rows["github"].tokens) == (12, tokens)
    assert rows["github"].loss == pytest.approx(nats / tokens, abs=1e-5)


@pytest.mark.distributed
def test_a_run_without_validation_is_told(
    trained: tuple[Path, PretrainRecipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, recipe = trained
    other = tmp_path / "runs" / "other"
    other.mkdir(parents=True)
    nothing = dataclasses.replace(recipe.data, validation_fraction=0.0)
    bare = dataclasses.replace(
        recipe, data=nothing, train=dataclasses.replace(recipe.train, validate_every=0)
    )
    describe(other, bare, Catalogue.load(recipe.data.catalogue))
    model = run / "release" / "huggingface"
    output = tmp_path / "evaluation.json"
    words = [str(JOB), f"run={other}", f"model={model}", "tasks=[]", f"output={output}"]
    assert main([*words, "device=cpu"]) == 0
    tables = json.loads(output.read_text())
    assert tables["perplexity"] == []
    assert [note for note in tables["notes"] if "held no text out" in note]
    assert main([*words, "device=cpu", "perplexity.held_out=false", "perplexity.windows=4"]) == 0
    tables = json.loads(output.read_text())
    assert {row["slice"] for row in tables["perplexity"]} == {"github", "wikipedia", "mixture"}
    assert {row["held_out"] for row in tables["perplexity"]} == {False}
    assert not [note for note in tables["notes"] if "held no text out" in note]
    assert json.loads((other / "progress.json").read_text())["done"] == 1
    capsys.readouterr()
    assert main([*words, "perplexity.held_out=false", 'perplexity.slices=["books"]']) == 1
    assert "books is not in the run's mixture (github, wikipedia)" in capsys.readouterr().err


@pytest.mark.distributed
def test_other_models_and_shards_are_refused(
    trained: tuple[Path, PretrainRecipe], tmp_path: Path
) -> None:
    run, recipe = trained
    text, model = RunText.of(run), load(run)
    with torch.no_grad():
        model.gpt_neox.final_layer_norm.bias[0] = math.nan
    with pytest.raises(EvaluateError, match="perplexity of github: the loss is nan"):
        HeldOut(model, text, SOME, None, 4).losses()
    model.config.vocab_size = 90
    with pytest.raises(EvaluateError, match="vocabulary ends at 90"):
        HeldOut(model, text, SOME, None, 4).losses()
    model.config.max_position_embeddings = 8
    with pytest.raises(EvaluateError, match="not this run's model"):
        HeldOut(model, text, SOME, None, 4)
    other = tmp_path / "runs" / "tiny"
    other.mkdir(parents=True)
    describe(other, recipe, Catalogue.load(recipe.data.catalogue))
    path = other / "run.toml"
    path.write_text(path.read_text().replace(text.catalogue.fingerprint, "0" * 16))
    with pytest.raises(EvaluateError, match="is not what training left out"):
        RunText.of(other)
    path.write_text("[run]\n")
    with pytest.raises(EvaluateError, match="no recipe of data and batch"):
        RunText.of(other)


def test_removed_documents_count_nothing_as_in_training(tmp_path: Path) -> None:
    """The labels are those that training's own validation batches give after a takedown."""
    shards = tmp_path / "shards"
    write_takedown_shards(shards, vocabulary=120)
    recipe = tiny_recipe(
        model={"vocab_size": 512},
        data={
            "catalogue": shards / "catalogue.json",
            "mixture": {"commoncrawl": 1.0, "github": 1.0},
            "validation_fraction": 0.2,
            "validation_samples": 64,
        },
        train={"validate_every": 2},
    )
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    describe(run, recipe, Catalogue.load(shards))
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=512, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=32,
        )
    ).eval()  # fmt: skip
    seen = []
    for _ in range(2):
        rows, _ = HeldOut(model, RunText.of(run), PerplexityRecipe(windows=8), None, 4).losses()
        (row,) = [row for row in rows if row.slice == "all"]
        batches = ValidationBatches.open(recipe, Layout(1, 1, 1), 0, Catalogue.load(shards))
        assert batches is not None
        nats, count = 0.0, 0
        for inputs, labels in batches.read():
            with torch.no_grad():
                logits = model(input_ids=inputs).logits.double().transpose(1, 2)
            each = torch.nn.functional.cross_entropy(
                logits, labels, ignore_index=IGNORED_LABEL, reduction="sum"
            )
            nats, count = nats + float(each), count + int((labels != IGNORED_LABEL).sum())
        assert (row.tokens, row.bytes) == (count, None)
        assert row.loss == pytest.approx(nats / count, abs=1e-6)
        seen.append(count)
        assert remove([str(shards), "--domain", "example.org", "--domain", "other.net"]) == 0
    assert 0 < seen[1] < seen[0]


def test_a_token_sees_its_own_document() -> None:
    mask = document_mask(torch.tensor([[3, 4, 0, 1, 0]]), torch.float32)
    seen = (mask == 0).int().tolist()
    assert seen == [
        [[[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]]
    ]


def test_bytes_of_tokens() -> None:
    backend = byte_tokenizer("Grüße, größer 日本 grüße größe " * 4, 300)
    backend.add_tokens(["    "])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    sizes = token_bytes(tokenizer, 384)
    assert sizes is not None
    for text in ("größer 日本", "x    y", "\t\n"):
        assert int(sizes[backend.encode(text).ids].sum()) == len(text.encode())
    assert sizes[backend.token_to_id("<|endoftext|>")] == 0
    assert token_bytes(tokenizer, 100) is None  # the tokenizer is larger than the model
