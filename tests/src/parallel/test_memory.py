"""Bytes a stage: the published formulas, the model's own sizes, and what torch really keeps."""

from __future__ import annotations

from typing import Any

import pytest

from alpenglow.model.config import ModelConfig
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.memory import (
    Attention,
    layer_activations,
    stage_memory,
    stage_parameters,
    worst_stage,
)

INCITE_7B = ModelConfig(32, 4096, 32, 50432)
PUBLISHED = Layout(pipeline=12, tensor=2, data=128)


@pytest.mark.parametrize("pipeline", [1, 2, 12])
@pytest.mark.parametrize("tied", [False, True])
def test_the_stages_hold_the_whole_model(pipeline: int, tied: bool) -> None:
    model = ModelConfig(32, 256, 8, 1024, tie_word_embeddings=tied)
    total = sum(stage_parameters(model, Layout(pipeline), s) for s in range(pipeline))
    # A tied matrix is held twice where first and last stage are two.
    twice = 1024 * 256 if tied and pipeline > 1 else 0
    assert total == model.parameters() + twice


def test_tensor_ranks_share_matrices_and_repeat_norms() -> None:
    model = ModelConfig(4, 64, 4, 128)
    whole, half = (stage_parameters(model, Layout(1, t), 0) for t in (1, 2))
    # Whole on every rank: two norms (4h) and two biases (2h) a layer, and the final norm (2h).
    repeated = 4 * 6 * 64 + 2 * 64
    assert 2 * half - whole == repeated


@pytest.mark.parametrize("attention", ["plain", "sdpa"])
def test_a_layer_keeps_what_torch_keeps(attention: Attention) -> None:
    torch = pytest.importorskip("torch")
    from alpenglow.model.layers import TransformerLayer, rotary_table
    from alpenglow.parallel.tensor import TensorGroup

    model = ModelConfig(1, 64, 4, 128, rotary_pct=1.0, use_parallel_residual=False)
    layer = TransformerLayer(model, 0, TensorGroup(), seed=1, attention=attention)
    tables = rotary_table(32, 16, model.rotary_emb_base, torch.float32, torch.device("cpu"))
    # Weights are counted as weights; tables are shared by all layers, as is the boolean mask.
    elsewhere = {p.untyped_storage().data_ptr() for p in (*layer.parameters(), *tables)}
    kept: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in elsewhere and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(2, 32, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = layer(x)
    estimate = layer_activations(
        model, micro_batch_size=2, sequence_length=32, tensor=1, dtype="fp32", attention=attention
    )
    assert out.shape == x.shape
    # Means and deviations of the norms come on top: two numbers a token.
    assert 0.97 * sum(kept.values()) < estimate <= sum(kept.values())


def test_half_precision_is_korthikantis_formula_without_dropout() -> None:
    s, b, h, a, t = 2048, 2, 4096, 32, 2
    kept = layer_activations(
        INCITE_7B, micro_batch_size=b, sequence_length=s, tensor=t, dtype="fp16", attention="plain"
    )
    assert kept == s * b * h * (8 + 24 / t) + 6 * a * s * s * b / t


def test_the_published_7b_fits_sixteen_gigabytes_only_with_recompute() -> None:
    sizes = {"micro_batch_size": 2, "micro_batches": 8, "sequence_length": 2048}
    full = worst_stage(INCITE_7B, PUBLISHED, recompute="full", **sizes)  # type: ignore[arg-type]
    none = worst_stage(INCITE_7B, PUBLISHED, recompute="none", **sizes)  # type: ignore[arg-type]
    assert full.total < 16e9 < none.total
    assert (none.stage, none.micro_batches) == (0, 8)


@pytest.mark.parametrize("attention", ["plain", "sdpa"])
def test_selective_recompute_leaves_the_matrices_inputs(attention: Attention) -> None:
    """A stage of one layer: what remains is Korthikanti et al.'s s b h (8 + 24/t), and one core."""
    layout = Layout(32, 2, 1)
    sizes = {"micro_batch_size": 1, "micro_batches": 40, "sequence_length": 2048}
    none, selective = (
        stage_memory(INCITE_7B, layout, 0, attention=attention, recompute=how, **sizes)  # type: ignore[arg-type]
        for how in ("none", "selective")
    )
    tokens_width = 2048 * 4096
    core = 16 * 2048 * 2048 * 6 if attention == "plain" else 16 * 2048 * 4 + tokens_width // 2 * 2
    # Fused attention keeps all three of the fused product with the value.
    extra = 0 if attention == "plain" else 2 * tokens_width // 2 * 2
    assert selective.activations == 32 * (tokens_width * (8 + 24 / 2) + extra) + core
    assert none.activations - selective.activations == 31 * core


def test_in_flight_micro_batches_fall_along_the_pipeline() -> None:
    alive = [
        stage_memory(
            INCITE_7B, PUBLISHED, s, micro_batch_size=2, micro_batches=8, sequence_length=2048
        ).micro_batches
        for s in range(12)
    ]
    assert alive == [8, 8, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1]


def test_zero_one_shares_the_optimizer_over_the_replicas() -> None:
    one, many = (
        stage_memory(
            INCITE_7B,
            Layout(12, 2, data),
            5,
            micro_batch_size=2,
            micro_batches=8,
            sequence_length=2048,
        )
        for data in (1, 128)
    )
    assert one.optimizer == 12 * one.parameters
    assert many.optimizer * 128 == one.optimizer
    assert (one.weights, one.gradients) == (many.weights, many.gradients)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="choose from fp32, fp16, bf16"):
        stage_memory(
            INCITE_7B,
            PUBLISHED,
            0,
            micro_batch_size=1,
            micro_batches=1,
            sequence_length=8,
            dtype="int8",
        )
