"""Hugging Face folders in: what transformers saves, in every dtype and file form, and back."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from own_memory import anonymous
from release_run import CONFIG, make_run, tensors
from safetensors.torch import load_file, save_file
from training_ranks import tiny_recipe
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from alpenglow.config import to_tables
from alpenglow.exchange import __main__ as exchange
from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.fragments import FragmentSource
from alpenglow.exchange.source import open_source
from alpenglow.exchange.weights import import_weights
from alpenglow.model.config import ModelConfig
from alpenglow.release.huggingface import write_release
from alpenglow.train.checkpoint import Checkpoint

MODEL = dataclasses.replace(CONFIG, initializer="normal", rotary_pct=1.0)
STEP = "checkpoints/step-00000000"


def save(folder: Path, config: ModelConfig, dtype: torch.dtype = torch.float32, **how: Any) -> Path:
    """Let transformers save a model with our test's weights."""
    fields = config.huggingface_fields()
    fields |= {"initializer_range": config.initializer_range}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**fields)).to(dtype)
    theirs = dict(model.named_parameters(remove_duplicate=False))
    theirs["gpt_neox.embed_out.weight"] = model.get_output_embeddings().weight
    with torch.no_grad():
        for name, tensor in tensors(config, seed=11).items():
            theirs[f"gpt_neox.{name}"].copy_(tensor)
    model.save_pretrained(folder, **how)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make_run(root := tmp_path_factory.mktemp("tokenizer"))
    return root / "shards/tokenizer.json"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return save(tmp_path / "folder", MODEL)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    body = json.loads(path.read_text())
    for key, value in changes.items():
        body.pop(key, None)
        if value is not ...:
            body[key] = value
    path.write_text(json.dumps(body))


