"""Global tensor names and the names that DeepSpeed's pipeline gives the same parameters.

DeepSpeed names a parameter after its slot: `1.attention.dense.weight` is layer 0, since the
embedding is slot 0; a tied embedding is `tied_modules.embed_in.weight`. This module is imported,
never started.
"""

from __future__ import annotations

from alpenglow.exchange.error import ExchangeError
from alpenglow.model.config import ModelConfig
from alpenglow.model.stages import TIED_KEY
from alpenglow.train.architecture import first_difference


def pipeline_names(model: ModelConfig) -> dict[str, str]:
    """DeepSpeed's name of every global tensor, input end first."""
    last = model.num_layers + 1
    names = {}
    for name in model.tensor_shapes():
        room, _, local = name.partition(".")
        if room == "layers":
            index, _, local = local.partition(".")
            names[name] = f"{int(index) + 1}.{local}"
        elif room == "embed_in" and model.tie_word_embeddings:
            names[name] = f"tied_modules.{TIED_KEY}.{local}"
        else:
            slot = {"embed_in": 0, "final_layer_norm": last, "embed_out": last + 1}[room]
            names[name] = f"{slot}.{local}"
    return names


def global_names(
    shapes: dict[str, tuple[int, ...]], model: ModelConfig, where: str
) -> dict[str, str]:
    """Global name of each of DeepSpeed's names, once the shapes are found to be the model's.

    Args:
        shapes: whole shapes by DeepSpeed's names.
        model: the recipe's.
        where: the folder, for the error.

    Raises:
        ExchangeError: another architecture; the first size that differs is named.
    """
    names = {theirs: ours for ours, theirs in pipeline_names(model).items()}
    slots = [int(slot) for name in shapes if (slot := name.partition(".")[0]).isdigit()]
    tied = any(name.startswith("tied_modules.") for name in shapes)
    # Named by the checkpoint's own number of layers, so that the difference comes out as a size.
    layers = max(slots, default=0) - (1 if tied else 2)
    if layers < 1:
        raise ExchangeError(f"{where}: its parameters are not those of a GPT-NeoX pipeline")
    own = {}
    for name, shape in shapes.items():
        slot, _, local = name.partition(".")
        if not slot.isdigit():
            own["embed_in." + local.rpartition(".")[2]] = shape
        elif int(slot) == 0 or int(slot) > layers:
            room = ("embed_in", "final_layer_norm", "embed_out")[max(0, int(slot) - layers)]
            own[f"{room}.{local}"] = shape
        else:
            own[f"layers.{int(slot) - 1}.{local}"] = shape
    difference = first_difference(own, model, None)
    if difference is not None:
        raise ExchangeError(f"{where}: a checkpoint of another architecture: {difference}")
    return names
