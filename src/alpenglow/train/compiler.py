"""torch.compile for the transformer layers, by `train.compile`.

Only the layers are compiled, one graph for all of them: what is around (embedding, loss, pipeline,
DeepSpeed) gains nothing from it.
"""

from __future__ import annotations

import importlib.util
import warnings

import torch
from torch import nn

from alpenglow.model.layers import TransformerLayer
from alpenglow.train.failure import TrainingError


def require_compiler(device: torch.device) -> None:
    """Refuse to compile where torch's compiler cannot work.

    Raises:
        TrainingError: no C++ compiler (CPU), or no Triton (CUDA).
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise TrainingError(
                "train.compile = true needs the package triton on a GPU, which is not installed "
                "here: install it or set train.compile = false"
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise TrainingError(
            "train.compile = true needs a C++ compiler (CXX, g++ or clang++) on every node, and "
            "there is none here: load one or set train.compile = false"
        ) from None


def compile_layers(module: nn.Module) -> int:
    """Let every transformer layer of a module compile itself at its first call; says how many."""
    layers = [part for part in module.modules() if isinstance(part, TransformerLayer)]
    # It looks into the function that makes the rotary table, whose cache it need not know.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    for layer in layers:
        layer.compile(dynamic=False)
    return len(layers)
