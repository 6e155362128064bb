"""GGUF files read back with the gguf package: tensors, metadata, tokenizer, refusals."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from release_run import CONFIG, VOCABULARY, write_checkpoint
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from alpenglow.exchange.error import ExchangeError
from alpenglow.model.config import ModelConfig
from alpenglow.release.__main__ import main
from alpenglow.release.convert import ConvertRecipe, convert
from alpenglow.release.gguf import writer
from alpenglow.release.gguf.source import ReleasedFolder
from alpenglow.release.gguf.tokenizer import GPT2_SPLIT, Vocabulary
from alpenglow.release.gguf.writer import gguf_name, write


def released(run: Path, config: ModelConfig = CONFIG, dtype: str = "fp32") -> Path:
    write_checkpoint(run, 20, config)
    recipe = ConvertRecipe(run=run, verify=False, dtype=dtype)  # type: ignore[arg-type]
    return convert(recipe)[0]


def read(path: Path) -> dict[str, tuple[str, np.ndarray[Any, Any]]]:
    """Tensor name -> (type, values as fp32)."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found[tensor.name] = (tensor.tensor_type.name, np.array(values))
    return found


def field(path: Path, name: str) -> Any:
    found = gguf.GGUFReader(path).get_field(name)
    return None if found is None else found.contents()


def ungrouped(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Undo llama.cpp's order of query, key and value by plain indexing: no code of ours."""
    dim = values.shape[0] // (3 * heads)
    out = np.empty_like(values)
    for head in range(heads):
        for part in range(3):
            for d in range(dim):
                out[head * 3 * dim + part * dim + d] = values[part * heads * dim + head * dim + d]
    return out


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("type_name", "dtype"), [("f16", "fp16"), ("f32", "fp32"), ("bf16", "bf16")]
)
def test_every_tensor_is_there_bit_for_bit(
    run: Path, tmp_path: Path, tied: bool, type_name: str, dtype: str
) -> None:
    config = dataclasses.replace(CONFIG, tie_word_embeddings=tied)
    folder = ReleasedFolder.open(released(run, config, dtype))
    path = tmp_path / "model.gguf"
    assert write(folder, path, type_name).notes == []
    found = read(path)
    weights = load_file(folder.path / "model.safetensors")
    names = {name: gguf_name(name.removeprefix("gpt_neox.")) for name in weights}
    assert set(found) == {*names.values(), "output.weight"}
    for name, tensor in weights.items():
        kind, values = found[names[name]]
        assert kind == ("F32" if tensor.dim() == 1 else type_name.upper())
        if ".query_key_value." in name:
            assert not np.array_equal(values, tensor.float().numpy()), "the order must change"
            values = ungrouped(values, config.num_attention_heads)
        assert np.array_equal(values, tensor.float().numpy()), name
    if tied:
        assert np.array_equal(found["output.weight"][1], found["token_embd.weight"][1])


def test_q8_0_blocks_and_rows_that_do_not_divide(run: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, hidden_size=32, intermediate_size=48)
    folder = ReleasedFolder.open(released(run, config))
    path = tmp_path / "model.gguf"
    [note] = write(folder, path, "q8_0").notes
    assert note == "2 matrices with rows of 48 stay f16: q8_0 needs rows that divide by 32."
    found = read(path)
    assert {kind for name, (kind, _) in found.items() if "ffn_down.weight" in name} == {"F16"}
    weights = load_file(folder.path / "model.safetensors")
    for name in ("gpt_neox.embed_in.weight", "embed_out.weight"):
        kind, values = found[gguf_name(name.removeprefix("gpt_neox."))]
        assert kind == "Q8_0"
        wanted = weights[name].numpy()
        # a block of 32 has one scale, its largest value / 127: half a step, and the fp16 scale
        scale = np.abs(wanted.reshape(-1, 32)).max(axis=1) / 127
        error = np.abs(values - wanted).reshape(-1, 32).max(axis=1)
        assert (error <= scale * (0.5 + 127 * 2**-11)).all()
        assert error.max() > 0
    assert field(path, "general.file_type") == gguf.LlamaFileType.MOSTLY_Q8_0


def test_the_size_of_a_block_of_rows_changes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ReleasedFolder.open(released(run))
    for type_name in ("f16", "q8_0"):
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        write(folder, whole, type_name)
        with monkeypatch.context() as patch:
            patch.setattr(writer, "BLOCK_BYTES", 7 * 4 * 32)  # seven rows of most matrices
            write(folder, cut, type_name)
        assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("parallel", [False, True])