def refusal(path: Path) -> str:
    with pytest.raises(ExchangeError) as caught:
        open_source(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text


def recipe_of(folder: Path, model: ModelConfig) -> Path:
    path = folder / "recipe.toml"
    recipe = dataclasses.replace(tiny_recipe(), model=model)
    path.write_text(tomli_w.dumps(to_tables(recipe)))
    return path


def call(*arguments: object) -> int:
    return exchange.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_there_and_back_bit_for_bit(
    tmp_path: Path, tokenizer: Path, dtype: torch.dtype, tied: bool
) -> None:
    config = dataclasses.replace(
        MODEL, tie_word_embeddings=tied, use_parallel_residual=tied, initializer_range=0.01
    )
    folder = save(tmp_path / "folder", config, dtype, max_shard_size="60KB")
    assert (folder / "model.safetensors.index.json").is_file()
    source = open_source(folder)
    assert (source.form, source.step, source.dtype, source.config) == (
        "huggingface",
        None,
        dtype,
        config,
    )
    assert call("import", "huggingface", folder, tmp_path / "run", recipe_of(tmp_path, config)) == 0

    step = tmp_path / "run" / STEP
    checkpoint = Checkpoint.open(step)
    assert checkpoint.verify() == []
    assert checkpoint.kinds() == ["weight"]
    ours = open_source(step)
    assert isinstance(ours, FragmentSource)
    assert (ours.config, ours.dtype) == (config, dtype)
    assert {ours.stored(name) for name in config.tensor_shapes()} == {torch.float32}
    (tmp_path / "back").mkdir()
    write_release(tmp_path / "back", ours, tokenizer)
    there: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        there |= load_file(file)
    back = load_file(tmp_path / "back/model.safetensors")
    assert back.keys() == there.keys()
    for name, tensor in there.items():
        assert tensor.dtype == back[name].dtype == dtype
        assert torch.equal(tensor, back[name]), name
    again = open_source(tmp_path / "back")
    assert (again.config, again.dtype) == (config, dtype)


@pytest.mark.parametrize("shards", [False, True])
def test_the_older_form_of_weights(tmp_path: Path, place: Path, shards: bool) -> None:
    weights = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    weights["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    weights["gpt_neox.layers.1.attention.rotary_emb.inv_freq"] = torch.ones(4)
    if shards:
        halves = list(weights)[::2], list(weights)[1::2]
        index: dict[str, str] = {}
        for number, names in enumerate(halves):
            file = f"pytorch_model-{number}.bin"
            torch.save({name: weights[name] for name in names}, place / file)
            index |= dict.fromkeys(names, file)
        (place / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    else:
        torch.save(weights, place / "pytorch_model.bin")
    source = open_source(place)
    for name, tensor in tensors(MODEL, seed=11).items():
        assert torch.equal(source.tensor(name), tensor)
    box = ((3, 9), (1, 2))
    assert torch.equal(
        source.tensor("embed_in.weight", box), tensors(MODEL, seed=11)["embed_in.weight"][3:9, 1:2]
    )
    if shards:
        (place / "pytorch_model-1.bin").unlink()
        assert "pytorch_model-1.bin: missing, " in refusal(place)
        return

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save(weights | {"trap": Trap()}, place / "pytorch_model.bin")
    assert "refused: it asks for posix.system, which could run code" in refusal(place)
    assert not (tmp_path / "ran").exists()


def test_both_forms_of_rotary_settings(place: Path) -> None:
    edit(place, rope_parameters=..., rotary_pct=0.5, rotary_emb_base=20000)
    config = open_source(place).config
    assert (config.rotary_pct, config.rotary_emb_base) == (0.5, 20000)
    edit(place, rotary_pct=..., rotary_emb_base=..., rope_scaling=None)
    assert open_source(place).config.rotary_pct == 0.25  # as transformers
    table = {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5}
    edit(place, rope_parameters=table)
    config = open_source(place).config
    assert (config.rotary_pct, config.rotary_emb_base) == (0.5, 500000)
    edit(place, rotary_pct=0.5, rotary_emb_base=10000)
    assert "rope_theta and rotary_emb_base disagree: 500000 and 10000" in refusal(place)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "llama"}, "model_type = 'llama' cannot be expressed"),
        ({"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new' cannot be expressed"),
        ({"attention_bias": False}, "attention_bias = False cannot be expressed"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_type = 'linear' cannot be expressed"),
        ({"rope_scaling": {"type": "dynamic"}}, "rope_type = 'dynamic' cannot be expressed"),
        ({"num_hidden_layers": ...}, "num_hidden_layers = None is not a whole number"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps = 'small' is not a number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings = 'no' is neither true nor false"),
        ({"num_attention_heads": 5}, "is not a multiple of num_attention_heads"),
        ({"rope_parameters": {"rope_theta": 1.5}}, "rotary_emb_base = 1.5 is not a whole number"),
        ({"vocab_size": 385}, "embed_out.weight is [384, 32], config.json wants [385, 32]"),
        ({"num_hidden_layers": 1}, "gpt_neox.layers.1.attention.dense.bias is no part of the"),
        ({"num_hidden_layers": 3}, "gpt_neox.layers.2.input_layernorm.weight is in none of its"),
    ],
)
def test_a_folder_that_cannot_be_expressed(
    place: Path, changes: dict[str, object], told: str
) -> None:
    edit(place, **changes)
    assert told in refusal(place)


def test_damaged_folders(place: Path) -> None:
    file = place / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert f"{file}: damaged (" in refusal(place)
    weights = load_file_of(whole)
    save_file({name: tensor.double() for name, tensor in weights.items()}, file)
    assert "is F64; fp32, fp16 or bf16 is read" in refusal(place)
    file.unlink()
    assert "no weights in it (looked for model.safetensors, " in refusal(place)
    index = place / "model.safetensors.index.json"
    index.write_text("[]")
    assert refusal(place) == f"{index}: not an index of weight files"
    index.unlink()
    (place / "config.json").write_text("{")
    assert f"{place / 'config.json'}: not readable (" in refusal(place)
    (place / "config.json").unlink()
    file.write_bytes(whole)
    assert refusal(place) == f"{place / 'config.json'}: missing: not a Hugging Face folder"


def load_file_of(whole: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    assert struct.unpack_from("<Q", whole)[0] < len(whole)
    found: dict[str, torch.Tensor] = load(whole)
    return found


def test_a_trimmed_vocabulary_is_padded_on_demand(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = dataclasses.replace(MODEL, vocab_size=512)
    arguments = ("import", "huggingface", place, tmp_path / "run", recipe_of(tmp_path, larger))
    assert call(*arguments) == 1
    assert capsys.readouterr().err.endswith(
        "it has vocab_size = 384, the recipe says 512; set model.vocab_size=384, or add "
        "--pad-vocabulary, which gives the 128 tokens more rows of zeros\n"
    )
    assert not (tmp_path / "run/checkpoints").exists()
    assert call(*arguments, "--pad-vocabulary") == 0
    source = open_source(tmp_path / "run" / STEP)
    assert source.config == larger
    for name in ("embed_in.weight", "embed_out.weight"):
        tensor = source.tensor(name)
        assert torch.equal(tensor[:384], tensors(MODEL, seed=11)[name])
        assert not tensor[384:].any()
    assert call(*arguments) == 1
    assert "this run has checkpoints already" in capsys.readouterr().err
    # From a step of one run into a fresh one.
    begun = ("import", "fragments", tmp_path / "run" / STEP, tmp_path / "next")
    assert call(*begun, recipe_of(tmp_path, larger)) == 0
    begun_with = open_source(tmp_path / "next" / STEP)
    assert begun_with.dtype == torch.float32
    for name in larger.tensor_shapes():
        assert torch.equal(begun_with.tensor(name), source.tensor(name))


def test_what_cannot_be_asked_for(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(tmp_path, dataclasses.replace(MODEL, rotary_pct=0.25))
    assert call("import", "huggingface", place, tmp_path / "run", recipe) == 1
    assert "it has rotary_pct = 1.0, the recipe says 0.25\n" in capsys.readouterr().err
    for arguments in (
        ("export", "neox", tmp_path, place, recipe),
        ("import", "universal", place, tmp_path / "run", recipe, "--pad-vocabulary"),
    ):
        with pytest.raises(SystemExit, match="2"):
            call(*arguments)
    assert not (tmp_path / "run").exists()


def test_a_source_that_breaks_half_way_leaves_nothing(place: Path, tmp_path: Path) -> None:
    source = open_source(place)
    said: Iterator[int] = iter(range(100))

    def stop(text: str) -> None:
        if next(said) == 3:
            (place / "model.safetensors").unlink()

    with pytest.raises(ExchangeError, match="cannot be read"):
        import_weights(source, tmp_path / "run/checkpoints", MODEL, stop)
    assert not (tmp_path / "run/checkpoints").exists()


def test_an_import_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    config = dataclasses.replace(
        MODEL, num_layers=4, hidden_size=768, intermediate_size=3072, vocab_size=128
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gpt_neox", **config.huggingface_fields()})
    )
    weights = {name: torch.zeros(shape) for name, shape in config.tensor_shapes().items()}
    largest = max(tensor.nbytes for tensor in weights.values())
    whole = sum(tensor.nbytes for tensor in weights.values())
    assert whole > 10 * largest
    theirs = {n if n == "embed_out.weight" else f"gpt_neox.{n}": t for n, t in weights.items()}
    save_file(theirs, folder / "model.safetensors")
    del weights, theirs

    seen = [anonymous()]
    source = open_source(folder)
    import_weights(source, tmp_path / "checkpoints", config, lambda _: seen.append(anonymous()))
    assert len(seen) == 1 + len(config.tensor_shapes())
    assert max(seen) - seen[0] < 4 * largest
