"""Our reduction gives what DeepSpeed's gives, and begins before the last backward has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_ranks import STEPS, assert_same_checkpoint, losses, metrics, tiny_recipe, train

pytestmark = pytest.mark.distributed
LAST = f"checkpoints/step-{STEPS:08d}"


@pytest.mark.parametrize(
    ("world", "degrees", "changes"),
    [
        (8, (2, 2), {}),
        (4, (2, 1), {"model": {"tie_word_embeddings": True}}),
        (4, (2, 1), {"precision": {"dtype": "fp16"}}),
        (4, (2, 1), {"precision": {"dtype": "fp16", "fp32_gradients": True}}),
        (
            4,
            (2, 1),
            {
                "precision": {"dtype": "fp16", "fp32_gradients": True},
                "reduction": {"dtype": "fp16"},
                "model": {"tie_word_embeddings": True},
            },
        ),
        (2, (1, 1), {"train": {"activation_checkpointing": True}}),
    ],
    ids=["3d", "tied", "fp16", "fp16-fp32", "fp32-as-fp16", "recompute"],
)
def test_two_replicas_get_the_bits_of_deepspeed(
    tmp_path: Path, world: int, degrees: tuple[int, int], changes: dict[str, dict[str, Any]]
) -> None:
    """With two replicas a sum has one order, so nothing may differ."""
    for method in ("deepspeed", "overlapped"):
        # Small buckets: every matrix is one, and some lie in both partitions.
        reduction = {"bucket": 2000, **changes.get("reduction", {}), "method": method}
        tables: dict[str, Any] = {**changes, "reduction": reduction}
        train(tiny_recipe(*degrees, **tables), world, tmp_path / method)
    assert losses(tmp_path / "overlapped") == losses(tmp_path / "deepspeed")
    assert_same_checkpoint(tmp_path / "overlapped" / LAST, tmp_path / "deepspeed" / LAST)


def test_four_replicas_and_predivision_differ_by_rounding(tmp_path: Path) -> None:
    reductions: dict[str, dict[str, Any]] = {
        "stock": {"method": "deepspeed"},
        "ours": {"bucket": 2000},
        "predivided": {"bucket": 2000, "predivide": 2.0},
    }
    for name, reduction in reductions.items():
        recipe = tiny_recipe(1, 1, batch={"micro_batch_size": 2}, reduction=reduction)
        train(recipe, 4, tmp_path / name)
    stock = [line["grad_norm"] for line in metrics(tmp_path / "stock")]
    for name in ("ours", "predivided"):
        # fp32, four summands in another order.
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "stock"), abs=1e-5)
        norms = [line["grad_norm"] for line in metrics(tmp_path / name)]
        assert norms == pytest.approx(stock, rel=1e-5)
