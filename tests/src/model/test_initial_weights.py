"""The same seed gives the same global tensors, whatever the layout."""

import contextlib
import io
import math
from typing import Any

import pytest
import torch
from distributed_ranks import run_ranks

from alpenglow.model import neox
from alpenglow.model.config import ModelConfig, local_slice, split_axis
from alpenglow.model.proof import cut
from alpenglow.model.stages import build_local, global_tensors, layer_specs, loss_function
from alpenglow.parallel.layout import PARTITION_METHOD, Layout, stage_layers
from alpenglow.parallel.tensor import TensorGroup

UNTIED = ModelConfig(
    num_layers=3, hidden_size=32, num_attention_heads=4, vocab_size=96, initializer="normal"
)
TIED = ModelConfig(
    num_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    vocab_size=96,
    tie_word_embeddings=True,
)
Held = tuple[str, tuple[tuple[int, int], ...], bool, bool, torch.Tensor]


def pipeline_tensors(
    rank: int, size: int, pipeline: int, tensor: int, config: ModelConfig
) -> list[Held]:
    import deepspeed
    import deepspeed.ops
    from deepspeed.pipe import PipelineModule
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    layout = Layout.of(size, pipeline, tensor)
    group = TensorGroup.create(layout, rank, comm=deepspeed.comm)
    with contextlib.redirect_stdout(io.StringIO()):
        module = PipelineModule(
            layer_specs(config, group, seed=7),
            topology=PipeModelDataParallelTopology(pipeline, tensor, layout.data),
            loss_fn=loss_function(config, group),
            partition_method=PARTITION_METHOD,
        )
    # What the planner believes of this stage is what DeepSpeed built.
    stage, _, place = layout.coordinates(rank)
    assert (group.rank, group.size) == (place, tensor)
    names = [item.name for item in global_tensors(module, config, group)]
    layers = {name.split(".")[1] for name in names if name.startswith("layers.")}
    assert len(layers) == stage_layers(config.num_layers, pipeline)[stage]
    for item in global_tensors(module, config, group):
        # DeepSpeed's gradient norm counts what is not marked on the first tensor rank only.
        marked = getattr(item.parameter, "model_parallel", False)
        assert marked is (split_axis(item.name) is not None)
    return [
        (t.name, t.slice, t.replicated, t.tied_copy, t.parameter.detach().clone())
        for t in global_tensors(module, config, group)
    ]


@pytest.mark.distributed
@pytest.mark.parametrize("config", [UNTIED, TIED], ids=["untied", "tied"])
@pytest.mark.parametrize(("pipeline", "tensor"), [(1, 2), (2, 1), (2, 2)])
def test_every_layout_starts_from_the_same_model(
    config: ModelConfig, pipeline: int, tensor: int
) -> None:
    one = build_local(config, seed=7)
    whole = {t.name: t.parameter.detach() for t in global_tensors(one, config, one.group)}
    assert list(whole) == list(config.tensor_shapes())
    ranks: list[Any] = run_ranks(
        pipeline_tensors, pipeline * tensor, pipeline, tensor, config, timeout=60
    )
    covered = {name: torch.zeros(shape) for name, shape in config.tensor_shapes().items()}
    for held in ranks:
        for name, part, replicated, tied_copy, value in held:
            assert torch.equal(value, cut(whole[name], part)), name
            assert replicated is (value.shape == whole[name].shape)
            if not tied_copy:
                cut(covered[name], part).add_(1)
    for name, count in covered.items():
        copies = tensor if split_axis(name) is None else 1
        assert torch.equal(count, torch.full_like(count, copies)), name
    tied_copies = sum(tied_copy for held in ranks for _, _, _, tied_copy, _ in held)
    assert tied_copies == (tensor if config.tie_word_embeddings and pipeline > 1 else 0)


def test_a_slice_across_blocks_is_the_slice_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neox, "_BLOCK", 7 * 32)  # seven rows of 32 columns a block
    for name in ("embed_in.weight", "layers.1.attention.dense.weight"):
        shape = UNTIED.tensor_shapes()[name]
        whole = neox.initial_tensor(UNTIED, name, tuple((0, n) for n in shape), seed=3)
        for rank in range(4):
            part = local_slice(name, shape, rank, 4)
            assert torch.equal(neox.initial_tensor(UNTIED, name, part, 3), cut(whole, part))
        assert len(torch.unique(whole)) == whole.numel()  # no block drawn twice


def test_seed_and_name_both_matter() -> None:
    part = ((0, 32), (0, 32))
    name = "layers.0.attention.dense.weight"
    first = neox.initial_tensor(UNTIED, name, part, 1)
    assert not torch.equal(first, neox.initial_tensor(UNTIED, name, part, 2))
    other = name.replace("0", "1")
    assert not torch.equal(first, neox.initial_tensor(UNTIED, other, part, 1))


@pytest.mark.parametrize(
    ("initializer", "name", "spread"),
    [
        ("small_init", "embed_in.weight", math.sqrt(2 / (5 * 256))),
        ("small_init", "layers.1.attention.query_key_value.weight", math.sqrt(2 / (5 * 256))),
        ("small_init", "layers.1.attention.dense.weight", 2 / (4 * math.sqrt(256))),
        ("small_init", "layers.1.mlp.dense_4h_to_h.weight", 2 / (4 * math.sqrt(256))),
        ("normal", "embed_out.weight", 0.02),
        ("normal", "layers.1.mlp.dense_4h_to_h.weight", 0.02 / math.sqrt(8)),
    ],
)
def test_spread_of_the_initial_weights(initializer: Any, name: str, spread: float) -> None:
    config = ModelConfig(4, 256, 4, 512, initializer=initializer)
    part = tuple((0, n) for n in config.tensor_shapes()[name])
    drawn = neox.initial_tensor(config, name, part, seed=5)
    assert drawn.std().item() == pytest.approx(spread, rel=0.02)
    assert abs(drawn.mean().item()) < spread / 50
