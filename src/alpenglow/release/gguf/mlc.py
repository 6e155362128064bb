"""Configuration and commands for MLC LLM (https://llm.mlc.ai), written as text.

    alpenglow release mlc runs/pretrain_7b/release/huggingface
    alpenglow release mlc FOLDER --quantization q4f16_1 --template redpajama_chat

mlc-llm is not on PyPI, so nothing of it runs here. `mlc-chat-config.json` is written beside a copy
of the tokenizer, as its `gen_config` does, and the commands that convert, compile and serve are
printed. It is written here because `gen_config` goes wrong for these models in two places: it reads
the rotary base from a top-level `rope_theta` only, which GPT-NeoX folders do not have, and its
template "LM" stops at token 2 and begins with token 1, which are Llama's.

Fields: mlc-llm python/mlc_llm/model/gpt_neox/gpt_neox_model.py (GPTNeoXConfig),
protocol/mlc_chat_config.py, protocol/conversation_protocol.py, interface/gen_config.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpenglow.exchange.error import ExchangeError
from alpenglow.release.error import ReleaseError
from alpenglow.release.gguf.source import ReleasedFolder
from alpenglow.release.gguf.tokenizer import Vocabulary

CONFIG = "mlc-chat-config.json"
VERSION = "0.1.0"
"""MLC_CHAT_CONFIG_VERSION of mlc-llm support/constants.py."""
QUANTIZATIONS = (
    "q0f16",
    "q0bf16",
    "q0f32",
    "q3f16_0",
    "q3f16_1",
    "q4f16_0",
    "q4f16_1",
    "q4f16_2",
    "q4bf16_0",
    "q4bf16_1",
    "q4f32_1",
)
"""Those of mlc-llm quantization/quantization.py that need no calibrated weights."""
PREFILL_CHUNK = 8192
"""Largest default chunk of GPTNeoXConfig."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_TEMPLATES: dict[str, dict[str, Any]] = {
    "LM": {
        "roles": {"user": "", "assistant": ""},
        "seps": [""],
        "role_content_sep": "",
        "role_empty_sep": "",
        "stop_str": [],
    },
    "redpajama_chat": {
        "roles": {"user": "<human>", "assistant": "<bot>"},
        "seps": ["\n"],
        "role_content_sep": ": ",
        "role_empty_sep": ":",
        "stop_str": ["<human>"],
    },
}
"""How a conversation becomes a prompt: plain continuation, or RedPajama-INCITE-Chat's form."""


def conversation(template: str, end_of_text: int) -> dict[str, Any]:
    """The conversation template in full, with this model's own end of text as stop token."""
    return {
        "name": template,
        "system_template": "{system_message}",
        "system_message": "",
        "add_role_after_system_message": True,
        "role_templates": {
            "user": "{user_message}",
            "assistant": "{assistant_message}",
            "tool": "{tool_message}",
        },
        "messages": [],
        **_TEMPLATES[template],
        "stop_token_ids": [end_of_text],
        "function_string": "",
        "use_function_calling": False,
    }


