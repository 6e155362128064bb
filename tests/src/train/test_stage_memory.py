"""The weights, gradients and optimizer state of the real engine are those of the memory model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from distributed_ranks import run_ranks
from training_ranks import tiny_recipe

from alpenglow.model.config import ModelConfig
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.memory import stage_memory
from alpenglow.train.recipe import ParallelRecipe, PrecisionRecipe, PretrainRecipe

pytestmark = pytest.mark.distributed

LAYOUT = Layout(2, 1, 2, layers=(3, 2))
DTYPES = ("fp32", "bf16")


def recipe_of(dtype: str) -> PretrainRecipe:
    recipe = tiny_recipe()
    return dataclasses.replace(
        recipe,
        model=ModelConfig(5, 64, 4, 256, max_position_embeddings=32),
        parallel=ParallelRecipe(LAYOUT.pipeline, LAYOUT.tensor),
        precision=PrecisionRecipe(dtype="bf16" if dtype == "bf16" else "fp32"),
    )


def held(rank: int, size: int) -> dict[str, dict[str, float]]:
    """Bytes of one rank of the engine after a step, by part."""
    import torch

    from alpenglow.train.engine import Engine, start
    from alpenglow_lsf.ranks import Ranks
    from alpenglow_profiling.events import NullRecorder

    device = start(Ranks(rank, rank, size, size, "node00", "127.0.0.1", 29500), timeout_s=60)
    found = {}
    for dtype in DTYPES:
        recipe = recipe_of(dtype)
        engine = Engine.build(recipe, LAYOUT, NullRecorder(), device)
        parameters = list(engine.inner.module.parameters())
        gradients: dict[int, int] = {}

        def note(parameter: Any, seen: dict[int, int] = gradients) -> None:
            if parameter.grad is not None:
                seen[id(parameter)] = parameter.grad.nbytes

        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(note)
        batch = torch.zeros(4, 16, dtype=torch.int64)
        count = recipe.micro_batches(LAYOUT)
        engine.step(iter([(batch, batch)] * count), 1e-3)
        outer = engine.inner.optimizer
        sums = getattr(outer, "fp32_groups_gradients", None) or []
        state = [t for s in engine.optimizer.state.values() for t in s.values() if t.dim()]
        master = [p for group in engine.optimizer.param_groups for p in group["params"]]
        found[dtype] = {
            "weights": sum(p.nbytes for p in parameters),
            "gradients": sum(gradients.values()) + sum(g.nbytes for group in sums for g in group),
            "optimizer": sum(t.nbytes for t in (*state, *master)),
        }
    return found


def test_states_of_each_stage() -> None:
    """Within 3 %: DeepSpeed pads its flat partitions."""
    ranks = run_ranks(held, LAYOUT.world, timeout=120)
    for rank, by_dtype in enumerate(ranks):
        stage = LAYOUT.coordinates(rank)[0]
        for dtype in DTYPES:
            recipe = recipe_of(dtype)
            work = dataclasses.replace(recipe.work(LAYOUT), dtype=dtype)
            one = stage_memory(recipe.model, LAYOUT, stage, work)
            for part, nbytes in by_dtype[dtype].items():
                assert one.parts[part] == pytest.approx(nbytes, rel=0.03), (dtype, stage, part)
