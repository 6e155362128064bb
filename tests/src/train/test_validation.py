"""Validation, masked documents and a changed batch, through the engine on real ranks."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_shards import write_small_shards
from training_ranks import assert_same_checkpoint, losses, metrics, tiny_recipe, train

from alpenglow.data.catalogue import Catalogue
from alpenglow.data.loader import Loader
from alpenglow.model.documents import Documents
from alpenglow.model.stages import build_local
from alpenglow.train.batch_history import BatchHistory
from alpenglow.train.batches import order_of
from alpenglow.train.checkpoint import Checkpoint
from alpenglow.train.learning_rate import CosineSchedule
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.run_directory import RunDirectory
from alpenglow_profiling.events import Kind, read

pytestmark = pytest.mark.distributed
LAST = "checkpoints/step-00000006"
SAMPLES = 21  # no multiple of any micro-batch here


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return write_small_shards(tmp_path_factory.mktemp("data") / "shards", longest=20)


def recipe_of(
    catalogue: Catalogue, pipeline: int = 1, tensor: int = 1, **changes: Any
) -> PretrainRecipe:
    data = {
        "catalogue": catalogue.folder / "catalogue.json",
        "mixture": {"github": 3.0, "wikipedia": 1.0},
        "documents": changes.pop("documents", "masked"),
        "validation_fraction": 0.2,
        "validation_samples": SAMPLES,
    }
    train = {"validate_every": changes.pop("validate_every", 2), **changes.pop("train", {})}
    parallel = {"pipeline": pipeline, "tensor": tensor, **changes.pop("parallel", {})}
    return tiny_recipe(
        model={"num_layers": 3}, parallel=parallel, data=data, train=train, **changes
    )


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue
) -> Callable[[str], Path]:
    """Six steps on one rank with validation after every second one, made when first asked for."""

    @functools.cache
    def run(documents: str) -> Path:
        path = tmp_path_factory.mktemp(documents)
        train(recipe_of(catalogue, documents=documents), 1, path)
        return path

    return run


def validations(run: Path) -> dict[int, float]:
    return {n["step"]: n["val_loss"] for n in metrics(run) if n.get("val_loss") is not None}


@pytest.mark.parametrize("documents", ["masked", "joined"])
def test_the_validation_loss_is_the_mean_over_the_labels_that_count(
    straight: Callable[[str], Path], catalogue: Catalogue, documents: str
) -> None:
    run = straight(documents)
    assert sorted(validations(run)) == [2, 4, 6]
    recipe = recipe_of(catalogue, documents=documents)
    borders = Documents() if documents == "masked" else None
    model = build_local(recipe.model, documents=borders)
    checkpoint = Checkpoint.open(run / LAST)
    model.load_global(lambda name, part: checkpoint.tensor("weight", name, slice=part))
    loader = Loader(order_of(recipe, catalogue).validation(), catalogue)
    numbers = np.arange(SAMPLES)
    tokens, positions, _ = loader.rows(numbers, positions=True)
    assert tokens is not None
    assert positions is not None
    if borders is not None:
        borders.load(torch.from_numpy(positions)[None])
        borders.select(0)
    inputs, labels = torch.from_numpy(tokens[:, :-1]), torch.from_numpy(tokens[:, 1:])
    with torch.no_grad():
        each = torch.nn.functional.cross_entropy(
            model(inputs).double().transpose(1, 2), labels, reduction="none"
        )
    counted = torch.from_numpy(loader.counted(numbers))
    assert 0 < int(counted.sum()) < counted.numel()
    assert validations(run)[6] == pytest.approx(float(each[counted].mean()), abs=1e-6)


def test_training_is_bit_equal_with_and_without(
    straight: Callable[[str], Path], tmp_path: Path, catalogue: Catalogue
) -> None:
    run = straight("masked")
    train(recipe_of(catalogue, validate_every=0), 1, tmp_path)
    assert not validations(tmp_path)
    assert losses(tmp_path) == losses(run)
    assert_same_checkpoint(tmp_path / LAST, run / LAST)


def test_on_four_ranks_bits_are_equal_too(tmp_path: Path, catalogue: Catalogue) -> None:
    """Pipeline 2 x tensor 2 with sliced transfers, cut in two and validated in both segments."""
    changes: dict[str, Any] = {"train": {"recompute": "full"}}
    quiet, cut = tmp_path / "quiet", tmp_path / "cut"
    train(recipe_of(catalogue, 2, 2, validate_every=0, **changes), 4, quiet)
    train(recipe_of(catalogue, 2, 2, validate_every=1, **changes), 4, cut, stop_after=3)
    train(recipe_of(catalogue, 2, 2, validate_every=1, **changes), 4, cut)
    assert sorted(validations(cut)) == [1, 2, 3, 4, 5, 6]
    assert losses(cut) == losses(quiet)
    assert_same_checkpoint(cut / LAST, quiet / LAST)


@pytest.mark.parametrize(
    ("world", "pipeline", "tensor", "changes"),
    [
        (3, 3, 1, {"train": {"recompute": "full"}, "parallel": {"schedule": "zb-h1"}}),
        (4, 2, 1, {"train": {"recompute": "selective"}, "batch": {"micro_batch_size": 2}}),
        (4, 1, 2, {"train": {"attention": "sdpa"}}),
    ],
    ids=["pp3-zb-h1-full", "pp2-dp2-selective", "tp2-dp2-sdpa"],
)
def test_layouts_agree(
    straight: Callable[[str], Path],
    tmp_path: Path,
    catalogue: Catalogue,
    world: int,
    pipeline: int,
    tensor: int,
    changes: dict[str, Any],
) -> None:
    run = straight("masked")
    recipe = recipe_of(catalogue, pipeline, tensor, **changes)
    (segment, *_) = [rank["segment"] for rank in train(recipe, world, tmp_path)]
    # Sums are taken in another order, so fp32 differs in the last digits.
    assert losses(tmp_path) == pytest.approx(losses(run), abs=1e-4)
    assert validations(tmp_path) == pytest.approx(validations(run), abs=1e-4)
    events = read(tmp_path / "events" / segment).rows
    for rank in range(world):
        rows = events[events["rank"] == rank]
        evaluations = rows[rows["kind"] == Kind.EVALUATE]
        assert evaluations["step"].tolist() == [2, 4, 6]
        for span in evaluations:  # its forward passes are no training
            within = (rows["begin_ns"] > span["begin_ns"]) & (rows["end_ns"] < span["end_ns"])
            assert not within.any()


def test_masked_documents_train_otherwise_than_joined_ones(
    straight: Callable[[str], Path],
) -> None:
    assert abs(losses(straight("masked"))[0] - losses(straight("joined"))[0]) > 1e-5


def test_a_run_goes_on_with_a_smaller_batch(tmp_path: Path, catalogue: Catalogue) -> None:
    """Four replicas x 4, of which one is lost after three steps: 48 + 4 x 12 = 6 x 16 samples."""
    four = recipe_of(catalogue, 1, 1, validate_every=0)
    three = recipe_of(
        catalogue, 1, 1, validate_every=0, batch={"global_batch_size": 12, "micro_batch_size": 4}
    )
    train(four, 4, tmp_path, stop_after=3)
    train(three, 3, tmp_path, stop_after=5)
    run = RunDirectory(tmp_path, "x")
    assert run.completed(four.samples_of) is None
    ranks = train(three, 3, tmp_path)
    assert {(rank["code"], rank["resumed"], rank["step"]) for rank in ranks} == {(0, 5, 7)}
    lines = metrics(tmp_path)
    samples = [16, 32, 48, 60, 72, 84, 96]
    assert [line["samples"] for line in lines] == samples
    assert [line["tokens"] for line in lines] == [16 * n for n in samples]
    assert [line["batch"] for line in lines] == [16] * 3 + [12] * 4
    assert lines[-1]["tokens_per_s"] == pytest.approx(192 / lines[-1]["step_time_s"], rel=1e-3)
    # The learning rate is counted in steps of the first batch: 16 samples.
    schedule = CosineSchedule(3e-3, 3e-4, 2, 6)
    assert [line["lr"] for line in lines] == [schedule.at(n / 16) for n in [0, *samples[:-1]]]
    assert lines[-1]["lr"] == 3e-4

    state = Checkpoint.open(tmp_path / "checkpoints/step-00000007").state
    assert (state["samples"], state["applied"], state["tokens"]) == (96, 96, 1536)
    assert state["batches"] == {"first": 16, "changes": [[0, 0, 16], [3, 48, 12]]}
    assert BatchHistory.read(tmp_path) == BatchHistory.of_state(state)
    assert len((tmp_path / "batches.jsonl").read_text().splitlines()) == 2
    assert run.completed(three.samples_of) == 7
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["done"], progress["total"]) == (7, 7)
