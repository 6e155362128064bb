"""DeepSpeed's layouts in and out: the run goes on bit for bit, and no pickle runs code."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from distributed_ranks import run_ranks
from release_proof import write_tokenizer
from training_ranks import (
    STEPS,
    assert_same_checkpoint,
    losses,
    metrics,
    tiny_recipe,
    token_batches,
    train,
)

from alpenglow.config import to_tables
from alpenglow.exchange import __main__ as exchange
from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.fragments import FragmentSource
from alpenglow.exchange.source import Source, open_source
from alpenglow.release.conversion import Conversion
from alpenglow.release.convert import ConvertRecipe, convert
from alpenglow.train.checkpoint import Checkpoint
from alpenglow.train.fragments import DTYPES
from alpenglow.train.recipe import PretrainRecipe

pytestmark = pytest.mark.distributed
LAST = f"checkpoints/step-{STEPS:08d}"
HALF = "checkpoints/step-00000003"


def deepspeed_worker(
    rank: int,
    size: int,
    recipe: PretrainRecipe,
    load: Path | None,
    universal: bool,
    save: Path | None,
    last: int,
) -> list[float]:
    """Steps with DeepSpeed's own loading and saving, nothing of ours; returns the losses."""
    from alpenglow.train import engine as room
    from alpenglow.train.learning_rate import CosineSchedule
    from alpenglow_lsf.ranks import Ranks
    from alpenglow_profiling.events import NullRecorder

    device = room.start(Ranks(rank, rank, size, size, "node00", "127.0.0.1", 1), timeout_s=60)
    if recipe.precision.dtype == "fp16":
        from deepspeed.accelerator import get_accelerator

        get_accelerator().is_fp16_supported = lambda: True
    configure = room.deepspeed_config
    room.deepspeed_config = lambda *a: configure(*a) | {"checkpoint": {"load_universal": universal}}
    layout = recipe.layout(size)
    engine = room.Engine.build(recipe, layout, NullRecorder(), device)
    if load is not None:
        engine.inner.load_checkpoint(str(load))
    batches = token_batches(recipe, layout, rank)
    rates = CosineSchedule(3e-3, 3e-4, 2, STEPS)
    found = []
    for step in range(engine.inner.global_steps, last):
        found.append(engine.step(batches(step), rates.at(step)).loss)
    if save is not None:
        engine.inner.save_checkpoint(str(save), tag=f"global_step{last}")
    return found


def deepspeed(
    recipe: PretrainRecipe,
    world: int,
    *,
    load: Path | None = None,
    universal: bool = False,
    save: Path | None = None,
    last: int = STEPS,
) -> list[float]:
    arguments = (recipe, load, universal, save, last)
    found: list[float] = run_ranks(deepspeed_worker, world, *arguments, timeout=100)[0]
    return found


def export_worker(rank: int, size: int, recipe: PretrainRecipe, run: Path, folder: Path) -> None:
    from alpenglow.exchange.deepspeed import export_deepspeed
    from alpenglow.train.checkpoint import DistributedGroup
    from alpenglow.train.engine import Engine, start
    from alpenglow.train.restart import resume
    from alpenglow_lsf.ranks import Ranks
    from alpenglow_profiling.events import NullRecorder

    device = start(Ranks(rank, rank, size, size, "node00", "127.0.0.1", 1), timeout_s=60)
    engine = Engine.build(recipe, recipe.layout(size), NullRecorder(), device)
    position = resume(engine, recipe, run / "checkpoints", DistributedGroup("node00"), print)
    export_deepspeed(engine, position, folder, recipe)


