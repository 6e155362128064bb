"""Bytes a stage: the published formulas, the model's own sizes, and what torch really keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from alpenglow.model.config import ModelConfig
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.memory import (
    excess,
    layer_activations,
    layer_stash,
    stage_memory,
    stage_parameters,
    stages_memory,
    worst_stage,
)
from alpenglow.parallel.work import Attention, Loss, Recompute, Work

INCITE_7B = ModelConfig(32, 4096, 32, 50432, use_parallel_residual=False)
LAYOUT = Layout(pipeline=12, tensor=2, data=128)
PUBLISHED = Work(2, 8, 2048, recompute="full", loss="plain")
ALPENGLOW = Work(1, 16, 2048, attention="sdpa", schedule="zb-h1")


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


class Silent:
    """A communication module of one process that pretends to have peers: sizes are the same."""

    @staticmethod
    def all_reduce(tensor: Any, **_: Any) -> None:
        """Leave the tensor as it is."""


def kept(
    model: ModelConfig,
    layout: Layout,
    stage: int,
    work: Work,
    device: str,
) -> int:
    """Bytes that autograd keeps of one micro-batch through the real slots of a stage."""
    import torch

    from alpenglow.model.layers import Attention as AttentionLayer
    from alpenglow.model.layers import TransformerLayer, rotary_table
    from alpenglow.model.stages import layer_specs, loss_function
    from alpenglow.parallel.split import bounds
    from alpenglow.parallel.tensor import TensorGroup
    from alpenglow.train.instructions import Recomputation
    from alpenglow_profiling.events import NullRecorder

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[work.dtype]
    shared = layout.tensor > 1
    group = TensorGroup(object() if shared else None, 0, layout.tensor, comm=Silent)
    slots = layer_specs(model, group, seed=None, attention=work.attention, loss=work.loss)
    edges = bounds(layout.layers_of(model.num_layers))
    with torch.device(device):
        built = [slot.build().to(dtype) for slot in slots[edges[stage] : edges[stage + 1]]]
        for slot in built:
            for parameter in slot.parameters():
                torch.nn.init.normal_(parameter, std=0.02)
    again = Recomputation(NullRecorder())
    here = torch.device(device)
    tables = rotary_table(
        work.sequence_length, model.rotary_ndims, model.rotary_emb_base, dtype, here
    )
    # Weights are counted as weights; tables are shared by all layers, as is the boolean mask.
    weights = [p for slot in built for p in slot.parameters()]
    elsewhere = {t.untyped_storage()._cdata for t in (*weights, *tables)}
    found: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in elsewhere and tensor.is_floating_point():
            found[storage._cdata] = storage  # held, so that no other takes its place
        return tensor

    shape = (work.micro_batch_size, work.sequence_length)
    if stage == 0:
        x = torch.zeros(shape, dtype=torch.int64, device=here)
    else:
        x = torch.randn(*shape, model.hidden_size, dtype=dtype, device=here, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for slot in built:
            if isinstance(slot, TransformerLayer) and work.recompute == "selective":
                for part in (m for m in slot.modules() if isinstance(m, AttentionLayer)):
                    part.run_core = again
            if isinstance(slot, TransformerLayer) and work.recompute == "full":
                x = again(slot, x)
            else:
                x = slot(x)
        if stage == layout.pipeline - 1:
            labels = torch.zeros(shape, dtype=torch.int64, device=here)
            x = loss_function(model, group)(x, labels)
    made = 0  # gradients that the fused loss has made already, of the head and of its input
    if stage == layout.pipeline - 1 and work.loss == "fused":
        node: Any = x.grad_fn
        while not hasattr(node, "gradients"):  # the mean's division lies before it
            node = node.next_functions[0][0]
        made = sum(gradient.nbytes for gradient in node.gradients)
    return made + sum(int(storage.nbytes()) for storage in found.values())


SMALL = ModelConfig(
    5, 256, 4, 1024, max_position_embeddings=128, rotary_pct=1.0, use_parallel_residual=False
)
CASES = [
    # fused attention on a CPU: torch's meta device would decompose it
    ("fp32", "plain", "none", 1, "meta"),
    ("fp16", "plain", "none", 2, "meta"),
    ("bf16", "plain", "none", 1, "meta"),
    ("fp32", "sdpa", "none", 1, "cpu"),
    ("fp16", "sdpa", "none", 2, "cpu"),
    ("bf16", "sdpa", "none", 2, "cpu"),
    ("fp16", "plain", "selective", 2, "cpu"),
    ("fp32", "sdpa", "selective", 2, "cpu"),
    ("fp16", "sdpa", "selective", 1, "cpu"),
    ("fp32", "plain", "full", 1, "cpu"),
    ("fp16", "sdpa", "full", 2, "cpu"),
]


@pytest.mark.parametrize(("parallel_residual", "loss"), [(False, "plain"), (True, "fused")])
@pytest.mark.parametrize(("dtype", "attention", "recompute", "tensor", "device"), CASES)
def test_a_stage_keeps_what_torch_keeps(
    dtype: str,
    attention: Attention,
    recompute: Recompute,
    tensor: int,
    device: str,
    parallel_residual: bool,
    loss: Loss,
) -> None:
    """Within 3 %: means and deviations of the norms come on top, two numbers a token and norm."""
    pytest.importorskip("torch")
    model = replace(SMALL, use_parallel_residual=parallel_residual)
    layout = Layout(3, tensor, layers=(2, 2, 1))
    work = Work(2, 1, 128, dtype=dtype, attention=attention, recompute=recompute, loss=loss)
    for stage in range(3):
        measured = kept(model, layout, stage, work, device)
        one = stage_memory(model, layout, stage, work)
        estimate = one.activations
        if recompute != "none":
            # What is whole again while its backward runs is kept by nobody after the forward.
            whole, rest = (
                layer_activations(model, replace(work, recompute=how), tensor)
                for how in ("none", recompute)
            )
            estimate -= whole - rest
        assert estimate == pytest.approx(measured, rel=0.03), (stage, estimate / measured)


def test_half_precision_is_korthikantis_formula_without_dropout() -> None:
    s, b, h, a, t = 2048, 2, 4096, 32, 2
    found = layer_activations(INCITE_7B, Work(b, 1, s), t)
    assert found == s * b * h * (8 + 24 / t) + 6 * a * s * s * b / t


def test_the_published_7b_fits_sixteen_gigabytes_only_with_recompute() -> None:
    full = worst_stage(INCITE_7B, LAYOUT, PUBLISHED)
    none = worst_stage(INCITE_7B, LAYOUT, replace(PUBLISHED, recompute="none"))
    assert full.total < 16e9 < none.total
    assert (none.stage, none.micro_batches) == (0, 8)
    assert excess(full, 16e9) is None
    said = excess(none, 16e9)
    assert said is not None and "\n" not in said
    for part in ("weights 0.81", "gradients 0.81", "optimizer 0.04", "activations", "buffers"):
        assert part in said


def test_alpenglow_fits_without_recompute_by_fused_attention() -> None:
    fused = worst_stage(INCITE_7B, LAYOUT, ALPENGLOW)
    plain = worst_stage(INCITE_7B, LAYOUT, replace(ALPENGLOW, attention="plain"))
    assert fused.total < 10e9
    assert plain.total > 16e9
    assert fused.micro_batches == 12


@pytest.mark.parametrize("attention", ["plain", "sdpa"])
def test_selective_recompute_leaves_no_scores(attention: Attention) -> None:
    """s b h (8 + 28/t): Korthikanti's matrices, and the fused product that the value is of."""
    work = Work(1, 1, 2048, attention=attention, recompute="selective")
    assert layer_activations(INCITE_7B, work, 2) == 2048 * 4096 * (8 + 28 / 2)


