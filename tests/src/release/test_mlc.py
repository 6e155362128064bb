"""MLC's configuration: keys, types, and values that follow from config.json; the commands' form."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from release_run import CONFIG, write_checkpoint

from alpenglow.model.config import ModelConfig
from alpenglow.release.__main__ import main
from alpenglow.release.convert import ConvertRecipe, convert

CHAT_FIELDS = {
    "version": str,
    "model_type": str,
    "quantization": str,
    "model_config": dict,
    "vocab_size": int,
    "context_window_size": int,
    "sliding_window_size": int,
    "prefill_chunk_size": int,
    "attention_sink_size": int,
    "tensor_parallel_shards": int,
    "pipeline_parallel_stages": int,
    "active_vocab_size": int,
    "temperature": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "repetition_penalty": float,
    "top_p": float,
    "tokenizer_files": list,
    "tokenizer_info": dict,
    "conv_template": dict,
    "pad_token_id": int,
    "bos_token_id": int,
    "eos_token_id": int,
}
"""Of MLCChatConfig, protocol/mlc_chat_config.py."""
MODEL_FIELDS = {
    "use_parallel_residual": bool,
    "hidden_size": int,
    "intermediate_size": int,
    "num_attention_heads": int,
    "num_hidden_layers": int,
    "layer_norm_eps": float,
    "vocab_size": int,
    "rotary_pct": float,
    "position_embedding_base": int,
    "context_window_size": int,
    "head_dim": int,
    "prefill_chunk_size": int,
    "tensor_parallel_shards": int,
    "ffn_out_dtype": str,
    "max_batch_size": int,
}
"""Of GPTNeoXConfig, model/gpt_neox/gpt_neox_model.py."""
CONVERSATION_FIELDS = {
    "name": str,
    "system_template": str,
    "system_message": str,
    "add_role_after_system_message": bool,
    "roles": dict,
    "role_templates": dict,
    "messages": list,
    "seps": list,
    "role_content_sep": str,
    "role_empty_sep": str,
    "stop_str": list,
    "stop_token_ids": list,
    "function_string": str,
    "use_function_calling": bool,
}
"""Of Conversation, protocol/conversation_protocol.py."""


def released(run: Path, config: ModelConfig = CONFIG) -> Path:
    write_checkpoint(run, 20, config)
    return convert(ConvertRecipe(run=run, verify=False))[0]


def typed(values: dict[str, Any]) -> dict[str, type]:
    return {key: type(value) for key, value in values.items()}


@pytest.mark.parametrize("template", ["LM", "redpajama_chat"])
def test_the_configuration_follows_from_the_folder(
    run: Path, template: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(CONFIG, rotary_emb_base=20000, layer_norm_eps=1e-6)
    folder = released(run, config)
    said_of_convert = capfd.readouterr()
    assert main(["mlc", str(folder), "--template", template]) == 0, said_of_convert
    output = folder.parent / "mlc-q4f16_1"
    content = json.loads((output / "mlc-chat-config.json").read_text())
    assert typed(content) == CHAT_FIELDS
    model = content["model_config"]
    assert typed(model) == MODEL_FIELDS
    assert model["use_parallel_residual"] is False
    assert (model["hidden_size"], model["intermediate_size"], model["head_dim"]) == (32, 128, 8)
    assert (model["num_attention_heads"], model["num_hidden_layers"]) == (4, 2)
    assert (model["rotary_pct"], model["position_embedding_base"]) == (0.25, 20000)
    assert model["layer_norm_eps"] == 1e-6
    assert model["context_window_size"] == content["prefill_chunk_size"] == 64
    assert (content["vocab_size"], content["active_vocab_size"]) == (384, 300)
    talk = content["conv_template"]
    assert typed(talk) == CONVERSATION_FIELDS
    assert talk["stop_token_ids"] == [0], "this model's end of text, not the template's own token"
    assert "system_prefix_token_ids" not in talk, "no token before the prompt"
    assert talk["roles"]["user"] == ("" if template == "LM" else "<human>")
    assert sorted(path.name for path in output.iterdir()) == [
        "mlc-chat-config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (output / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    lines = capfd.readouterr().out.splitlines()
    programs = [shlex.split(line)[:2] for line in lines if line.startswith("mlc_llm")]
    verbs = ["convert_weight", "gen_config", "compile", "serve"]
    assert programs == [["mlc_llm", verb] for verb in verbs]
    convert_weight = shlex.split(next(line for line in lines if "convert_weight" in line))
    assert convert_weight[2:5] == [str(folder), "--quantization", "q4f16_1"]
    assert f"--output {shlex.quote(f'{output}-generated')}" in "\n".join(lines), (
        "gen_config must not replace what is written here"
    )


def test_what_is_no_release_is_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["mlc", str(tmp_path)]) == 1
    said = capfd.readouterr().err
    assert said.startswith(f"alpenglow release mlc: {tmp_path / 'config.json'}: missing")
    assert said.count("\n") == 1


def test_a_tied_model_is_refused(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = released(run, dataclasses.replace(CONFIG, tie_word_embeddings=True))
    capfd.readouterr()  # transformers has its word while the folder is verified
    assert main(["mlc", str(folder)]) == 1
    said = capfd.readouterr().err
    assert said == (
        f"alpenglow release mlc: {folder}: tied embeddings; MLC's gpt_neox loads embed_out.weight "
        "and this folder has none\n"
    )
    assert [path.name for path in folder.parent.iterdir()] == ["huggingface"]