def test_everything_is_said_in_the_metadata(run: Path, tmp_path: Path, parallel: bool) -> None:
    config = dataclasses.replace(
        CONFIG, use_parallel_residual=parallel, rotary_pct=0.5, rotary_emb_base=5000
    )
    folder = released(run, config)
    card = (folder / "README.md").read_text().replace("license: unknown", "license: apache-2.0")
    (folder / "README.md").write_text(card)
    path = tmp_path / "model.gguf"
    write(ReleasedFolder.open(folder), path, "f16")
    said = {
        "general.architecture": "gptneox",
        "general.name": 'tiny: a "test", step 20',
        "general.license": "apache-2.0",
        "general.file_type": 1,
        "gptneox.use_parallel_residual": parallel,
        "gptneox.context_length": 64,
        "gptneox.embedding_length": 32,
        "gptneox.feed_forward_length": 128,
        "gptneox.block_count": 2,
        "gptneox.attention.head_count": 4,
        "gptneox.attention.layer_norm_epsilon": pytest.approx(1e-5),
        "gptneox.rope.dimension_count": 4,
        "gptneox.rope.freq_base": 5000.0,
        "gptneox.vocab_size": VOCABULARY,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "alpenglow.step": 20,
    }
    assert {name: field(path, name) for name in said} == said
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    used = tokenizer.get_vocab_size()
    tokens, types = field(path, "tokenizer.ggml.tokens"), field(path, "tokenizer.ggml.token_type")
    assert len(tokens) == len(types) == VOCABULARY
    assert tokens[:used] == [tokenizer.id_to_token(number) for number in range(used)]
    assert tokens[used:] == [f"[PAD{number}]" for number in range(used, VOCABULARY)]
    kinds = gguf.TokenType
    assert types[0] == kinds.CONTROL
    assert set(types[1:used]) == {kinds.NORMAL}
    assert set(types[used:]) == {kinds.UNUSED}
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    assert field(path, "tokenizer.ggml.merges") == merges