def test_in_flight_micro_batches_fall_along_the_pipeline() -> None:
    alive = [one.micro_batches for one in stages_memory(INCITE_7B, LAYOUT, PUBLISHED)]
    assert alive == [8, 8, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1]


def test_zb_h1_holds_inputs_and_output_gradients_until_the_weight_pass() -> None:
    work = replace(ALPENGLOW, micro_batches=24)
    whole = layer_activations(INCITE_7B, work, 2)
    stash = layer_stash(INCITE_7B, work, 2)
    # Widths of inputs and output gradients of four linears: two and two are whole, 1 + 4 and 3 + 4
    # shared.
    assert stash == 2048 * 4096 * 2 * (4 + 12 / 2)
    assert stash < whole
    first, later = (stage_memory(INCITE_7B, LAYOUT, s, work) for s in (0, 6))
    assert first.activations == 12 * 3 * whole  # as 1F1B: nothing waits for its weight pass
    waiting = stage_memory(INCITE_7B, LAYOUT, 6, replace(work, schedule="1f1b"))
    assert waiting.activations == 6 * 3 * whole
    # The rest of the twelve wait with their stashes.
    assert 6 * 3 * whole < later.activations <= 12 * 3 * whole


@pytest.mark.parametrize("tensor", [1, 2])
def test_a_split_layer_keeps_its_stash(tensor: int) -> None:
    """What the weight pass of a real layer holds on to, within 3 %."""
    torch = pytest.importorskip("torch")
    from alpenglow.model.layers import TransformerLayer
    from alpenglow.parallel.tensor import TensorGroup
    from alpenglow.parallel.weight_gradients import WeightGradients

    group = TensorGroup(object() if tensor > 1 else None, 0, tensor, comm=Silent)
    layer = TransformerLayer(SMALL, 0, group, seed=1, attention="sdpa")
    group.weight_gradients = later = WeightGradients()
    later.open()
    x = torch.randn(2, 128, 256, requires_grad=True)
    layer(x).square().sum().backward()
    (works,) = later._kept
    tensors = [cell.cell_contents for work in works for cell in work.__closure__ or ()]
    weights = {id(p) for p in layer.parameters()}
    held = {
        t.untyped_storage()._cdata: t.untyped_storage().nbytes()
        for t in tensors
        if isinstance(t, torch.Tensor) and id(t) not in weights
    }
    work = Work(2, 1, 128, dtype="fp32", attention="sdpa")
    assert layer_stash(SMALL, work, tensor) == pytest.approx(sum(held.values()), rel=0.03)


