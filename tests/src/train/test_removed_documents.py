"""A run on shards that documents were removed from: their labels teach nothing, and it goes on."""

from __future__ import annotations

import json
import math
import signal
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from program_ranks import begin, end, wait_for_steps
from small_recipe import small_recipe
from small_shards import write_small_shards
from takedown_shards import write_takedown_shards
from training_ranks import metrics, tiny_recipe

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.loader import Loader
from alpenglow.data.removal_command import main as remove
from alpenglow.model.stages import build_local, loss_function, loss_sum
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.tensor import IGNORED_LABEL
from alpenglow.train.batches import Batches, ValidationBatches, order_of
from alpenglow.train.restart import Position


@pytest.mark.parametrize("documents", ["joined", "masked"])
def test_labels_of_removed_documents_are_ignored(tmp_path: Path, documents: str) -> None:
    write_takedown_shards(tmp_path, vocabulary=120)
    recipe = tiny_recipe(
        data={
            "mixture": {"commoncrawl": 1.0, "github": 1.0},
            "documents": documents,
            "validation_fraction": 0.2,
            "validation_samples": 64,
        },
        train={"validate_every": 2},
    )
    layout = Layout(1, 1, 1)

    def read() -> tuple[list[Any], Any, Any]:
        catalogue = Catalogue.load(tmp_path)
        batches = Batches.open(recipe, layout, 0, catalogue)
        step = batches.step(Position())
        pairs, positions = list(step), step.positions
        batches.close()
        held = ValidationBatches.open(recipe, layout, 0, catalogue)
        assert held is not None
        return pairs, positions, list(held.read())

    pairs, positions, held = read()
    assert not any((labels == IGNORED_LABEL).any() for _, labels in pairs)
    assert remove([str(tmp_path), "--domain", "example.org", "--domain", "other.net"]) == 0
    masked, same_positions, held_masked = read()
    if documents == "masked":
        assert torch.equal(positions, same_positions)
    catalogue = Catalogue.load(tmp_path)
    counts = Loader(order_of(recipe, catalogue), catalogue).counted(np.arange(16))
    rows = zip(np.split(counts, 4), pairs, masked, strict=True)
    ignored = 0
    for count, (inputs, labels), (now, now_labels) in rows:
        kept = torch.from_numpy(count)
        assert torch.equal(now_labels, torch.where(kept, labels, IGNORED_LABEL))
        ignored += int((~kept).sum())
        changed = now != inputs
        assert (now[changed] == 0).all()
        # What is changed is of a removed document, so the label that it predicts is left out.
        assert not kept[changed].any()
    assert ignored
    for (_, labels), (_, now_labels) in zip(held, held_masked, strict=True):
        assert ((now_labels == labels) | (now_labels == IGNORED_LABEL)).all()


@pytest.mark.parametrize("kind", ["plain", "fused"])
def test_no_label_gives_no_loss_and_no_gradient(kind: Any) -> None:
    config = tiny_recipe().model
    model = build_local(config, seed=1, loss=kind)
    tokens = torch.randint(128, (2, 17), generator=torch.Generator().manual_seed(0))
    labels = torch.full((2, 16), IGNORED_LABEL)
    loss = loss_function(config, model.group)(model(tokens[:, :-1]), labels)
    assert loss.item() == 0.0
    torch.autograd.backward(loss)
    for parameter in model.parameters():
        assert parameter.grad is None or not parameter.grad.any()
    assert loss_sum(config, model.group)(model(tokens[:, :-1]), labels).tolist() == [0.0, 0.0]
    labels[1, 5:9] = tokens[1, 6:10]
    part = loss_function(config, model.group)(model(tokens[:, :-1]), labels)
    logits = build_local(config, seed=1)(tokens[:, :-1])[1, 5:9]
    torch.testing.assert_close(part, torch.nn.functional.cross_entropy(logits, labels[1, 5:9]))


@pytest.mark.distributed
def test_a_run_goes_on_and_says_what_it_has_seen(tmp_path: Path) -> None:
    """All documents go between two segments: what is left to learn is nothing, not NaN."""
    steps: dict[str, object] = {"steps": 200, "checkpoint_every": 200, "log_every": 100}
    (tmp_path / "tiny.toml").write_text(small_recipe(steps))
    write_small_shards(tmp_path / "shards")
    ranks = begin(tmp_path)
    wait_for_steps(tmp_path, 5)
    ranks[0].send_signal(signal.SIGTERM)
    ((code, _, error),) = end(ranks)
    assert (code, error) == (85, "")
    first = len(metrics(tmp_path / "run"))
    ids = ",".join(bytes([number] * 16).hex() for number in (0, 1))
    assert remove([str(tmp_path / "shards"), "--ids", ids, "--end-token", "0"]) == 0
    ((code, output, error),) = end(begin(tmp_path))
    assert (code, error) == (0, "")
    assert f"resumed from step {first}," in output
    lines = metrics(tmp_path / "run")
    assert all(line["loss"] > 0 for line in lines[:first])
    assert [line["loss"] for line in lines[first:]] == [0.0] * (200 - first)
    assert all(math.isfinite(line["grad_norm"]) for line in lines)
    per_step = lines[0]["tokens"]
    assert [line["tokens"] for line in lines] == [per_step * n for n in range(1, 201)]
    seen = [
        json.loads((tmp_path / f"run/segments/local.{n}.rank0.json").read_text())["data"]
        for n in (1, 2)
    ]
    assert [data["removals"] for data in seen] == [0, 1]
    assert seen[0]["fingerprint"] == seen[1]["fingerprint"]
    assert seen[0]["content"] != seen[1]["content"]
    assert seen[1]["content"] == Catalogue.load(tmp_path / "shards").content
    run = tomllib.loads((tmp_path / "run/run.toml").read_text())["data"]
    assert (run["content"], run["removals"]) == (seen[0]["content"], 0)
