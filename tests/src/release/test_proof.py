"""The proof table, row by row, and that GPT-NeoX's files here are what its forward pass says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import release_proof
import torch
from neox_files import NAMINGS, Naming, NeoxModel
from transformers.utils import logging

from alpenglow.model.config import ModelConfig
from alpenglow.model.proof import configurations
from alpenglow.model.stages import build_local
from alpenglow.release.verification.verify import LOGIT_TOLERANCE

MODELS = configurations()
NEOX_CASES = [*release_proof.neox_cases()]


def identity(value: object) -> str:
    if not isinstance(value, ModelConfig):
        return str(value)
    residual = "parallel" if value.use_parallel_residual else "serial"
    embedding = "tied" if value.tie_word_embeddings else "untied"
    return f"{residual}-{embedding}-{value.rotary_pct:g}"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Ranks are threads here, and the models are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("pipeline", release_proof.PIPELINE)
@pytest.mark.parametrize("tensor", release_proof.TENSOR)
@pytest.mark.parametrize("config", MODELS, ids=identity)
def test_a_checkpoint_of_any_layout_is_released_exactly(
    config: ModelConfig, tensor: int, pipeline: int, tmp_path: Path
) -> None:
    row = release_proof.fragments_row(config, tensor, pipeline, tmp_path)
    assert row.holds, release_proof.table([row])


@pytest.mark.parametrize(("config", "tensor", "naming"), NEOX_CASES, ids=identity)
def test_gpt_neox_files_are_released_exactly(
    config: ModelConfig, tensor: int, naming: Naming, tmp_path: Path
) -> None:
    row = release_proof.neox_row(config, tensor, naming, tmp_path)
    assert row.holds, release_proof.table([row])


def test_a_release_read_back_is_the_same_bits(tmp_path: Path) -> None:
    for number, config in enumerate(MODELS):
        folder = tmp_path / f"{number}"
        (folder / "again").mkdir(parents=True)
        release_proof.fragments_row(config, 2, 2, folder)
        assert release_proof.round_trip(folder / "release", folder / "again") == []


def test_a_proof_that_differs_says_so() -> None:
    row = release_proof.Row("fragments", 2, 1, MODELS[0], 1e-6, 2.0, 8.0)
    assert row.holds
    for change in ({"difference": 2e-4}, {"difference": float("nan")}, {"wrong": 1e-5}):
        spoilt = release_proof.Row(**{**vars(row), **change})
        assert not spoilt.holds
        assert release_proof.table([spoilt]).endswith("DIFFERS\n")
    assert not release_proof.Row(**{**vars(row), "largest": 0.01}).holds, "tiny logits prove little"


def merged(
    folder: Path, config: ModelConfig, tensor: int, naming: Naming
) -> dict[str, torch.Tensor]:
    """The whole tensors, by the rules as facts say them: a reader of a few lines, for this test."""
    other = {
        "new": {"linear1": "dense_h_to_4h", "linear2": "dense_4h_to_h"},
        "legacy": {},
        "transformer_engine": {
            "qkv.": "query_key_value.",
            "proj.": "dense.",
            "mlp.layer_norm_": "post_attention_layernorm.",
            "fc1_": "dense_h_to_4h.",
            "fc2_": "dense_4h_to_h.",
        },
    }[naming]
    whole: dict[str, torch.Tensor] = {}
    for slot in [0, *range(2, config.num_layers + 2), config.num_layers + 3, config.num_layers + 4]:
        paths = sorted(folder.glob(f"layer_{slot:02d}-model_*-model_states.pt"))
        if not paths:
            continue
        assert len(paths) == tensor
        parts = [torch.load(path, weights_only=True) for path in paths]
        for name in parts[0]:
            if name.endswith(("inv_freq", "_extra_state")):
                continue
            copies = [part[name] for part in parts]
            ours = name
            for theirs, word in other.items():
                ours = ours.replace(theirs, word)
            if ours.endswith(("attention.dense.weight", "4h_to_h.weight")):
                value = torch.cat(copies, dim=1)
            elif ours.endswith(("attention.dense.bias", "4h_to_h.bias")):
                value = sum(copies) if config.use_parallel_residual else copies[0]
            else:
                value = copies[0] if "norm" in ours else torch.cat(copies)
            room = {0: "embed_in", config.num_layers + 3: "final_layer_norm"}.get(slot)
            head = "embed_out" if slot == config.num_layers + 4 else f"layers.{slot - 2}"
            local = ours.rpartition(".")[2] if room or head == "embed_out" else ours
            whole[f"{room or head}.{local}"] = value
    return whole


def own_logits(
    config: ModelConfig, weights: dict[str, torch.Tensor], tokens: torch.Tensor
) -> torch.Tensor:
    model = build_local(config)
    model.load_global(lambda name, _: weights[name])
    with torch.no_grad():
        return model(tokens)  # type: ignore[no-any-return]


def test_the_files_hold_what_the_forward_pass_uses(tmp_path: Path) -> None:
    for number, (config, tensor, naming) in enumerate(NEOX_CASES):
        origin = NeoxModel(config, tensor, naming)
        folder = origin.write(tmp_path / f"{number}", 5)
        weights = merged(folder, config, tensor, naming)
        assert {k: tuple(v.shape) for k, v in weights.items()} == config.tensor_shapes()
        tokens = release_proof.some_tokens(config)
        difference = (own_logits(config, weights, tokens) - origin.logits(tokens)).abs().max()
        assert difference < LOGIT_TOLERANCE
        head = folder / f"layer_{config.num_layers + 4:02d}-model_00-model_states.pt"
        assert head.exists() is not config.tie_word_embeddings
        if config.use_parallel_residual and tensor > 1:
            one, other = (origin.bias(rank, 0, "dense") for rank in (0, 1))
            assert not torch.equal(one, other), (
                "copies that are alike could not tell the rules apart"
            )


def test_files_beside_the_layers(tmp_path: Path) -> None:
    origin = NeoxModel(MODELS[0], tensor=2, pipeline=2)
    folder = origin.write(tmp_path, 5, torch.float16)
    assert (tmp_path / "latest").read_text() == folder.name == "global_step5"
    assert len([*folder.glob("mp_rank_*_model_states.pt")]) == 4
    assert sorted(p.name for p in (folder / "configs").iterdir()) == [
        "local_setup.yml",
        "model.yml",
    ]
    states = torch.load(folder / "mp_rank_00_model_states.pt", weights_only=False)
    assert states["iteration"] == 5
    assert states["args"]["padded_vocab_size"] == MODELS[0].vocab_size
    layer = torch.load(folder / "layer_02-model_01-model_states.pt", weights_only=True)
    assert {value.dtype for value in layer.values()} == {torch.float16}


def test_what_conversion_cannot_bring_along(tmp_path: Path) -> None:
    """Two things that no folder of transformers' GPT-NeoX says: both move the logits visibly."""
    config = next(m for m in MODELS if m.use_parallel_residual and not m.tie_word_embeddings)
    tokens = release_proof.some_tokens(config)
    # Its fused GELU is the tanh form, while the config it is converted to says the exact one.
    exact = NeoxModel(config).logits(tokens)
    fused = NeoxModel(config, bias_gelu_fusion=True).logits(tokens)
    assert LOGIT_TOLERANCE < (fused - exact).abs().max() < 0.1
    # Under Transformer Engine the branches of a parallel residual are summed twice.
    for tensor, naming in itertools.product((2, 4), NAMINGS):
        origin = NeoxModel(config, tensor, naming)
        assert origin.reduces_twice is (naming == "transformer_engine")
    origin = NeoxModel(config, 2, "transformer_engine")
    weights = merged(origin.write(tmp_path, 5), config, 2, "transformer_engine")
    assert (own_logits(config, weights, tokens) - origin.logits(tokens)).abs().max() > 0.1
    for name in weights:
        if name.endswith(("attention.dense.weight", "mlp.dense_4h_to_h.weight")):
            weights[name] = 2 * weights[name]
    assert (own_logits(config, weights, tokens) - origin.logits(tokens)).abs().max() < 1e-4
