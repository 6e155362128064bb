"""Sizes of published models, and combinations that cannot be."""

import subprocess
import sys
from dataclasses import replace

import pytest

from alpenglow.model.config import ModelConfig, local_slice, slice_numel, split_axis

SMALL = ModelConfig(num_layers=2, hidden_size=32, num_attention_heads=4, vocab_size=96)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("intermediate", [0, 80])
def test_parameters_are_the_sum_of_the_tensors(tied: bool, intermediate: int) -> None:
    config = replace(SMALL, tie_word_embeddings=tied, intermediate_size=intermediate)
    parts = [tuple((0, n) for n in shape) for shape in config.tensor_shapes().values()]
    assert sum(slice_numel(part) for part in parts) == config.parameters()
    assert ("embed_out.weight" in config.tensor_shapes()) is not tied


def test_flops_follow_narayanan() -> None:
    config = ModelConfig(32, 4096, 32, 50432)
    layers, h, vocabulary, s = 32, 4096, 50432, 2048
    formula = 72 * layers * h**2 * (1 + s / (6 * h) + vocabulary / (12 * layers * h))
    assert config.flops_per_token(s) == pytest.approx(formula, rel=1e-12)
    # Six FLOPs a matrix weight, and attention on top.
    assert config.flops_per_token(s) > 6 * (config.parameters() - vocabulary * h)
    assert config.flops_per_token(1) < 6 * config.parameters()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_attention_heads": 5}, "hidden_size = 32 .* num_attention_heads = 5"),
        ({"rotary_pct": 1.5}, "rotary_pct = 1.5"),
        ({"rotary_pct": 0.2}, "rotates 1 of them"),
        ({"num_layers": 0}, "num_layers = 0 must be positive"),
        ({"vocab_size": -1}, "vocab_size = -1 must be positive"),
        ({"initializer": "xavier"}, "'xavier'; choose small_init or normal"),
    ],
)
def test_impossible_combinations_are_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pipeline", "tensor", "words"),
    [
        (3, 1, "num_layers = 2 cannot fill pipeline = 3"),
        (1, 3, "num_attention_heads = 4 does not divide by tensor = 3"),
        (1, 8, "num_attention_heads = 4 does not divide by tensor = 8"),
    ],
)
def test_degrees_that_do_not_divide_the_model(pipeline: int, tensor: int, words: str) -> None:
    SMALL.check_parallel(2, 4)
    with pytest.raises(ValueError, match=words):
        SMALL.check_parallel(pipeline, tensor)


def test_vocabulary_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="vocab_size = 95 does not divide by tensor = 2"):
        replace(SMALL, vocab_size=95).check_parallel(1, 2)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_slices_tile_each_tensor(size: int) -> None:
    for name, shape in SMALL.tensor_shapes().items():
        parts = [local_slice(name, shape, rank, size) for rank in range(size)]
        whole = slice_numel(tuple((0, n) for n in shape))
        axis = split_axis(name)
        if axis is None:
            assert parts == [tuple((0, n) for n in shape)] * size
            continue
        assert sum(map(slice_numel, parts)) == whole
        edges = [part[axis] for part in parts]
        assert [e[0] for e in edges] == [0] + [e[1] for e in edges[:-1]]
    held_whole = {
        name.removeprefix("layers.0.").removeprefix("layers.1.")
        for name in SMALL.tensor_shapes()
        if split_axis(name) is None
    }
    assert held_whole == {
        "input_layernorm.weight",
        "input_layernorm.bias",
        "post_attention_layernorm.weight",
        "post_attention_layernorm.bias",
        "attention.dense.bias",
        "mlp.dense_4h_to_h.bias",
        "final_layer_norm.weight",
        "final_layer_norm.bias",
    }


def test_planning_modules_start_without_torch() -> None:
    program = (
        "import sys, alpenglow.model.config, alpenglow.parallel.layout;"
        "import alpenglow.parallel.timeline; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
