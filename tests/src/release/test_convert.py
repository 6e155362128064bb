"""A checkpoint to a Hugging Face folder: equal logits, both config forms, clear errors."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
import torch
from distributed_ranks import run_ranks
from release_run import CONFIG, TEXT, VOCABULARY, tensors, write_checkpoint
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from alpenglow.config import ConfigError, load
from alpenglow.data.catalogue import Catalogue
from alpenglow.exchange.fragments import FragmentSource
from alpenglow.model.config import ModelConfig
from alpenglow.model.stages import build_local, global_tensors
from alpenglow.parallel.tensor import TensorGroup
from alpenglow.release.__main__ import main
from alpenglow.release.convert import ConvertRecipe, convert
from alpenglow.release.huggingface import SHARD_BYTES, config_json, write_release
from alpenglow.release.verification.trial_tokens import real_tokens
from alpenglow.release.verification.verify import LOGIT_TOLERANCE, compare_tensors
from alpenglow.train.checkpoint import (
    DistributedGroup,
    Fragment,
    SingleProcess,
    save,
    step_directory,
)

RECIPE = Path(__file__).parents[3] / "jobs" / "convert.toml"


def tp2_rank(
    rank: int, size: int, run: str, config: ModelConfig, tokens: torch.Tensor
) -> torch.Tensor:
    """Write a checkpoint as tensor-parallel ranks do; returns the logits that they compute."""
    group = TensorGroup(torch.distributed.group.WORLD, rank, size)
    model = build_local(config, group)
    weights = tensors(config)
    model.load_global(lambda name, part: weights[name][tuple(slice(a, b) for a, b in part)])
    pairs = []
    for tensor in global_tensors(model, config, group):
        if not (tensor.replicated and rank > 0):
            data = tensor.parameter.detach()
            shape, part = tensor.global_shape, tensor.slice
            fragment = Fragment.of("weight", tensor.name, data, global_shape=shape, slice=part)
            pairs.append((fragment, data))
    folder = step_directory(Path(run) / "checkpoints", 20)
    state = {"model": dataclasses.asdict(config), "tokens": 20480}
    save(folder, pairs, step=20, state=state, group=DistributedGroup("h1"))
    with torch.no_grad():
        return group.gather_last(model(tokens))


@pytest.mark.distributed
@pytest.mark.parametrize(("parallel_residual", "tied"), [(False, False), (True, True)])
def test_a_tp2_checkpoint_gives_equal_logits(
    run: Path, parallel_residual: bool, tied: bool
) -> None:
    """Two ranks of their own; every other shape is in test_proof."""
    config = dataclasses.replace(
        CONFIG,
        use_parallel_residual=parallel_residual,
        tie_word_embeddings=tied,
        rotary_pct=1.0 if tied else 0.25,
    )
    tokens = real_tokens(Catalogue.load(run.parents[1] / "shards"), VOCABULARY, 64)
    trained = run_ranks(tp2_rank, 2, str(run), config, tokens)
    assert torch.equal(trained[0], trained[1])
    output, outcome = convert(ConvertRecipe(run=run))
    assert outcome is not None
    assert outcome.difference < LOGIT_TOLERANCE
    assert outcome.positions == 128
    model = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    with torch.no_grad():
        released = model(tokens).logits
    assert float((released - trained[0]).abs().max()) < LOGIT_TOLERANCE
    assert float(trained[0].abs().max()) > 1, "the comparison would mean little on tiny logits"
    assert model.config.use_parallel_residual is parallel_residual


def test_the_folder_and_the_command(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(run, 20, CONFIG)
    assert main([str(RECIPE), f"run={run}", "prompt=Licensed under"]) == 0
    folder = run / "release" / "huggingface"
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "conversion.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["huggingface"]
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_parameters"] == {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
    }
    assert (config["rotary_pct"], config["rotary_emb_base"]) == (0.25, 10000)
    assert config["use_parallel_residual"] is False
    assert (config["dtype"], config["torch_dtype"]) == ("float32", "float32")
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 0)
    assert config["vocab_size"] == VOCABULARY
    tokenizer = AutoTokenizer.from_pretrained(folder)
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer(TEXT).input_ids == raw.encode(TEXT).ids
    # transformers before 4.45 reads merges in this form only; the tokenizer is the same.
    ours_too = json.loads((run.parents[1] / "shards" / "tokenizer.json").read_text())
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    assert merges == [" ".join(pair) for pair in ours_too["model"]["merges"]]
    assert raw.to_str() == Tokenizer.from_str(json.dumps(ours_too)).to_str()
    assert tokenizer.decode(tokenizer(TEXT[:500]).input_ids) == TEXT[:500]
    assert tokenizer.eos_token_id == 0
    weights = load_file(folder / "model.safetensors")
    ours = tensors(CONFIG)
    assert weights.keys() == {n if n.startswith("embed_out") else f"gpt_neox.{n}" for n in ours}
    assert torch.equal(weights["embed_out.weight"], ours["embed_out.weight"])
    said = capfd.readouterr().out
    assert "verified: 28 tensors equal bit for bit" in said
    assert "sample: 'Licensed under" in said
    progress = json.loads((run / "progress.json").read_text())
    assert (progress["activity"], progress["done"], progress["total"]) == ("convert", 29, 29)


def test_shards_with_an_index_above_the_limit(run: Path, tmp_path: Path) -> None:
    checkpoint = FragmentSource.open(write_checkpoint(run, 20, CONFIG))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder, limit in ((whole, SHARD_BYTES), (cut, 40_000)):
        folder.mkdir()
        tokenizer = run.parents[1] / "shards" / "tokenizer.json"
        write_release(folder, checkpoint, tokenizer, shard_bytes=limit)
        assert compare_tensors(folder, checkpoint) == 28
    files = sorted(cut.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    largest = VOCABULARY * 32 * 4
    assert all(f.stat().st_size < max(40_000, largest) + 4096 for f in files)
    index = json.loads((cut / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == CONFIG.parameters() * 4
    assert set(index["weight_map"].values()) == {f.name for f in files}
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        one, other = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits
            for folder in (whole, cut)
        )
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_a_smaller_dtype_is_verified_as_exactly(
    run: Path, dtype: str, torch_dtype: torch.dtype
) -> None:
    write_checkpoint(run, 20, CONFIG)
    output, outcome = convert(ConvertRecipe(run=run, dtype=dtype))  # type: ignore[arg-type]
    assert outcome is not None
    assert outcome.difference < LOGIT_TOLERANCE
    assert load_file(output / "model.safetensors")["embed_out.weight"].dtype == torch_dtype
    assert AutoModelForCausalLM.from_pretrained(output, dtype="auto").dtype == torch_dtype


def test_master_weights_go_before_rounded_ones(run: Path) -> None:
    folder = step_directory(run / "checkpoints", 20)
    pairs = []
    for name, tensor in tensors(CONFIG).items():
        half = tensor.to(torch.float16)
        pairs += [
            (Fragment.of("weight", name, half), half),
            (Fragment.of("master", name, tensor), tensor),
        ]
    state = {"model": dataclasses.asdict(CONFIG)}
    save(folder, pairs, step=20, state=state, group=SingleProcess())
    output, _ = convert(ConvertRecipe(run=run, dtype="fp32", verify=False))
    exact = load_file(output / "model.safetensors")["embed_out.weight"]
    assert torch.equal(exact, tensors(CONFIG)["embed_out.weight"])
    output, _ = convert(ConvertRecipe(run=run))
    assert load_file(output / "model.safetensors")["embed_out.weight"].dtype == torch.float16


def test_a_mismatch_ends_the_job_and_leaves_no_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(run, 20, CONFIG)
    # The folder says another residual form than the model was trained with.
    written = "alpenglow.release.huggingface.config_json"
    wrong = dataclasses.replace(CONFIG, use_parallel_residual=True)
    monkeypatch.setattr(written, lambda _, *rest: config_json(wrong, *rest))
    assert main([str(RECIPE), f"run={run}"]) == 1
    assert "alpenglow release convert: huggingface" in capfd.readouterr().err
    assert list((run / "release").iterdir()) == []


def test_the_environment_goes_before_the_recipe(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(run, 20, CONFIG)
    monkeypatch.setenv("ALPENGLOW_RUN", str(run))
    assert main([str(RECIPE), "verify=false"]) == 0
    assert (run / "release" / "huggingface" / "README.md").is_file()


def test_the_shipped_recipe_is_the_default_one() -> None:
    assert load(RECIPE, ConvertRecipe) == ConvertRecipe()
    assert "laptop" not in tomllib.loads(RECIPE.read_text())
    with pytest.raises(ConfigError, match="step = True"):
        ConvertRecipe(step=True)
