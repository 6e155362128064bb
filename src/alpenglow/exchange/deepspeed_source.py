"""What DeepSpeed saved of our pipeline as a source of weights.

The optimizer's fp32 partitions are read where the folder has them, else the weights of the layer
files. Neither says how many heads a model has, so the architecture must be given. This module is
imported, never started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from alpenglow.exchange.deepspeed import (
    Address,
    Grid,
    addresses,
    check_whole,
    optimizer_state,
    whole_shapes,
)
from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.layer_files import (
    FLOATS,
    Merged,
    Part,
    Rule,
    checked,
    layer_file,
    missing_files,
    present,
    tensors_of,
)
from alpenglow.exchange.names import global_names, pipeline_names
from alpenglow.exchange.step_folder import engine_state, step_of, tagged
from alpenglow.model.config import ModelConfig, Slice, split_axis
from alpenglow.train.fragments import Stored, copy_shared, intersect


class DeepSpeedSource:
    """A folder that DeepSpeed's `save_checkpoint` wrote for our model; get one by `open`."""

    form = "deepspeed"

    def __init__(
        self,
        path: Path,
        step: int | None,
        config: ModelConfig,
        weights: Mapping[str, Merged],
        masters: Mapping[str, Sequence[Address]],
        state: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.step = step
        self.config = config
        self.state = state
        self._weights = weights
        self._masters = masters

    @classmethod
    def open(cls, path: Path, model: ModelConfig | None) -> DeepSpeedSource:
        """Open `global_stepN`, or the folder above it with `latest`.

        Args:
            path: the folder.
            model: the architecture.

        Raises:
            ExchangeError: no model given, an incomplete folder, mixed steps, another architecture,
                or a file that could run code.
        """
        folder = tagged(path)
        if model is None:
            raise ExchangeError(
                f"{folder}: DeepSpeed's files do not say heads, rotary share or residual form; "
                "give the model (a recipe's [model] table)"
            )
        engine = engine_state(folder / "mp_rank_00_model_states.pt")
        step = step_of(folder)
        weights = _weights(folder, model)
        masters: dict[str, list[Address]] = {}
        layout = engine.get("checkpoint_parallel_dimensions") or {}
        state: dict[str, Any] = {
            "layout": {"pipeline": layout.get("pp_degree"), "tensor": layout.get("tp_degree")}
        }
        for ours, theirs in (("samples", "global_samples"), ("skipped", "skipped_steps")):
            if isinstance(engine.get(theirs), int):
                state[ours] = engine[theirs]
        if any(folder.glob("*zero_pp_rank_*_optim_states.pt")):
            masters = _masters(folder, engine, model)
        return cls(folder, step, model, weights, masters, state)

    @property
    def dtype(self) -> torch.dtype:
        """What the layer files hold: the dtype of forward and backward."""
        return self._weights["embed_in.weight"].dtype

    def stored(self, name: str) -> torch.dtype:
        """float32 where the optimizer's partitions are there, else the layer files' dtype."""
        return torch.float32 if self._masters else self._weights[name].dtype

    def tensor(self, name: str, part: Slice | None = None) -> torch.Tensor:
        """A tensor or a box of it; one file is open at a time.

        Raises:
            ExchangeError: a file is gone or damaged.
        """
        if not self._masters:
            return self._weights[name].tensor(part)
        target = checked(name, self.config.tensor_shapes()[name], part)
        out = torch.empty([stop - start for start, stop in target], dtype=torch.float32)
        for address in self._masters[name]:
            piece = address.fragment
            if all(intersect(box, target) is None for box in piece.boxes()):
                continue
            partitions = optimizer_state(address.path)["single_partition_of_fp32_groups"]
            data = address.of(partitions[address.group])
            if data.numel() != piece.numel or data.dtype != torch.float32:
                raise ExchangeError(f"{address.path}: its partitions are not fp32, or were cut")
            copy_shared(
                Stored(piece, address.path.name, 0, ""),
                data.contiguous().view(torch.uint8).numpy(),
                target,
                out,
            )
        return out


def _masters(folder: Path, engine: dict[str, Any], model: ModelConfig) -> dict[str, list[Address]]:
    grid = Grid.of(folder, engine)
    names = global_names(whole_shapes(grid), model, str(folder))
    found: dict[str, list[Address]] = {name: [] for name in model.tensor_shapes()}
    done: dict[tuple[str, int], int] = {}
    for path, stage, tensor, _ in grid.files():
        optimizer = optimizer_state(path)
        for address in addresses(path, optimizer, names, (stage, tensor, grid), model, done):
            found[address.fragment.name].append(address)
    check_whole(folder, done, names, model, grid.tensor)
    return found


def _weights(folder: Path, model: ModelConfig) -> dict[str, Merged]:
    """Every tensor as parts in layer files, once their shapes are found to be the model's."""
    there = present(folder)
    ranks = 1 + max((rank for some in there.values() for rank in some), default=0)
    places = {
        name: ("0.weight" if theirs.startswith("tied_modules.") else theirs).partition(".")[::2]
        for name, theirs in pipeline_names(model).items()
    }
    slots = sorted({int(slot) for slot, _ in places.values()})
    for path in missing_files(folder, slots, ranks):
        raise ExchangeError(f"{path}: missing ({len(slots)} slots of {ranks} tensor ranks)")
    for slot, some in there.items():
        if slot not in slots:
            path = layer_file(folder, slot, max(some))
            raise ExchangeError(
                f"{path}: a checkpoint of another architecture: {model.num_layers} layers have "
                f"no slot {slot}"
            )
    shapes = model.tensor_shapes()
    parts: dict[str, list[Part]] = {name: [] for name in shapes}
    dtypes: dict[str, torch.dtype] = {}
    for slot in slots:
        for rank in range(ranks):
            path = layer_file(folder, slot, rank)
            held = tensors_of(path)
            for name, (at, local) in places.items():
                if int(at) != slot:
                    continue
                _check(path, local, held.get(local), _local_shape(name, shapes[name], ranks))
                dtype = dtypes.setdefault(name, held[local].dtype)
                if held[local].dtype != dtype or dtype not in FLOATS:
                    raise ExchangeError(f"{path}: {local} is {held[local].dtype}, not {dtype}")
                parts[name].append(Part(path, local))
    rules: dict[int | None, Rule] = {0: 0, 1: 1, None: "one"}
    return {
        name: Merged(name, shape, dtypes[name], tuple(parts[name]), rules[split_axis(name)])
        for name, shape in shapes.items()
    }


def _local_shape(name: str, shape: tuple[int, ...], ranks: int) -> list[int]:
    axis = split_axis(name)
    return [n // ranks if i == axis else n for i, n in enumerate(shape)]


def _check(path: Path, local: str, tensor: torch.Tensor | None, wanted: list[int]) -> None:
    if tensor is None or list(tensor.shape) != wanted:
        found = "missing" if tensor is None else f"{list(tensor.shape)}"
        raise ExchangeError(
            f"{path}: a checkpoint of another architecture: {local} is {found}, the model wants "
            f"{wanted}"
        )
