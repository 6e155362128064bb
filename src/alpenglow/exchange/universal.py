"""DeepSpeed's universal checkpoints: import and export, by one process.

`zero/NAME/{fp32,exp_avg,exp_avg_sq}.pt` hold one whole parameter each ({"param": tensor, "cat_dim":
dimension that tensor ranks cut}), `step.pt` Adam's count, `zero/optimizer_state.pt` what is
common, and `mp_rank_00_model_states.pt` the engine's counters (DeepSpeed 0.19.8,
checkpoint/ds_to_universal.py and universal_checkpoint.py). This module is imported, never started.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.layer_files import checked
from alpenglow.exchange.names import global_names, pipeline_names
from alpenglow.exchange.saved_file import read, scaler_numbers
from alpenglow.exchange.step_folder import engine_state, step_of, tagged
from alpenglow.exchange.writer import Writer
from alpenglow.model.config import ModelConfig, Slice, split_axis
from alpenglow.train.architecture import first_difference
from alpenglow.train.checkpoint import Checkpoint
from alpenglow.train.fragments import Fragment, dtype_name
from alpenglow.train.recipe import PretrainRecipe

# Names of files in a universal checkpoint and our fragment kinds.
KINDS = {"fp32": "weight", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
VERSION = 0.2
DEEPSPEED = "0.19.8"
"""The version whose layout is written."""


def patterns(model: ModelConfig) -> dict[str, Any]:
    """How tensor ranks cut parameters, as DeepSpeed's own converter wants to be told.

    It goes into `client_state["universal_checkpoint_info"]` of a DeepSpeed checkpoint.
    """
    return {
        "universal_checkpoint_version": VERSION,
        "original_vocab_size": model.vocab_size,
        "tp_replicated_parameter_patterns": [
            r".*layernorm\.(weight|bias)",
            r".*attention\.dense\.bias",
            r".*mlp\.dense_4h_to_h\.bias",
            rf"{model.num_layers + 1}\.(weight|bias)",
        ],
        "parameter_with_row_parallelism_patterns": [
            r".*attention\.dense\.weight",
            r".*mlp\.dense_4h_to_h\.weight",
        ],
        "vocabulary_parameter_patterns": [],
        "parameter_to_average_patterns": [],
        "pipeline_replicated_parameter_patterns": [r"tied_modules\."],
    }


def export_universal(
    checkpoint: Checkpoint, folder: Path, recipe: PretrainRecipe, say: Callable[[str], None]
) -> Path:
    """Write a checkpoint as a universal one; returns `folder/global_stepN_universal`.

    One tensor is in memory at a time. The folder appears whole, by a rename, and `latest` and
    `latest_universal` name it.

    Raises:
        ExchangeError: another architecture than the recipe's, or the folder is there already.
        CheckpointError: the checkpoint is damaged.
    """
    model = recipe.model
    difference = first_difference(
        {name: checkpoint.shape("weight", name) for name in checkpoint.names("weight")},
        model,
        checkpoint.state.get("recipe", {}).get("model"),
    )
    if difference is not None:
        raise ExchangeError(
            f"{checkpoint.directory}: a checkpoint of another architecture: {difference}"
        )
    target = folder / f"global_step{checkpoint.step}_universal"
    if target.exists():
        raise ExchangeError(f"{target}: it is there already; remove it or name another folder")
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(checkpoint, temporary, recipe, say)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for name in ("latest", "latest_universal"):
        (folder / name).write_text(target.name, encoding="utf-8")
    return target


def _write(
    checkpoint: Checkpoint, folder: Path, recipe: PretrainRecipe, say: Callable[[str], None]
) -> None:
    updates = float(checkpoint.state["updates"])
    master = "master" if "master" in checkpoint.kinds() else "weight"
    names = pipeline_names(recipe.model)
    for count, (name, theirs) in enumerate(names.items(), 1):
        place = folder / "zero" / theirs
        place.mkdir(parents=True)
        axis = split_axis(name)
        for file, kind in KINDS.items():
            tensor = checkpoint.tensor(master if kind == "weight" else kind, name)
            body: dict[str, Any] = {"param": tensor.float()}
            if axis is not None:
                body["cat_dim"] = axis
            _save(body, place / f"{file}.pt")
        _save(torch.tensor(updates), place / "step.pt")
        say(f"{theirs} ({count} of {len(names)})")
    _save(_optimizer_state(checkpoint, recipe), folder / "zero/optimizer_state.pt")
    state = checkpoint.state
    trained = state.get("dtype")
    engine: dict[str, Any] = {
        "module": None,
        "buffer_names": [],
        "optimizer": None,
        "param_shapes": None,
        "frozen_param_shapes": None,
        "shared_params": {},
        "frozen_param_fragments": None,
        "lr_scheduler": None,
        "data_sampler": None,
        "random_ltd": None,
        "skipped_steps": checkpoint.step - int(state["updates"]),
        "global_steps": checkpoint.step,
        "global_samples": int(state["samples"]),
        "dp_world_size": int(state.get("layout", {}).get("data", 1)),
        "mp_world_size": 1,
        "checkpoint_parallel_dimensions": {"pp_degree": 1, "tp_degree": 1},
        "ds_config": {trained: {"enabled": True}} if trained in ("fp16", "bf16") else {},
        "ds_version": DEEPSPEED,
        "universal_checkpoint_info": patterns(recipe.model),
    }
    _save(engine, folder / "mp_rank_00_model_states.pt")


def _optimizer_state(checkpoint: Checkpoint, recipe: PretrainRecipe) -> dict[str, Any]:
    optimizer = recipe.optimizer
    common = {"betas": tuple(optimizer.betas), "eps": optimizer.eps}
    decays = (optimizer.weight_decay, 0.0)
    found: dict[str, Any] = {
        "param_groups": [{**common, "weight_decay": decay, "params": []} for decay in decays],
        "clip_grad": optimizer.gradient_clipping,
        "overflow": False,
        "ds_version": DEEPSPEED,
    }
    scale = checkpoint.state.get("loss_scale")
    if scale is not None:
        # DeepSpeed takes the object itself from the file; it alone knows its class.
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

        precision = recipe.precision
        scaler = DynamicLossScaler(
            init_scale=scale["cur_scale"],
            scale_window=precision.loss_scale_window,
            min_scale=precision.min_loss_scale,
            delayed_shift=precision.hysteresis,
            dtype=torch.float16,
        )
        for key, value in scale.items():
            setattr(scaler, key, value)
        found |= {"loss_scaler": scaler, "dynamic_loss_scale": True}
    return found


def _save(body: Any, path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(body, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ExchangeError(f"{path}: {error.strerror or error}") from error


def _shapes(folder: Path, model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes by DeepSpeed's names, once they are found to be the model's."""
    zero = folder / "zero"
    if not zero.is_dir():
        raise ExchangeError(f"{zero}: missing: not a universal checkpoint")
    theirs = sorted(path.parent.name for path in zero.glob("*/fp32.pt"))
    shapes = {name: tuple(_whole(zero / name / "fp32.pt").shape) for name in theirs}
    global_names(shapes, model, str(folder))
    return shapes