def test_fp32_sums_of_gradients_are_counted_once_a_parameter() -> None:
    half = stage_memory(INCITE_7B, LAYOUT, 5, PUBLISHED)
    summed = stage_memory(INCITE_7B, LAYOUT, 5, replace(PUBLISHED, fp32_gradients=True))
    assert summed.gradients - half.gradients == 4 * half.parameters
    bf16 = stage_memory(INCITE_7B, LAYOUT, 5, replace(PUBLISHED, dtype="bf16"))
    assert bf16.gradients == summed.gradients
    fp32 = replace(PUBLISHED, dtype="fp32")
    one = stage_memory(INCITE_7B, LAYOUT, 5, fp32)
    assert one == stage_memory(INCITE_7B, LAYOUT, 5, replace(fp32, fp32_gradients=True))


def test_zero_one_shares_the_optimizer_over_the_replicas() -> None:
    one, many = (stage_memory(INCITE_7B, Layout(12, 2, d), 5, PUBLISHED) for d in (1, 128))
    assert one.optimizer == 12 * one.parameters
    assert many.optimizer * 128 == one.optimizer
    assert (one.weights, one.gradients) == (many.weights, many.gradients)


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="choose from fp32, fp16, bf16"):
        Work(1, 1, 8, dtype="int8")
    with pytest.raises(ValueError, match="micro_batches = 0"):
        Work(1, 0, 8)
    with pytest.raises(ValueError, match="stage 12"):
        stage_memory(INCITE_7B, LAYOUT, 12, PUBLISHED)


def test_sequence_parallelism_shares_what_tensor_ranks_repeat() -> None:
    """Korthikanti et al. 2022, equation 4: s b h 34/t, here without dropout and its core's term."""
    plain = Work(1, 8, 2048, attention="sdpa")
    shared = replace(plain, sequence_parallel=True)
    scores = 2048 * 32 * 4  # logarithms of rows, shared by heads either way
    for tensor in (1, 2, 4, 8):
        whole, part = (layer_activations(INCITE_7B, work, tensor) for work in (plain, shared))
        assert part == pytest.approx((layer_activations(INCITE_7B, plain, 1)) / tensor)
        assert whole - part == pytest.approx(8 * 2048 * 4096 * (1 - 1 / tensor))
    assert layer_activations(INCITE_7B, plain, 1) > scores
    # A layer's input is shared too: full recompute keeps a t-th.
    whole, part = (
        layer_activations(INCITE_7B, replace(work, recompute="full"), 8) for work in (plain, shared)
    )
    assert part == whole / 8


def test_interleaved_stages_hold_more() -> None:
    """(1 + (p - 1) / (p v)) of 1F1B's first stage: Korthikanti et al. 2022, section 4.2.3."""
    one = Work(1, 32, 2048, attention="sdpa")
    layout = Layout(4, 2, 1)
    plain, twice = (
        stage_memory(INCITE_7B, layout, 0, replace(one, schedule=name)).activations
        for name in ("1f1b", "interleaved-2")
    )
    assert twice / plain == pytest.approx(1 + 3 / 8, rel=0.02)