def chat_config(folder: ReleasedFolder, quantization: str, template: str) -> dict[str, Any]:
    """Content of mlc-chat-config.json.

    Args:
        folder: the release.
        quantization: of `QUANTIZATIONS`.
        template: "LM" or "redpajama_chat".

    Raises:
        ReleaseError: a model that MLC's GPT-NeoX does not load.
    """
    config = folder.config
    if config.tie_word_embeddings:
        raise ReleaseError(
            f"{folder.path}: tied embeddings; MLC's gpt_neox loads embed_out.weight and this "
            "folder has none"
        )
    end_of_text = folder.token_id("eos_token_id")
    if end_of_text is None:
        raise ReleaseError(
            f"{folder.path / 'config.json'}: eos_token_id is absent; MLC stops by it"
        )
    begin = folder.token_id("bos_token_id")
    # Also refuses a tokenizer that is not byte-level, which tokenizer_info below would misstate.
    vocabulary = Vocabulary.load(folder.tokenizer, config.vocab_size)
    context = config.max_position_embeddings
    chunk = min(context, PREFILL_CHUNK)
    return {
        "version": VERSION,
        "model_type": "gpt_neox",
        "quantization": quantization,
        "model_config": {
            "use_parallel_residual": config.use_parallel_residual,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_attention_heads": config.num_attention_heads,
            "num_hidden_layers": config.num_layers,
            "layer_norm_eps": config.layer_norm_eps,
            "vocab_size": config.vocab_size,
            "rotary_pct": config.rotary_pct,
            "position_embedding_base": config.rotary_emb_base,
            "context_window_size": context,
            "head_dim": config.head_dim,
            "prefill_chunk_size": chunk,
            "tensor_parallel_shards": 1,
            "ffn_out_dtype": "float32",
            "max_batch_size": 128,
        },
        "vocab_size": config.vocab_size,
        "context_window_size": context,
        "sliding_window_size": -1,
        "prefill_chunk_size": chunk,
        "attention_sink_size": -1,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        "active_vocab_size": vocabulary.used,
        "temperature": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "top_p": 1.0,
        "tokenizer_files": [name for name in _TOKENIZER_FILES if (folder.path / name).is_file()],
        "tokenizer_info": {
            "token_postproc_method": "byte_level",
            "prepend_space_in_encode": False,
            "strip_space_in_decode": False,
        },
        "conv_template": conversation(template, end_of_text),
        "pad_token_id": end_of_text,
        "bos_token_id": end_of_text if begin is None else begin,
        "eos_token_id": end_of_text,
    }


def commands(folder: Path, output: Path, quantization: str, template: str, device: str) -> str:
    """What to type where mlc-llm is installed, one command a line."""
    library = output.parent / f"{output.name}-{device}.so"
    config = output / CONFIG
    on = ["--device", device]
    quantised = [str(folder), "--quantization", quantization]
    convert = ["mlc_llm", "convert_weight", *quantised, *on, "--output", str(output)]
    generate = ["mlc_llm", "gen_config", *quantised, "--conv-template", template]
    generate += ["--output", f"{output}-generated"]
    compile_ = ["mlc_llm", "compile", str(config), *on, "--output", str(library)]
    serve = ["mlc_llm", "serve", str(output), "--model-lib", str(library), *on]
    return "\n".join(
        [
            "# weights in MLC's form",
            shlex.join(convert),
            f"# only to compare with {config}, which is written already and goes before it",
            shlex.join(generate),
            "# the model library for one kind of device",
            shlex.join(compile_),
            "# an OpenAI-compatible server on 127.0.0.1:8000",
            shlex.join(serve),
        ]
    )


def write(folder: ReleasedFolder, output: Path, quantization: str, template: str) -> None:
    """Write the configuration and copy the tokenizer into `output`, each file whole or not at all.

    Raises:
        ReleaseError: as `chat_config`; nothing is written.
    """
    content = chat_config(folder, quantization, template)
    output.mkdir(parents=True, exist_ok=True)
    for name in content["tokenizer_files"]:
        shutil.copyfile(folder.path / name, output / f".{name}.tmp")
        (output / f".{name}.tmp").replace(output / name)
    building = output / f".{CONFIG}.tmp"
    building.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    building.replace(output / CONFIG)


def main(arguments: Sequence[str]) -> int:
    """Run `alpenglow release mlc`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="alpenglow release mlc",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a released Hugging Face folder")
    parser.add_argument("--quantization", default="q4f16_1", choices=QUANTIZATIONS)
    parser.add_argument("--template", default="LM", choices=sorted(_TEMPLATES))
    parser.add_argument("--device", default="cuda", help="cuda, vulkan, metal, rocm ... (cuda)")
    parser.add_argument("--output", type=Path, help="FOLDER/../mlc-QUANTIZATION")
    options = parser.parse_args(list(arguments))
    beside = Path(os.path.abspath(options.folder)).parent  # noqa: PTH100 (links stay as they are)
    output = options.output or beside / f"mlc-{options.quantization}"
    try:
        folder = ReleasedFolder.open(options.folder)
        write(folder, output, options.quantization, options.template)
    except (ExchangeError, ReleaseError, OSError) as error:
        sys.stderr.write(f"alpenglow release mlc: {error}\n")
        return 1
    sys.stdout.write(f"written: {output / CONFIG}\n\n")
    typed = commands(options.folder, output, options.quantization, options.template, options.device)
    sys.stdout.write(typed + "\n")
    return 0