def _whole(path: Path) -> torch.Tensor:
    body = read(path)
    tensor = body.get("param") if isinstance(body, dict) else None
    if not isinstance(tensor, torch.Tensor):
        raise ExchangeError(f"{path}: no parameter of a universal checkpoint in it")
    return tensor.detach()


def _dtype(engine: dict[str, Any]) -> torch.dtype:
    """What the model was trained in, by the configuration that DeepSpeed keeps; else float32."""
    config = engine.get("ds_config")
    for key, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        table = config.get(key) if isinstance(config, dict) else None
        if isinstance(table, dict) and table.get("enabled") is True:
            return dtype
    return torch.float32


class UniversalSource:
    """A universal checkpoint as a source of weights; get one by `open`."""

    form = "universal"

    def __init__(
        self,
        path: Path,
        step: int | None,
        config: ModelConfig,
        dtype: torch.dtype,
        state: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.step = step
        self.config = config
        self.dtype = dtype
        self.state = state
        self._names = pipeline_names(config)

    @classmethod
    def open(cls, path: Path, model: ModelConfig | None) -> UniversalSource:
        """Open a folder with `zero/`, or the folder above it with `latest_universal`.

        Args:
            path: the folder.
            model: the architecture, which these files do not say.

        Raises:
            ExchangeError: no model given, an incomplete folder, or another architecture.
        """
        folder = tagged(path, "latest_universal")
        if model is None:
            raise ExchangeError(
                f"{folder}: a universal checkpoint does not say heads, rotary share or residual "
                "form; give the model (a recipe's [model] table)"
            )
        engine = engine_state(folder / "mp_rank_00_model_states.pt")
        _shapes(folder, model)
        samples = engine.get("global_samples")
        state = {"samples": samples} if isinstance(samples, int) else {}
        return cls(folder, step_of(folder), model, _dtype(engine), state)

    def stored(self, name: str) -> torch.dtype:
        """float32: what the optimizer updates."""
        del name
        return torch.float32

    def tensor(self, name: str, part: Slice | None = None) -> torch.Tensor:
        """A tensor or a box of it, from its own file.

        Raises:
            ExchangeError: the file is gone or damaged.
        """
        shape = self.config.tensor_shapes()[name]
        target = checked(name, shape, part)
        path = self.path / "zero" / self._names[name] / "fp32.pt"
        whole = _whole(path)
        if tuple(whole.shape) != shape:
            raise ExchangeError(f"{path}: {list(whole.shape)}, the model wants {list(shape)}")
        box = tuple(slice(start, stop) for start, stop in target)
        return torch.empty([b - a for a, b in target]).copy_(whole[box])


def imported_state(
    form: str,
    engine: dict[str, Any],
    recipe: PretrainRecipe,
    scaler: dict[str, Any] | None,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """What a checkpoint says beside its tensors after DeepSpeed's engine state was imported.

    Args:
        form: what it was imported from.
        engine: DeepSpeed's counters.
        recipe: of the run.
        scaler: of the dynamic loss scale; None where there was none.
        dtype: that forward and backward were in.
    """
    step, samples = int(engine["global_steps"]), int(engine["global_samples"])
    return {
        "step": step,
        "updates": step - int(engine["skipped_steps"]),
        "samples": samples,
        "tokens": samples * recipe.batch.sequence_length,
        "dtype": "fp32",
        "loss_scale": scaler,
        "imported": {
            "from": form,
            "version": str(engine.get("ds_version")),
            "dtype": dtype_name(dtype),
        },
        "recipe": {"model": dataclasses.asdict(recipe.model)},
    }


def import_universal(
    folder: Path, checkpoints: Path, recipe: PretrainRecipe, say: Callable[[str], None]
) -> Path:
    """Make a checkpoint of a universal one; returns it.

    Args:
        folder: with `zero/`, or the folder above it with `latest_universal`.
        checkpoints: the run's folder of checkpoints.
        recipe: its model must be the checkpoint's.
        say: told how far it is.

    Raises:
        ExchangeError: a missing or damaged file, a pickle that asks for more than tensors, another
            architecture.
        CheckpointError: the checkpoint cannot be written.
    """
    folder = tagged(folder, "latest_universal")
    zero = folder / "zero"
    engine = engine_state(folder / "mp_rank_00_model_states.pt")
    shapes = _shapes(folder, recipe.model)
    step = int(engine["global_steps"])
    writer = Writer(checkpoints, step)
    try:
        names = pipeline_names(recipe.model)
        for count, (name, their) in enumerate(names.items(), 1):
            pairs = []
            for file, kind in KINDS.items():
                tensor = _whole(zero / their / f"{file}.pt").float()
                if tuple(tensor.shape) != shapes[their]:
                    raise ExchangeError(
                        f"{zero / their / file}.pt: {list(tensor.shape)}, the weight is "
                        f"{list(shapes[their])}"
                    )
                pairs.append((Fragment.of(kind, name, tensor), tensor))
            writer.add(pairs)
            say(f"{their} ({count} of {len(names)})")
        scaler = scaler_numbers(read(zero / "optimizer_state.pt").get("loss_scaler"))
        writer.commit(imported_state("universal", engine, recipe, scaler, _dtype(engine)))
    except BaseException:
        writer.clear()
        raise
    return writer.directory
