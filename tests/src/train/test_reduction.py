"""Our reduction gives what DeepSpeed's gives, and begins before the last backward has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_ranks import run_ranks
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
        (4, (2, 1), {"parallel": {"schedule": "zb-h1"}, "model": {"tie_word_embeddings": True}}),
        (
            8,
            (4, 1),
            {
                "model": {"num_layers": 4},
                "parallel": {"schedule": "zb-h1"},
                "precision": {"dtype": "fp16", "fp32_gradients": True},
            },
        ),
        (2, (1, 1), {"train": {"recompute": "full"}}),
    ],
    ids=["3d", "tied", "fp16", "fp16-fp32", "fp32-as-fp16", "zb-h1", "zb-h1-fp16", "recompute"],
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


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_sums_begin_within_the_last_backward(schedule: str) -> None:
    """Every bucket without a tied weight travels before the instruction that waits for it."""
    launched = run_ranks(begun_early, 4, schedule)
    assert all(early == buckets > 2 for early, buckets in launched)


def begun_early(rank: int, size: int, schedule: str) -> tuple[int, int]:
    """One rank's buckets that travel when ReduceGrads comes, and all of them."""
    from alpenglow.train.engine import Engine, start
    from alpenglow.train.reduction import GradientReduction
    from alpenglow_lsf.ranks import Ranks
    from alpenglow_profiling.events import NullRecorder

    recipe = tiny_recipe(2, 1, parallel={"schedule": schedule}, reduction={"bucket": 2000})
    device = start(Ranks(rank, rank, size, size, "node00", "127.0.0.1", 29500), timeout_s=60)
    engine = Engine.build(recipe, recipe.layout(size), NullRecorder(), device)
    reduction = engine.inner.reduction
    assert reduction is not None
    early = []
    finish = reduction.finish

    def counted(_: GradientReduction = reduction) -> None:
        early.append(sum(bool(bucket.pending) for bucket in reduction._buckets))
        finish()

    reduction.finish = counted  # type: ignore[method-assign]
    tokens = torch.randint(128, (4, 17))
    batches = [(tokens[:, :-1], tokens[:, 1:])] * recipe.micro_batches(recipe.layout(size))
    engine.step(iter(batches), 1e-3)
    return early[0], len(reduction._buckets)


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
