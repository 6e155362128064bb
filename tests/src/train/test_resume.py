"""A run that was cut in two is the run that was not, bit for bit; and other layouts agree."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_ranks import (
    STEPS,
    assert_same_checkpoint,
    losses,
    metrics,
    tiny_recipe,
    train,
)

from alpenglow.train.stop import MORE_TO_DO

pytestmark = pytest.mark.distributed
LAST = f"checkpoints/step-{STEPS:08d}"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps in one go on one rank: what every layout is compared with."""
    run = tmp_path_factory.mktemp("straight")
    assert [rank["code"] for rank in train(tiny_recipe(), 1, run)] == [0]
    assert losses(run)[-1] < losses(run)[0] - 0.1
    return run


@pytest.mark.parametrize(
    ("world", "pipeline", "tensor", "dtype"),
    [(8, 2, 2, "fp32"), (4, 2, 1, "fp16"), (4, 2, 1, "bf16")],
)
def test_three_steps_and_three_are_six(
    tmp_path: Path, world: int, pipeline: int, tensor: int, dtype: str
) -> None:
    recipe = tiny_recipe(pipeline, tensor, precision={"dtype": dtype})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(recipe, world, whole)

    first = train(recipe, world, cut, stop_after=3)
    assert {rank["code"] for rank in first} == {MORE_TO_DO}
    assert {rank["step"] for rank in first} == {3}
    second = train(recipe, world, cut)
    assert {rank["code"] for rank in second} == {0}
    assert {rank["resumed"] for rank in second} == {3}

    same = ("step", "loss", "lr", "grad_norm", "loss_scale", "tokens")
    assert [[line[key] for key in same] for line in metrics(cut)] == [
        [line[key] for key in same] for line in metrics(whole)
    ]
    assert_same_checkpoint(cut / LAST, whole / LAST)


@pytest.mark.parametrize(
    ("world", "pipeline", "tensor"), [(2, 2, 1), (2, 1, 2), (2, 1, 1)], ids=["pp2", "tp2", "dp2"]
)
def test_layouts_agree(
    straight: Path, tmp_path: Path, world: int, pipeline: int, tensor: int
) -> None:
    train(tiny_recipe(pipeline, tensor), world, tmp_path)
    # Sums are taken in another order, so fp32 differs in the last digits.
    assert losses(tmp_path) == pytest.approx(losses(straight), abs=1e-4)
    norms = [line["grad_norm"] for line in metrics(tmp_path)]
    assert norms == pytest.approx([line["grad_norm"] for line in metrics(straight)], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"train": {"recompute": "full"}}, {"model": {"tie_word_embeddings": True}}],
    ids=["recompute", "tied"],
)
def test_a_checkpoint_goes_on_in_another_layout(
    straight: Path, tmp_path: Path, changes: dict[str, dict[str, object]]
) -> None:
    train(tiny_recipe(2, 1, **changes), 4, tmp_path, stop_after=3)
    second = train(tiny_recipe(1, 2, **changes), 2, tmp_path)
    assert {rank["resumed"] for rank in second} == {3}
    reference = straight
    if "model" in changes:  # another model: its own straight run
        reference = tmp_path / "reference"
        train(tiny_recipe(1, 1, **changes), 1, reference)
    assert losses(tmp_path) == pytest.approx(losses(reference), abs=1e-4)


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path) -> None:
    recipe = tiny_recipe(2, 1, train={"checkpoint_every": 2})
    whole = tmp_path / "whole"
    train(recipe, 2, whole)
    cut = tmp_path / "cut"
    train(recipe, 2, cut, stop_after=4)
    container = cut / "checkpoints/step-00000004/node00.fragments"
    content = bytearray(container.read_bytes())
    content[len(content) // 3] ^= 1
    container.write_bytes(content)

    ranks = train(recipe, 2, cut)
    assert {rank["resumed"] for rank in ranks} == {2}
    (message,) = ranks[0]["messages"]
    assert "step-00000004" in message
    assert "checksum" in message
    assert_same_checkpoint(cut / LAST, whole / LAST)
