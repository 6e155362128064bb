"""A run that begins with another program's weights: training starts where transformers stands."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import tomli_w
import torch
from small_neox import CONFIG, weights_of, write
from torch.nn.functional import cross_entropy
from training_ranks import STEPS, losses, tiny_recipe, token_batches, train
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from alpenglow.config import to_tables
from alpenglow.exchange import __main__ as exchange
from alpenglow.exchange.source import open_source
from alpenglow.parallel.layout import Layout
from alpenglow.train.checkpoint import Checkpoint, SingleProcess, save, step_directory
from alpenglow.train.recipe import PretrainRecipe

pytestmark = pytest.mark.distributed
STEP = "checkpoints/step-00000000"


def theirs(recipe: PretrainRecipe, folder: Path) -> float:
    """Save a model of transformers' own making; its loss on the run's first batch."""
    torch.manual_seed(1)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**recipe.model.huggingface_fields()))
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms that count
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(folder)
    layout = Layout(1, 1, 1)
    (rows, labels), *more = token_batches(recipe, layout, 0)(0)
    rows = torch.cat([rows, *(pair[0] for pair in more)])
    labels = torch.cat([labels, *(pair[1] for pair in more)])
    with torch.no_grad():
        return float(cross_entropy(model(rows).logits.flatten(0, 1), labels.flatten()))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder of transformers, and its loss."""
    place = tmp_path_factory.mktemp("begun")
    return place, theirs(tiny_recipe(), place / "folder")


def begin(place: Path, run: Path, recipe: PretrainRecipe) -> None:
    path = run.with_name("recipe.toml")
    path.write_text(tomli_w.dumps(to_tables(recipe)))
    arguments = ("import", "huggingface", place / "folder", run, path, "--repository", "a/model")
    assert exchange.main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize(
    ("pipeline", "tensor", "world", "dtype"),
    [(2, 1, 4, "fp32"), (1, 2, 2, "fp32"), (1, 1, 1, "fp16")],
)
def test_the_first_loss_is_that_of_transformers(
    begun: tuple[Path, float], tmp_path: Path, pipeline: int, tensor: int, world: int, dtype: str
) -> None:
    place, loss = begun
    recipe = tiny_recipe(pipeline, tensor, precision={"dtype": dtype})
    begin(place, tmp_path / "run", recipe)
    ranks = train(recipe, world, tmp_path / "run")
    assert {(rank["resumed"], rank["step"]) for rank in ranks} == {(0, STEPS)}
    assert ranks[0]["messages"] == [
        f"checkpoint step-00000000 holds weights alone (imported from huggingface "
        f"{place / 'folder'}): the optimizer's moments, the learning-rate schedule and the data "
        "begin anew"
    ]
    found = losses(tmp_path / "run")
    assert len(found) == STEPS
    # fp32: another order of sums; fp16: what half precision leaves of a loss of about 5.
    assert found[0] == pytest.approx(loss, abs=2e-5 if dtype == "fp32" else 5e-4)
    assert found[-1] < found[0] - 0.1

    # Another half of the run goes on from a checkpoint with moments, as any run does.
    last = step_directory(tmp_path / "run/checkpoints", STEPS)
    assert Checkpoint.open(last).kinds().count("exp_avg") == 1
    assert Checkpoint.open(last).state["began_with"]["repository"] == "a/model"
    longer = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=STEPS + 1))
    assert {rank["resumed"] for rank in train(longer, world, tmp_path / "run")} == {STEPS}
    more = open_source(step_directory(tmp_path / "run/checkpoints", STEPS + 1))
    assert more.state["began_with"]["repository"] == "a/model"
    half = {"fp16": torch.float16}.get(dtype, torch.float32)
    assert more.dtype == half, "the run's own, not the import's"


def test_a_damaged_checkpoint_is_no_such_beginning(
    begun: tuple[Path, float], tmp_path: Path
) -> None:
    """One kind of moments missing, or both after an update, is damage."""
    place, _ = begun
    run, recipe = tmp_path / "run", tiny_recipe()
    begin(place, run, recipe)
    first = Checkpoint.open(run / STEP)
    names = first.names("weight")
    for step, kinds in ((1, ["weight", "exp_avg"]), (2, ["weight"])):
        pairs = [
            (
                dataclasses.replace(first.fragments("weight", name)[0], kind=kind),
                first.tensor("weight", name),
            )
            for kind in kinds
            for name in names
        ]
        state = first.state | {"step": step, "updates": step, "samples": 16 * step}
        folder = step_directory(run / "checkpoints", step)
        save(folder, pairs, step=step, state=state, group=SingleProcess())
    (rank,) = train(recipe, 1, run)
    assert rank["resumed"] == 0
    assert [text.partition(": /")[0] for text in rank["messages"][:2]] == [
        "checkpoint step-00000002 is passed over",
        "checkpoint step-00000001 is passed over",
    ]
    assert "it holds no exp_avg " in rank["messages"][0]
    assert "it holds no exp_avg_sq " in rank["messages"][1]
    assert rank["messages"][2].startswith("checkpoint step-00000000 holds weights alone")


def test_weights_of_gpt_neox_begin_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its configuration, or without, where the recipe says the architecture."""
    weights = weights_of(CONFIG)
    place = write(tmp_path / "neox", CONFIG, weights, 2, dtype=torch.float16)
    recipe = dataclasses.replace(tiny_recipe(), model=CONFIG)
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(to_tables(recipe)))

    def call(run: str, *more: str) -> int:
        return exchange.main(
            ["import", "neox", str(tmp_path / "neox"), str(tmp_path / run), str(path), *more]
        )

    assert call("other", "model.rotary_pct=0.25") == 1
    assert "it has rotary_pct = 0.5, the recipe says 0.25\n" in capsys.readouterr().err
    assert call("padded", "model.vocab_size=128", "--pad-vocabulary") == 0
    assert call("one") == 0
    shutil.rmtree(place / "configs")
    assert call("two") == 0
    for run in ("one", "two", "padded"):
        source = open_source(tmp_path / run / STEP)
        assert source.dtype == torch.float16
        assert source.state["imported"]["step"] == 12
        for name, whole in weights.items():
            rows = source.tensor(name)[: len(whole)]
            assert torch.equal(rows, whole.half().float()), name
