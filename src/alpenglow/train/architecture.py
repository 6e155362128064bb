"""Whether a checkpoint is of the architecture that the recipe asks for.

This module is imported, never started.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from alpenglow.model.config import ModelConfig


def first_difference(
    shapes: Mapping[str, tuple[int, ...]], model: ModelConfig, saved: Mapping[str, Any] | None
) -> str | None:
    """Say in which size a checkpoint differs from a model first; None where it is of this model.

    Args:
        shapes: global shapes of the checkpoint's weights by name.
        model: what the recipe asks for.
        saved: the `model` table that the checkpoint carries; None where it carries none.
    """
    then, now = _sizes(shapes), dataclasses.asdict(model)
    # What shapes do not show (heads, rotary share, residual) is in the checkpoint's own table.
    for key, value in {**(saved or {}), **then}.items():
        free = key not in now or key.startswith("initializer")
        if not free and now[key] != value:
            return f"it has {key} = {value}, the recipe says {now[key]}"
    for name, shape in model.tensor_shapes().items():
        if shapes.get(name) != shape:
            found = shapes.get(name)
            held = "does not hold it" if found is None else f"has {list(found)}"
            return f"{name} is {list(shape)} in the recipe's model, the checkpoint {held}"
    return None


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    layers = {
        int(found.group(1)) for name in shapes if (found := re.match(r"layers\.(\d+)\.", name))
    }
    sizes: dict[str, Any] = {"num_layers": len(layers)}
    if len(shapes.get("embed_in.weight", ())) == 2:
        sizes["vocab_size"], sizes["hidden_size"] = shapes["embed_in.weight"]
    if len(shapes.get("layers.0.mlp.dense_h_to_4h.weight", ())) == 2:
        sizes["intermediate_size"] = shapes["layers.0.mlp.dense_h_to_4h.weight"][0]
    sizes["tie_word_embeddings"] = "embed_out.weight" not in shapes
    return sizes
