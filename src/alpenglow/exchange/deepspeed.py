"""DeepSpeed's own layout (0.19, pipeline engine with ZeRO-1 or BF16 optimizer): import and export.

A folder `global_stepN` holds `layer_LL-model_TT-model_states.pt` (weights),
`mp_rank_MM_model_states.pt` (engine state) and `[bf16_]zero_pp_rank_D_mp_rank_MM_optim_states.pt`
(a data rank's flat fp32 partitions of weights and moments, and which range of them is which
parameter), MM being stage x tensor degree + tensor rank. The optimizer files hold all that training
needs; one after another they become sections of a checkpoint. Export is DeepSpeed's own
`save_checkpoint` on the ranks of the job, so its layout is the job's. This module is imported,
never started.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.layer_files import layer_file, tensors_of
from alpenglow.exchange.names import global_names
from alpenglow.exchange.saved_file import read, scaler_numbers
from alpenglow.exchange.step_folder import tagged
from alpenglow.exchange.universal import imported_state, patterns
from alpenglow.exchange.writer import Writer
from alpenglow.model.config import ModelConfig, local_slice, slice_numel, split_axis
from alpenglow.train.fragments import Fragment, dtype_name
from alpenglow.train.recipe import PretrainRecipe

if TYPE_CHECKING:
    from alpenglow.train.engine import Engine
    from alpenglow.train.restart import Position


@dataclass(frozen=True)
class Grid:
    """Which files a folder holds."""

    folder: Path
    prefix: str
    """`bf16_` or nothing."""
    pipeline: int
    tensor: int
    data: int

    @classmethod
    def of(cls, folder: Path, engine: dict[str, Any]) -> Grid:
        """Read degrees from the engine state and look for each file.

        Raises:
            ExchangeError: the degrees are not there, or a file is missing.
        """
        degrees = engine.get("checkpoint_parallel_dimensions")
        try:
            pipeline, tensor = int(degrees["pp_degree"]), int(degrees["tp_degree"])  # type: ignore[index]
            data = int(engine["dp_world_size"])
        except (KeyError, TypeError):
            raise ExchangeError(
                f"{folder}: its engine state does not say pipeline, tensor and data degree "
                "(written by DeepSpeed before 0.19?)"
            ) from None
        prefix = "bf16_" if any(folder.glob("bf16_zero_pp_rank_*")) else ""
        grid = cls(folder, prefix, pipeline, tensor, data)
        for path in grid.files():
            if not path[0].is_file():
                raise ExchangeError(f"{path[0]}: missing ({pipeline} x {tensor} x {data} ranks)")
        return grid

    def files(self) -> Iterator[tuple[Path, int, int, int]]:
        """Optimizer files with stage, tensor rank and data rank."""
        for stage in range(self.pipeline):
            for tensor in range(self.tensor):
                for data in range(self.data):
                    model = stage * self.tensor + tensor
                    name = f"{self.prefix}zero_pp_rank_{data}_mp_rank_{model:02d}_optim_states.pt"
                    yield self.folder / name, stage, tensor, data


def import_deepspeed(
    folder: Path, checkpoints: Path, recipe: PretrainRecipe, say: Callable[[str], None]
) -> Path:
    """Make a checkpoint of a folder that DeepSpeed's `save_checkpoint` wrote; returns it.

    Args:
        folder: `global_stepN`, or the folder above it with `latest`.
        checkpoints: the run's folder of checkpoints.
        recipe: its model must be the checkpoint's.
        say: told how far it is.

    Raises:
        ExchangeError: a missing or damaged file, a pickle that asks for more than tensors, another
            architecture.
        CheckpointError: the checkpoint cannot be written.
    """
    folder = tagged(folder)
    engine = read(folder / "mp_rank_00_model_states.pt")
    grid = Grid.of(folder, engine)
    shapes = whole_shapes(grid)
    names = global_names(shapes, recipe.model, str(folder))
    step = int(engine["global_steps"])
    writer = Writer(checkpoints, step)
    scale: dict[str, Any] | None = None
    try:
        done: dict[tuple[str, int], int] = {}
        for path, stage, tensor, data in grid.files():
            optimizer = optimizer_state(path)
            scale = scale or scaler_numbers(optimizer.get("loss_scaler"))
            place = (stage, tensor, grid)
            found = addresses(path, optimizer, names, place, recipe.model, done)
            writer.add(list(_fragments(optimizer, found)))
            say(f"{path.name} ({data + 1} of {grid.data})")
        check_whole(folder, done, names, recipe.model, grid.tensor)
        state = imported_state("deepspeed", engine, recipe, scale, _dtype(folder))
        layout = {"pipeline": grid.pipeline, "tensor": grid.tensor, "data": grid.data}
        writer.commit(state | {"layout": layout})
    except BaseException:
        writer.clear()
        raise
    return writer.directory


def _dtype(folder: Path) -> torch.dtype:
    """What forward and backward were in: the dtype of the layer files."""
    path = layer_file(folder, 0, 0)
    embedding = tensors_of(path).get("weight")
    if embedding is None:
        raise ExchangeError(f"{path}: weight is missing: not an embedding of our pipeline")
    return embedding.dtype


def optimizer_state(path: Path) -> dict[str, Any]:
    """The ZeRO-1 state of an optimizer file.

    Raises:
        ExchangeError: unreadable, or without partitions of parameters and moments.
    """
    try:
        state: dict[str, Any] = read(path)["optimizer_state_dict"]
        state["param_slice_mappings"], state["single_partition_of_fp32_groups"]
        state["base_optimizer_state"]["state"]
    except (KeyError, TypeError) as error:
        raise ExchangeError(f"{path}: no ZeRO-1 optimizer state ({error} is missing)") from None
    return state


def whole_shapes(grid: Grid) -> dict[str, tuple[int, ...]]:
    """Whole shape of every parameter by DeepSpeed's name, from the layer files' slices."""
    shapes: dict[str, tuple[int, ...]] = {}
    for stage in range(grid.pipeline):
        path = grid.folder / f"mp_rank_{stage * grid.tensor:02d}_model_states.pt"
        for group in read(path)["param_shapes"]:
            for name, size in group.items():
                axis = split_axis(_split_name(name, len(size)))
                shapes[name] = tuple(
                    n * grid.tensor if i == axis else n for i, n in enumerate(size)
                )
    return shapes


def _split_name(name: str, dimensions: int) -> str:
    """A name of ours that tensor ranks cut in the same way."""
    slot, _, local = name.partition(".")
    if slot == "tied_modules" or (local == "weight" and dimensions == 2):
        return "embed_in.weight"
    return local if "." in local else f"final_layer_norm.{local}"


@dataclass(frozen=True)
class Address:
    """Where some elements of a parameter are in a data rank's optimizer file."""

    path: Path
    group: int
    """Parameter group, each with a flat partition of its own."""
    start: int
    """First element in the partition."""
    fragment: Fragment
    """Which elements of which tensor of ours they are, as fp32 weights."""

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """These elements of a tensor that lies like the partition."""
        return flat.detach()[self.start : self.start + self.fragment.numel]


