"""A run that trained with a validation share, and its release: what perplexity is measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w
from release_run import write_checkpoint
from small_shards import write_small_shards
from taught_model import byte_tokenizer
from training_ranks import tiny_recipe, train

from alpenglow.config import to_tables
from alpenglow.data.catalogue import Catalogue
from alpenglow.release.convert import ConvertRecipe, convert
from alpenglow.train.checkpoint import Checkpoint
from alpenglow.train.recipe import PretrainRecipe


def make_held_out_run(root: Path, documents: str, **data: Any) -> tuple[Path, PretrainRecipe]:
    """runs/tiny under `root`, six steps long and released, with shards/ beside runs/."""
    catalogue = write_small_shards(root / "shards", longest=20, size=3000)
    byte_tokenizer("the whole of it", 300).save(str(root / "shards" / "tokenizer.json"))
    run = root / "runs" / "tiny"
    tables = {
        "catalogue": catalogue.folder / "catalogue.json",
        "mixture": {"github": 3.0, "wikipedia": 1.0},
        "documents": documents,
        "validation_fraction": 0.2,
        "validation_samples": 21,
    }
    recipe = tiny_recipe(model={"vocab_size": 384}, data=tables | data, train={"validate_every": 6})
    train(recipe, 1, run)
    describe(run, recipe, catalogue)
    # The small trainer writes no architecture into its checkpoints: the same weights, with it.
    trained = Checkpoint.open(run / "checkpoints" / "step-00000006")
    weights = {name: trained.tensor("weight", name) for name in trained.names("weight")}
    write_checkpoint(run, 7, recipe.model, weights)
    convert(ConvertRecipe(run=run, verify=False))
    return run, recipe


def describe(run: Path, recipe: PretrainRecipe, catalogue: Catalogue) -> None:
    """run.toml, as far as an evaluation reads it."""
    facts = {
        "recipe": to_tables(recipe),
        "data": {
            "catalogue": str(recipe.data.catalogue), "fingerprint": catalogue.fingerprint
        },
    }  # fmt: skip
    (run / "run.toml").write_text(tomli_w.dumps(facts))
