"""Logits of a model that does not fit into memory: one layer's weights at a time.

A release is compared where it is made, on a login node or one compute node, and a 7B model takes
27 GB in fp32. Both implementations run their own forward code; only their weights come and go. So
the memory needed is one layer (or the embedding, or the head), the activations and the logits. This
module is imported, never started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alpenglow.exchange.source import Source
from alpenglow.model.layers import Embedding, FinalLayerNorm, LogitHead, TransformerLayer
from alpenglow.model.stages import global_tensors
from alpenglow.parallel.tensor import TensorGroup
from alpenglow.release.error import ReleaseError
from alpenglow.release.huggingface import huggingface_name
from alpenglow.release.verification.row_blocks import row_blocks
from alpenglow.release.verification.weight_files import WeightFiles

HEADS = ("lm_head.weight", "embed_out.weight")
"""What transformers calls the head, from 5 on and before; the files always say the latter."""


def training_logits(source: Source, dtype: torch.dtype, tokens: Tensor) -> Tensor:
    """Logits [rows, length, vocabulary] of the training model's layers, in fp32.

    Args:
        source: of any form.
        dtype: weights are rounded to it first, as the release's are.
        tokens: int64 [rows, length].
    """
    config, group = source.config, TensorGroup()

    def filled(slot: Any) -> Any:
        with torch.no_grad():
            for item in global_tensors(slot, config, group):
                for block in row_blocks(item.global_shape):
                    (start, stop), *_ = block
                    rows = source.tensor(item.name, block).to(dtype)
                    item.parameter[start:stop].copy_(rows)
        return slot

    with torch.inference_mode():
        x: Tensor = filled(Embedding(config, group, None))(tokens)
        for index in range(config.num_layers):
            x = filled(TransformerLayer(config, index, group, None))(x)
        x = filled(FinalLayerNorm(config, group, None))(x)
        if config.tie_word_embeddings:
            return filled(Embedding(config, group, None)).logits(x)  # type: ignore[no-any-return]
        return filled(LogitHead(config, group, None))(x)  # type: ignore[no-any-return]


def released_logits(folder: Path, weights: WeightFiles, tokens: Tensor) -> Tensor:
    """Logits [rows, length, vocabulary] by transformers' own model, in fp32.

    The model is built without memory from `config.json`; a hook before each layer reads its weights
    and one after it drops them.

    Args:
        folder: the release.
        weights: its files.
        tokens: int64 [rows, length].

    Raises:
        ReleaseError: transformers does not take the configuration, or the model and the files do
            not have the same tensors.
    """
    model = _empty_model(folder)
    files = _file_names(model, weights)
    _check_shapes(model, files, weights)
    for prefix, module in _slots(model):
        names = {
            local: files[f"{prefix}.{local}"] for local, _ in module.named_parameters(prefix="")
        }
        module.register_forward_pre_hook(_filler(names, lambda name: weights.tensor(name).float()))
        module.register_forward_hook(_dropper(names))
    with torch.inference_mode():
        # The cache of keys and values would hold more than a layer does.
        logits: Tensor = model(tokens, use_cache=False).logits
    return logits


def _empty_model(folder: Path) -> Any:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{folder}: transformers does not load it: {error}") from None
    model = model.float().eval()
    # The rotary frequencies are no weights, so no file holds them: made anew, with memory.
    for name, module in [*model.named_modules()]:
        if name.endswith("rotary_emb"):
            parent, _, leaf = name.rpartition(".")
            with contextlib.suppress(TypeError):  # before 4.48 it took no configuration
                setattr(model.get_submodule(parent), leaf, type(module)(config=config))
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            raise ReleaseError(
                f"transformers {transformers.__version__} keeps {name} in the model, which cannot "
                'be made layer by layer; use memory = "whole"'
            )
    return model


def _file_names(model: Any, weights: WeightFiles) -> dict[str, str]:
    """Name in the files of every parameter of the model.

    Raises:
        ReleaseError: the model has one that no file holds, or the other way round.
    """
    tied = bool(model.config.tie_word_embeddings)
    names = {}
    for name in model.state_dict():
        if name in HEADS:
            names[name] = huggingface_name("embed_in.weight" if tied else "embed_out.weight")
        else:
            names[name] = name
    present = set(weights.names())
    if missing := sorted(set(names.values()) - present):
        raise ReleaseError(f"{weights.folder}: transformers would miss {missing[0]}")
    if more := sorted(present - set(names.values())):
        raise ReleaseError(f"{weights.folder}: transformers has no place for {more[0]}")
    return names


def _check_shapes(model: Any, files: Mapping[str, str], weights: WeightFiles) -> None:
    for name, parameter in model.state_dict().items():
        found = weights.shape(files[name])
        if found != tuple(parameter.shape):
            raise ReleaseError(
                f"{weights.file(files[name])}: {files[name]} has shape {list(found)}, "
                f"transformers wants {list(parameter.shape)}"
            )


def _slots(model: Any) -> list[tuple[str, nn.Module]]:
    """The modules that run one after another and hold all weights, by name."""
    layers = {id(layer) for layer in model.gpt_neox.layers}
    slots, inside = [], ""
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue
        if id(module) in layers or (name and [*module.parameters(recurse=False)]):
            slots.append((name, module))
            inside = f"{name}."
    return slots


def _filler(names: Mapping[str, str], get: Callable[[str], Tensor]) -> Callable[..., None]:
    def fill(module: nn.Module, _inputs: Any) -> None:
        for local, name in names.items():
            _put(module, local, get(name))

    return fill


def _dropper(names: Mapping[str, str]) -> Callable[..., None]:
    def drop(module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        for local in names:
            parameter = module.get_parameter(local)
            _put(module, local, torch.empty_like(parameter, device="meta"))

    return drop


def _put(module: nn.Module, local: str, tensor: Tensor) -> None:
    owner, _, leaf = local.rpartition(".")
    holder = module.get_submodule(owner)
    setattr(holder, leaf, nn.Parameter(tensor, requires_grad=False))