def addresses(
    path: Path,
    optimizer: dict[str, Any],
    names: dict[str, str],
    place: tuple[int, int, Grid],
    model: ModelConfig,
    done: dict[tuple[str, int], int],
) -> Iterator[Address]:
    """What one optimizer file holds of the model, once for all tensor ranks and stages.

    Data ranks hold a parameter's elements in rising order, so each goes on where the one before
    ended.

    Args:
        path: the file.
        optimizer: its state (`optimizer_state`).
        names: ours of DeepSpeed's.
        place: stage, tensor rank, and the grid.
        model: the architecture.
        done: elements of each (parameter, tensor rank) so far; counted on.

    Raises:
        ExchangeError: a parameter that the model has not, or more elements than it has.
    """
    stage, tensor, grid = place
    shapes = model.tensor_shapes()
    for group, mapping in enumerate(optimizer["param_slice_mappings"]):
        for theirs, address in mapping.items():
            name = names.get(theirs)
            if name is None:
                raise ExchangeError(f"{path}: parameter {theirs} is not in the recipe's model")
            if theirs.startswith("tied_modules.") and stage > 0:
                continue  # the last stage's copy
            part = local_slice(name, shapes[name], tensor, grid.tensor)
            begin = done.get((name, tensor), 0)
            end = begin + int(address.numel)
            done[name, tensor] = end
            whole_here = part == tuple((0, n) for n in shapes[name])
            if grid.tensor > 1 and whole_here and tensor > 0:
                continue  # every tensor rank has it; the first one's is kept
            if end > slice_numel(part):
                raise ExchangeError(f"{path}: {theirs} has {end} elements, its slice {part}")
            piece = Fragment("weight", name, shapes[name], part, (begin, end), "float32")
            yield Address(path, group, int(address.start), piece)


def _fragments(
    optimizer: dict[str, Any], found: Iterable[Address]
) -> Iterator[tuple[Fragment, torch.Tensor]]:
    """Weights and moments at these addresses."""
    for address in found:
        state = optimizer["base_optimizer_state"]["state"][address.group]
        parts = {
            "weight": optimizer["single_partition_of_fp32_groups"][address.group],
            "exp_avg": state["exp_avg"],
            "exp_avg_sq": state["exp_avg_sq"],
        }
        for kind, flat in parts.items():
            data, piece = address.of(flat), address.fragment
            yield dataclasses.replace(piece, kind=kind, dtype=dtype_name(data.dtype)), data


def check_whole(
    folder: Path,
    done: dict[tuple[str, int], int],
    names: dict[str, str],
    model: ModelConfig,
    tensor: int,
) -> None:
    """Refuse a checkpoint of which elements were not found, by what `addresses` counted."""
    shapes = model.tensor_shapes()
    for theirs, name in names.items():
        for rank in range(tensor):
            wanted = slice_numel(local_slice(name, shapes[name], rank, tensor))
            found = done.get((name, rank), 0)
            if found != wanted:
                raise ExchangeError(
                    f"{folder}: {theirs} of tensor rank {rank} has {found} of {wanted} elements"
                )


def export_deepspeed(
    engine: Engine, position: Position, folder: Path, recipe: PretrainRecipe
) -> Path:
    """Let DeepSpeed save what the engine holds, in the job's layout; collective.

    Args:
        engine: with the weights and optimizer state of `position`.
        position: where training is.
        folder: gets `global_stepN` and `latest`.
        recipe: what is trained.

    Returns:
        The folder `global_stepN`.
    """
    inner = engine.inner
    inner.global_steps = position.step
    inner.skipped_steps = position.skipped
    inner.global_samples = position.samples
    tag = f"global_step{position.step}"
    with contextlib.redirect_stdout(io.StringIO()):
        inner.save_checkpoint(
            str(folder),
            tag=tag,
            client_state={"universal_checkpoint_info": patterns(recipe.model)},
        )
    return folder / tag