def test_shards_and_an_interrupted_write(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = released(run)
    weights = load_file(folder / "model.safetensors")
    one = tmp_path / "one.gguf"
    write(ReleasedFolder.open(folder), one, "f16")
    names = sorted(weights)
    files = {name: f"model-{i % 2 + 1:05d}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({n: weights[n] for n in names if files[n] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    (folder / "model.safetensors").unlink()
    cut = tmp_path / "cut.gguf"
    write(ReleasedFolder.open(folder), cut, "f16")
    assert cut.read_bytes() == one.read_bytes()

    def full(rows: torch.Tensor, entry: writer.Entry) -> Any:
        if entry.name.startswith("blk.1"):
            raise OSError(28, "No space left on device")
        return real(rows, entry)

    real = writer.encoded
    monkeypatch.setattr(writer, "encoded", full)
    before = one.read_bytes()
    with pytest.raises(OSError, match="No space"):
        write(ReleasedFolder.open(folder), one, "q8_0")
    assert one.read_bytes() == before, "the earlier file stays"
    output = tmp_path / "out"
    assert main(["gguf", str(folder), "--output", str(output), "--no-verify"]) == 1
    assert not output.exists()
    (folder / sorted(set(files.values()))[1]).unlink()
    with pytest.raises(ExchangeError, match=r"00002.safetensors: missing, .* names it"):
        ReleasedFolder.open(folder)
    assert sorted(p.name for p in tmp_path.glob("*.gguf*")) == ["cut.gguf", "one.gguf"]


def test_the_command_writes_several_types_and_a_report(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = released(run)
    capfd.readouterr()
    assert main(["gguf", str(folder), "--type", "f16,q8_0", "--type", "f16", "--no-verify"]) == 0
    output = folder.parent / "gguf"
    names = ["tiny-a-test-step-20-f16.gguf", "tiny-a-test-step-20-q8_0.gguf"]
    assert sorted(path.name for path in output.iterdir()) == ["gguf.json", *names]
    report = json.loads((output / "gguf.json").read_text())
    assert [row["file"] for row in report["files"]] == names
    assert [row["type"] for row in report["files"]] == ["f16", "q8_0"]
    assert [row["bytes"] for row in report["files"]] == [
        (output / name).stat().st_size for name in names
    ]
    assert [row["tensors"] for row in report["files"]] == [{"F16": 10}, {"Q8_0": 10}]
    assert report["llama_cpp"] is None
    assert report["original_perplexity"] is None
    assert report["step"] == 20
    said = capfd.readouterr().out
    assert "| tiny-a-test-step-20-q8_0.gguf | 0.1 | 10 Q8_0 |" in said
    assert "Not compared with llama.cpp" in said


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def set_at(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("tokenizer.json", set_at("pre_tokenizer", value={"type": "Whitespace"}), "Whitespace"),
        ("tokenizer.json", set_at("pre_tokenizer", value=None), "pre-tokenizer none"),
        (
            "tokenizer.json",
            set_at("pre_tokenizer", "add_prefix_space", value=True),
            "add_prefix_space",
        ),
        (
            "tokenizer.json",
            lambda data: data.update(
                pre_tokenizer={
                    "type": "Sequence",
                    "pretokenizers": [
                        {"type": "Digits", "individual_digits": True},
                        data["pre_tokenizer"],
                    ],
                }
            ),
            "pre-tokenizer Digits, ByteLevel",
        ),
        ("tokenizer.json", set_at("normalizer", value={"type": "Lowercase"}), "Lowercase"),
        ("tokenizer.json", set_at("model", "type", value="Unigram"), "a Unigram tokenizer"),
        ("tokenizer.json", set_at("model", "byte_fallback", value=True), "byte_fallback"),
        (
            "tokenizer.json",
            set_at("post_processor", value={"type": "TemplateProcessing"}),
            "TemplateProcessing",
        ),
        (
            "tokenizer.json",
            lambda data: data["model"]["vocab"].update({"zzz": VOCABULARY}),
            "up to 384 do not fit a model of 384",
        ),
        (
            "tokenizer.json",
            lambda data: data["model"]["vocab"].update({"zzz": 5}),
            "two tokens have the same id",
        ),
        (
            "config.json",
            set_at("model_type", value="llama"),
            "model_type = 'llama' cannot be",
        ),
        ("config.json", set_at("hidden_act", value="relu"), "hidden_act = 'relu' cannot"),
        ("config.json", set_at("attention_bias", value=False), "attention_bias"),
        ("config.json", set_at("rope_parameters", "rope_type", value="linear"), "'linear'"),
        ("config.json", set_at("num_attention_heads", value=5), "not a multiple"),
        ("config.json", set_at("num_hidden_layers", value=3), "layers.2.* is in none of its files"),
        ("config.json", set_at("vocab_size", value=400), "config.json wants"),
    ],
)
def test_what_cannot_be_converted_is_said(
    run: Path,
    file: str,
    change: Callable[[dict[str, Any]], None],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = released(run)
    edited(folder / file, change)
    capfd.readouterr()
    assert main(["gguf", str(folder), "--no-verify"]) == 1
    said = capfd.readouterr()
    assert said.err.startswith("alpenglow release gguf: ")
    assert said.err.count("\n") == 1
    assert re.search(message, said.err), said.err
    assert not (folder.parent / "gguf").exists()


def test_values_that_fp16_cannot_hold(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = released(run)
    weights = load_file(folder / "model.safetensors")
    weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"][3, 4] = 1e5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert main(["gguf", str(folder), "--no-verify"]) == 1
    assert "layers.1.mlp.dense_h_to_4h.weight: its value 100000 overflows" in (
        capfd.readouterr().err
    )
    assert main(["gguf", str(folder), "--no-verify", "--type", "bf16,f32"]) == 0


def test_without_llama_cpp_what_needs_it_says_how_to_get_it(
    run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # as if it were not installed
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = released(run)
    text = tmp_path / "text.txt"
    text.write_text("words")
    for words in (["--type", "q4_k_m"], ["--verify"], ["--text", str(text)]):
        capfd.readouterr()
        assert main(["gguf", str(folder), *words]) == 1
        assert "pip install alpenglow[llama]" in capfd.readouterr().err
    capfd.readouterr()
    assert main(["gguf", str(folder), "--type", "q7"]) == 2
    assert "--type q7: not a type; choose from f32, f16" in capfd.readouterr().err
    assert main(["gguf", str(folder), "--windows", "0"]) == 2
    assert not (folder.parent / "gguf").exists()


def test_a_tokenizer_as_gpt_neox_20b_has_it(run: Path, tmp_path: Path) -> None:
    """Merges as strings or pairs, NFC, added tokens that are not special, no `use_regex`."""
    folder = released(run)
    data = json.loads((folder / "tokenizer.json").read_text())
    strings = Vocabulary.load(folder / "tokenizer.json", 400)
    data["model"]["merges"] = [pair.split(" ") for pair in data["model"]["merges"]]
    data["model"].pop("type", None)
    data["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    data["normalizer"] = {"type": "NFC"}
    spaces = {"id": 310, "content": "    ", "special": False, "normalized": True, "rstrip": True}
    data["added_tokens"].append(spaces)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data))
    found = Vocabulary.load(path, 400)
    assert found.pre == "gpt-2"
    assert found.merges == strings.merges
    assert found.types[310] == gguf.TokenType.USER_DEFINED
    assert found.tokens[309:312] == ["[PAD309]", "    ", "[PAD311]"]
    assert found.used == strings.used + 1
    assert [note.split()[0] for note in found.notes] == ["The", "rstrip"]
    split = {"type": "Split", "pattern": {"Regex": GPT2_SPLIT}, "behavior": "Isolated"}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    path.write_text(json.dumps(data))
    assert Vocabulary.load(path, 400).pre == "gpt-2"
