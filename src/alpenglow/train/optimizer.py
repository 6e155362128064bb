"""AdamW over a stage's parameters: Apex's fused kernels where they are, torch's elsewhere."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch import nn

from alpenglow.train.recipe import OptimizerRecipe


class DirectAdamW(torch.optim.AdamW):
    """torch's AdamW without the compiler's wrapper around `step`.

    The wrapper marks a border for compiled graphs, which there are none of here, and loads
    torch._dynamo to do so (see `alpenglow.train.no_compiler`).
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices, which decay, and biases and layer norms, which do not (as gpt-neox).

    Every pipeline stage holds both, which DeepSpeed needs: it reduces the gradient norm once for
    each group, over all stages together.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in module.parameters():
        (decayed if parameter.ndim > 1 else kept).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]


def build_optimizer(
    module: nn.Module, recipe: OptimizerRecipe, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW on this stage's parameters; the learning rate is set before every step."""
    groups = parameter_groups(module, recipe.weight_decay)
    options: dict[str, Any] = {"lr": recipe.lr, "betas": tuple(recipe.betas), "eps": recipe.eps}
    fused_adam = apex_fused_adam() if device.type == "cuda" else None
    if fused_adam is not None:
        optimizer: torch.optim.Optimizer = fused_adam(groups, adam_w_mode=True, **options)
        return optimizer
    # One pass over the four tensors instead of a dozen, on a CPU as well.
    return DirectAdamW(groups, fused=True, **options)


def apex_fused_adam() -> Any:
    """NVIDIA Apex's FusedAdam; None where it is not installed.

    The class is asked for, not the package: PyPI's `apex` is another project.
    """
    try:
        return importlib.import_module("apex.optimizers").FusedAdam
    except (ImportError, AttributeError):
        return None
