"""ZB-H1 on the real engine: the bits of stock 1F1B, and the activations that were computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed_ranks import run_ranks
from training_ranks import assert_same_checkpoint, losses, metrics, tiny_recipe, train

from alpenglow.parallel.schedule import in_flight
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.stop import MORE_TO_DO

pytestmark = pytest.mark.distributed

FOUR: dict[str, Any] = {"model": {"num_layers": 4}, "batch": {"micro_batch_size": 1}}
SERIAL = {"num_layers": 4, "use_parallel_residual": False}
TIED = {"num_layers": 4, "tie_word_embeddings": True}
CASES: dict[str, PretrainRecipe] = {
    # Sixteen sequences: pp4 has 16 micro-batches of one, pp2 dp2 two of four, pp2 tp2 four of four.
    "pp4": tiny_recipe(4, 1, **FOUR),
    "pp4 serial": tiny_recipe(4, 1, model=SERIAL, batch={"micro_batch_size": 8}),
    "pp4 tied": tiny_recipe(4, 1, model=TIED),
    "pp4 bf16": tiny_recipe(4, 1, **FOUR, precision={"dtype": "bf16"}),
    "pp4 fp16": tiny_recipe(4, 1, **FOUR, precision={"dtype": "fp16"}),
    "pp4 fp16, fp32 sums": tiny_recipe(
        4, 1, **FOUR, precision={"dtype": "fp16", "fp32_gradients": True}
    ),
    "pp4 fp16, overflow": tiny_recipe(
        4, 1, **FOUR, precision={"dtype": "fp16", "initial_scale_power": 24, "hysteresis": 1}
    ),
    "pp4 tied bf16": tiny_recipe(4, 1, model=TIED, precision={"dtype": "bf16"}),
    "pp2 dp2": tiny_recipe(2, 1),
    "pp2 dp2 tied": tiny_recipe(2, 1, model=TIED),
    "pp2 dp2 fp16": tiny_recipe(2, 1, precision={"dtype": "fp16"}),
    "pp2 tp2": tiny_recipe(2, 2),
    "pp2 tp2 tied, whole": tiny_recipe(2, 2, model=TIED, parallel={"slice_transfers": False}),
    "pp2 tp2 selective": tiny_recipe(2, 2, model=SERIAL, train={"recompute": "selective"}),
    "pp2 tp2 full": tiny_recipe(2, 2, model=SERIAL, train={"recompute": "full"}),
    "pp4 full": tiny_recipe(4, 1, **FOUR, train={"recompute": "full"}),
    "pp4 selective bf16": tiny_recipe(
        4, 1, **FOUR, train={"recompute": "selective"}, precision={"dtype": "bf16"}
    ),
}


def worker(rank: int, size: int, cases: dict[str, PretrainRecipe]) -> dict[str, Any]:
    import dataclasses

    from deepspeed.accelerator import get_accelerator

    from alpenglow.train.engine import start
    from alpenglow_lsf.ranks import Ranks

    device = start(Ranks(rank, rank, size, size, "node00", "127.0.0.1", 29500), timeout_s=60)
    get_accelerator().is_fp16_supported = lambda: True
    found = {}
    for name, recipe in cases.items():
        runs = []
        for schedule in ("1f1b", "zb-h1"):
            parallel = dataclasses.replace(recipe.parallel, schedule=schedule)
            # Ours sums within the last backward; what each rank has before the sum is looked at.
            stock = dataclasses.replace(recipe.reduction, method="deepspeed")
            changed = dataclasses.replace(recipe, parallel=parallel, reduction=stock)
            runs.append(one_run(changed, device, rank, size))
        found[name] = tuple(runs)
    return found


def one_run(recipe: PretrainRecipe, device: Any, rank: int, size: int) -> dict[str, Any]:
    """Three steps and an evaluation: everything that must not depend on the schedule."""
    import torch
    from deepspeed.runtime.pipe import schedule as instructions
    from torch.multiprocessing.reductions import StorageWeakRef

    from alpenglow.model.layers import Attention
    from alpenglow.train.engine import Engine
    from alpenglow_profiling.events import NullRecorder

    layout = recipe.layout(size)
    engine = Engine.build(recipe, layout, NullRecorder(), device)
    stage, data, _ = layout.coordinates(rank)
    module = engine.inner.module
    seen: list[StorageWeakRef] = []
    peak = 0

    def arrives(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal peak
        seen.append(StorageWeakRef(inputs[0].untyped_storage()))  # type: ignore[no-untyped-call]
        peak = max(peak, sum(not held.expired() for held in seen))  # type: ignore[no-untyped-call]

    attention = next(m for m in module.modules() if isinstance(m, Attention))
    hook = attention.query_key_value.register_forward_pre_hook(arrives)
    gradients: list[torch.Tensor] = []
    kinds = dict(engine.inner._INSTRUCTION_MAP)
    reduce = kinds[instructions.ReduceTiedGrads]

    def reads(inner: Any) -> None:
        for parameter in module.parameters():
            own = getattr(parameter, "_hp_grad", None)
            own = getattr(parameter, "grad_accum", None) if own is None else own
            own = parameter.grad if own is None else own
            assert own is not None
            gradients.append(own.clone())
        reduce(inner)

    kinds[instructions.ReduceTiedGrads] = reads
    engine.inner._INSTRUCTION_MAP = kinds
    count = recipe.micro_batches(layout)
    results: list[Any] = []
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        shape = (layout.data, count, recipe.batch.micro_batch_size, recipe.batch.sequence_length)
        tokens = torch.randint(recipe.model.vocab_size, (*shape[:3], 17), generator=generator)
        batches = iter([(each[:, :-1], each[:, 1:]) for each in tokens[data]])
        if step == 3:
            hook.remove()
            results.append(float(engine.inner.eval_batch(batches)))
        else:
            result = engine.step(batches, 1e-2)
            results += [result.loss, result.grad_norm, result.applied]
    return {
        "results": results,
        "gradients": [g.float().numpy() for g in gradients],
        "weights": [p.detach().float().numpy() for p in module.parameters()],
        "peak": peak,
        "stage": (layout.pipeline, count, stage),
        "class": type(engine.inner).__name__,
    }


@pytest.fixture(scope="module")
def runs() -> list[dict[str, Any]]:
    """Each case under both schedules, on the same four ranks."""
    return run_ranks(worker, 4, CASES, timeout=300)


@pytest.mark.parametrize("name", CASES)
def test_the_schedule_changes_no_bit(runs: list[dict[str, Any]], name: str) -> None:
    """Losses, gradient norms, gradients before the reduction, weights after three updates."""
    for rank in runs:
        stock, ours = rank[name]
        assert (stock["class"], ours["class"]) == ("RecordedEngine", "ZeroBubbleEngine")
        assert ours["results"] == stock["results"]
        applied = ours["results"][2::3]
        assert applied == ([False] * 3 if "overflow" in name else [True] * 3)
        assert len(ours["gradients"]) == 3 * len(ours["weights"])
        for kind in ("gradients", "weights"):
            for one, other in zip(stock[kind], ours[kind], strict=True):
                assert np.array_equal(one, other, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in CASES if "full" not in name])
def test_activations_that_live_are_those_computed(runs: list[dict[str, Any]], name: str) -> None:
    """Storages of the first product's input that were alive at once, by weak references."""
    for rank in runs:
        for one, schedule in zip(rank[name], ("1f1b", "zb-h1"), strict=True):
            pipeline, count, stage = one["stage"]
            assert one["peak"] == in_flight(pipeline, count, stage, schedule)


@pytest.mark.parametrize("tensor", [1, 2])
def test_recompute_changes_no_bit(runs: list[dict[str, Any]], tensor: int) -> None:
    full, kept = ("pp4 full", "pp4") if tensor == 1 else ("pp2 tp2 full", "pp2 tp2 selective")
    for rank in runs:
        for one, other in zip(rank[full], rank[kept], strict=True):
            assert one["results"] == other["results"]


def test_three_steps_and_three_are_six(tmp_path: Path) -> None:
    """A chain under ZB-H1 equals itself uncut, and goes on under 1F1B."""
    recipe = tiny_recipe(4, 1, **FOUR, parallel={"schedule": "zb-h1"})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(recipe, 4, whole)
    assert {rank["code"] for rank in train(recipe, 4, cut, stop_after=3)} == {MORE_TO_DO}
    assert {rank["resumed"] for rank in train(tiny_recipe(4, 1, **FOUR), 4, cut)} == {3}
    assert losses(cut) == losses(whole)
    assert [m["grad_norm"] for m in metrics(cut)] == [m["grad_norm"] for m in metrics(whole)]
    assert_same_checkpoint(cut / "checkpoints/step-00000006", whole / "checkpoints/step-00000006")