def assert_same_weights(source: Source, checkpoint: Path) -> None:
    """Every tensor, and a box of it, is the one of our checkpoint, bit for bit."""
    ours = FragmentSource.open(checkpoint)
    for name, shape in source.config.tensor_shapes().items():
        tensor = source.tensor(name)
        assert tensor.dtype == source.stored(name) == ours.stored(name)
        assert torch.equal(tensor, ours.tensor(name)), name
        box = tuple((n // 3, n - n // 5) for n in shape)
        assert torch.equal(source.tensor(name, box), ours.tensor(name, box)), name


def write_recipe(folder: Path, recipe: PretrainRecipe) -> Path:
    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps(to_tables(recipe)))
    return path


def call(*arguments: object) -> int:
    return exchange.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with tp 2 x dp 2: `straight` has six steps, `run` the first three."""
    place = tmp_path_factory.mktemp("half")
    recipe = tiny_recipe(1, 2)
    train(recipe, 4, place / "straight")
    train(recipe, 4, place / "run", stop_after=3)
    write_recipe(place, recipe)
    return place


@pytest.mark.parametrize(
    ("world", "pipeline", "dtype"), [(4, 2, "fp32"), (2, 1, "fp16"), (2, 1, "bf16")]
)
def test_what_deepspeed_saved_goes_on_bit_for_bit(
    tmp_path: Path, world: int, pipeline: int, dtype: str
) -> None:
    recipe = tiny_recipe(pipeline, 1, precision={"dtype": dtype})
    path = write_recipe(tmp_path, recipe)
    train(recipe, world, tmp_path / "straight")
    deepspeed(recipe, world, save=tmp_path / "saved", last=3)
    assert call("import", "deepspeed", tmp_path / "saved", tmp_path / "run", path) == 0
    assert Checkpoint.open(tmp_path / "run" / HALF).verify() == []
    source = open_source(tmp_path / "saved", model=recipe.model)
    trained = DTYPES[{"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[dtype]]
    assert (source.form, source.step, source.dtype) == ("deepspeed", 3, trained)
    assert_same_weights(source, tmp_path / "run" / HALF)
    imported = open_source(tmp_path / "run" / HALF)
    assert (imported.config, imported.dtype) == (recipe.model, trained)
    assert {rank["resumed"] for rank in train(recipe, world, tmp_path / "run")} == {3}
    assert_same_checkpoint(tmp_path / "run" / LAST, tmp_path / "straight" / LAST)
    same = ("step", "loss", "lr", "grad_norm", "loss_scale")
    assert [[line[key] for key in same] for line in metrics(tmp_path / "run")] == [
        [line[key] for key in same] for line in metrics(tmp_path / "straight")[3:]
    ]


def test_tied_embeddings_come_in_once(tmp_path: Path) -> None:
    recipe = tiny_recipe(2, 1, model={"tie_word_embeddings": True})
    path = write_recipe(tmp_path, recipe)
    train(recipe, 2, tmp_path / "straight")
    deepspeed(recipe, 2, save=tmp_path / "saved", last=3)
    assert call("import", "deepspeed", tmp_path / "saved", tmp_path / "run", path) == 0
    source = open_source(tmp_path / "saved/global_step3", model=recipe.model)
    assert_same_weights(source, tmp_path / "run" / HALF)
    train(recipe, 2, tmp_path / "run")
    assert_same_checkpoint(tmp_path / "run" / LAST, tmp_path / "straight" / LAST)


def test_deepspeed_goes_on_from_what_we_export(half: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(1, 2)
    run_ranks(export_worker, 4, recipe, half / "run", tmp_path / "own", timeout=100)
    assert deepspeed(recipe, 4, load=tmp_path / "own") == losses(half / "straight")[3:]
    recipe_path = half / "recipe.toml"
    assert call("import", "deepspeed", tmp_path / "own", tmp_path / "back", recipe_path) == 0
    assert_same_checkpoint(tmp_path / "back" / HALF, half / "run" / HALF)
    assert_same_weights(open_source(tmp_path / "own", model=recipe.model), half / "run" / HALF)

    # Its own converter takes the export, and we take what the converter makes.
    own = tmp_path / "own/global_step3"
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(own), "--output_folder", f"{own}_universal"]
    subprocess.run(
        [*command, "--num_extract_workers", "1", "--num_merge_workers", "1"],
        check=True,
        capture_output=True,
        env=os.environ | {"DS_ACCELERATOR": "cpu"},
    )
    source = open_source(tmp_path / "own/global_step3_universal", model=recipe.model)
    assert (source.form, source.step) == ("universal", 3)
    assert_same_weights(source, half / "run" / HALF)
    assert call("import", "universal", tmp_path / "own", tmp_path / "run", recipe_path) == 0
    assert_same_checkpoint(tmp_path / "run" / HALF, half / "run" / HALF)


def test_both_forms_of_deepspeed_are_released_as_our_own_checkpoint_is(
    half: Path, tmp_path: Path
) -> None:
    """The same bytes of every tensor; what they compute is in the proof of releases."""
    recipe, recipe_path = tiny_recipe(1, 2), half / "recipe.toml"
    back = tmp_path / "back"
    deepspeed_folder, universal = tmp_path / "deepspeed", tmp_path / "universal"
    run_ranks(export_worker, 4, recipe, half / "run", deepspeed_folder, timeout=100)
    assert call("export", "universal", half / "run", universal, recipe_path) == 0
    assert call("import", "deepspeed", deepspeed_folder, back, recipe_path) == 0
    tokenizer = write_tokenizer(tmp_path)
    hashes = []
    for number, (source, form, model) in enumerate(
        [
            (back / HALF, "fragments", None),
            (deepspeed_folder, "deepspeed", recipe_path),
            (universal, "universal", recipe_path),
        ]
    ):
        output = tmp_path / f"release-{number}"
        asked = ConvertRecipe(tmp_path / "absent", source=source, model=model, output=output)
        # The words of this tokenizer are few enough for 128 rows, and fit no text.
        convert(dataclasses.replace(asked, tokenizer=tokenizer, verify=False))
        conversion = Conversion.load(output)
        assert conversion.source["form"] == form
        assert conversion.step == 3
        hashes.append(conversion.xxh3_64)
    assert hashes[0] == hashes[1] == hashes[2]


def test_deepspeed_goes_on_from_a_universal_export_in_any_layout(
    half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_path = half / "recipe.toml"
    assert call("export", "universal", half / "run", tmp_path, recipe_path) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "global_step3_universal")
    straight = losses(half / "straight")[3:]
    assert deepspeed(tiny_recipe(1, 2), 4, load=tmp_path, universal=True) == straight
    # Sums are taken in another order, so fp32 differs in the last digits.
    other = deepspeed(tiny_recipe(2, 1), 2, load=tmp_path, universal=True)
    assert other == pytest.approx(straight, abs=1e-4)

    source = open_source(tmp_path, model=tiny_recipe().model)
    assert (source.form, source.step, source.dtype) == ("universal", 3, torch.float32)
    assert call("import", "universal", tmp_path, tmp_path / "run", recipe_path) == 0
    assert_same_checkpoint(tmp_path / "run" / HALF, half / "run" / HALF)
    assert call("export", "universal", half / "run", tmp_path, recipe_path) == 1
    assert "it is there already" in capsys.readouterr().err
    assert call("import", "universal", tmp_path, tmp_path / "run", recipe_path) == 1
    assert "has checkpoints already" in capsys.readouterr().err


class Trap:
    """A pickle that runs a command when it is read by a loader that trusts it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("file", ["mp_rank_00_model_states.pt", "zero/0.weight/fp32.pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(
    half: Path, tmp_path: Path, file: str, zipped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_path = half / "recipe.toml"
    assert call("export", "universal", half / "run", tmp_path, recipe_path) == 0
    capsys.readouterr()
    folder, mark = tmp_path / "global_step3_universal", tmp_path / "ran"
    body = {"param": torch.zeros(3), "trap": Trap(mark)}
    torch.save(body, folder / file, _use_new_zipfile_serialization=zipped)
    torch.load(folder / file, weights_only=False)
    assert mark.exists(), "the trap works on a loader that trusts"
    mark.unlink()

    assert call("import", "universal", tmp_path, tmp_path / "run", recipe_path) == 1
    assert not mark.exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{folder / file}: refused: it asks for posix.system, which could run code" in error
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_bare_pickle_is_refused(
    half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "mp_rank_00_model_states.pt").write_bytes(pickle.dumps(Trap(mark)))
    assert call("import", "deepspeed", tmp_path, tmp_path / "run", half / "recipe.toml") == 1
    assert not mark.exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_bad_folders_are_one_sentence(
    half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_path = half / "recipe.toml"
    recipe = tiny_recipe(1, 1)
    deepspeed(recipe, 2, save=tmp_path, last=1)
    step = tmp_path / "global_step1"

    def refused(*overrides: str) -> str:
        arguments = ("import", "deepspeed", tmp_path, tmp_path / "run", recipe_path)
        assert call(*arguments, *overrides) == 1
        assert not (tmp_path / "run/checkpoints").exists()
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "it has num_layers = 2, the recipe says 3" in refused("model.num_layers=3")
    assert "it has vocab_size = 128, the recipe says 256" in refused("model.vocab_size=256")
    assert "hidden_size = 32, the recipe says 64" in refused("model.hidden_size=64")
    second = step / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    assert f"{second}: " in refused()
    second.unlink()
    assert f"{second}: missing (1 x 1 x 2 ranks)" in refused()
    with pytest.raises(ExchangeError, match=r"missing \(1 x 1 x 2 ranks\)"):
        open_source(tmp_path, model=recipe.model)
    second.write_bytes((step / "zero_pp_rank_0_mp_rank_00_optim_states.pt").read_bytes())
    assert "elements" in refused(), "a file in the place of another"

    # Without optimizer files the layer files hold the weights.
    for path in step.glob("zero_pp_rank_*"):
        path.unlink()
    source = open_source(tmp_path, model=recipe.model)
    layer = torch.load(step / "layer_02-model_00-model_states.pt", weights_only=True)
    weight = source.tensor("layers.1.mlp.dense_h_to_4h.weight")
    assert torch.equal(weight, layer["mlp.dense_h_to_4h.weight"])
    wide = dataclasses.replace(recipe.model, intermediate_size=64)
    for model, told in (
        (None, f"{step}: DeepSpeed's files do not say heads, rotary share or residual form"),
        (wide, "mlp.dense_h_to_4h.weight is [128, 32], the model wants [64, 32]"),
        (dataclasses.replace(recipe.model, num_layers=1), "1 layers have no slot 4"),
    ):
        with pytest.raises(ExchangeError) as caught:
            open_source(tmp_path, model=model)
        assert told in str(caught.value)
    (step / "layer_01-model_00-model_states.pt").unlink()
    with pytest.raises(ExchangeError, match=r"layer_01-model_00-model_states.pt: missing"):
        open_source(tmp_path, model=recipe.model)


def test_a_run_does_not_go_on_from_another_architecture(half: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").symlink_to(half / "run/checkpoints")
    with pytest.raises(RuntimeError, match="it has hidden_size = 32, the recipe says 64"):
        train(tiny_recipe(1, 1, model={"hidden_size": 64}), 1, tmp_path)
