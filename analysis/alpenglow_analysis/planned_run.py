"""What every command of `alpenglow plan` is asked about: a model, a batch, GPUs of a machine.

    alpenglow plan layout --model 7b --machine summit --nodes 512
    alpenglow plan step   --model layers=48,hidden=6144,heads=64 --machine selene --gpus 8 ...

A model is `7b` or `3b` (the shipped recipes), the path of a recipe or of a Hugging Face
`config.json`, or sizes. What a recipe says beside the model (batch, sequence, precision, attention)
is taken from it unless an option says otherwise. Torch-free.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from alpenglow.config import ConfigError
from alpenglow.config import load as load_recipe
from alpenglow.model.config import ModelConfig
from alpenglow.parallel import framework
from alpenglow.parallel.framework import DEEPSPEED, Framework
from alpenglow.parallel.hardware import Hardware
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.step_cost import StepCost, step_cost
from alpenglow.parallel.work import Work
from alpenglow.train.recipe import PretrainRecipe
from alpenglow_analysis.calibration import UNCALIBRATED, Calibration
from alpenglow_lsf.machine import Machine, current, load, names

SHIPPED = {"7b": "pretrain_7b.toml", "3b": "pretrain_3b.toml"}
FRAMEWORKS = {
    name.lower().replace("_", "-"): value
    for name, value in vars(framework).items()
    if isinstance(value, Framework)
}
"""Word for --framework -> what it stands for in alpenglow.parallel.framework."""
SIZES = {
    "layers": "num_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "vocab": "vocab_size",
    "intermediate": "intermediate_size",
    "tied": "tie_word_embeddings",
    "parallel_residual": "use_parallel_residual",
}
"""Word for --model SIZES -> field of ModelConfig."""
HUGGING_FACE = {
    "num_layers": ("num_hidden_layers", "n_layer"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "vocab_size": ("vocab_size",),
    "intermediate_size": ("intermediate_size", "n_inner"),
    "tie_word_embeddings": ("tie_word_embeddings",),
    "use_parallel_residual": ("use_parallel_residual",),
}
"""Field of ModelConfig -> its names in a config.json."""


class PlanError(ValueError):
    """Something that cannot be planned; the message is one sentence with the nearest that works."""


@dataclass(frozen=True)
class PlannedRun:
    """A model on GPUs of a machine; a layout is still to be chosen.

    Args:
        name: of the model, for people.
        model: its sizes.
        machine: the machine file; a stand-in counts as the one it emulates.
        gpus: ranks of the job; one a GPU.
        global_batch_size: sequences of a step.
        work: how a replica computes; its micro-batch counts are those of no layout yet.
        how: the framework.
        calibration: measured on this machine; None takes the machine file as it is.
        recipe: where the model came from one.
    """

    name: str
    model: ModelConfig
    machine: Machine
    gpus: int
    global_batch_size: int
    work: Work
    how: Framework = DEEPSPEED
    calibration: Calibration | None = None
    recipe: PretrainRecipe | None = None

    @property
    def nodes(self) -> int:
        """Nodes that hold the GPUs, the last one perhaps not full."""
        return -(-self.gpus // max(1, self.machine.target.compute.gpus))

    @property
    def batch_tokens(self) -> int:
        """Tokens of a step."""
        return self.global_batch_size * self.work.sequence_length

    @property
    def error(self) -> float:
        """Half of the 90 % interval of a predicted step, as a share of it."""
        return UNCALIBRATED if self.calibration is None else self.calibration.error

    @cached_property
    def tuned(self) -> tuple[Hardware, Framework]:
        """Machine and framework as the calibration, if any, has them."""
        hardware = Hardware.of(self.machine, self.gpus, self.work.dtype)
        if self.calibration is None:
            return hardware, self.how
        return self.calibration.applied(hardware), self.how.calibrated()

    def work_of(self, layout: Layout, micro_batch_size: int, **changes: Any) -> Work:
        """What a replica of a layout does in a step.

        Args:
            layout: degrees; their product is `gpus`.
            micro_batch_size: sequences of a micro-batch.
            changes: other fields of Work, such as `schedule` or `recompute`.

        Raises:
            PlanError: the batch does not divide over replicas and micro-batches.
        """
        share = micro_batch_size * layout.data
        if self.global_batch_size % share:
            raise PlanError(
                f"a batch of {self.global_batch_size:,} sequences does not divide over "
                f"{layout.data:,} replicas x micro-batches of {micro_batch_size}"
            )
        return replace(
            self.work,
            micro_batch_size=micro_batch_size,
            micro_batches=self.global_batch_size // share,
            **changes,
        )

    def cost(self, layout: Layout, work: Work) -> StepCost:
        """Predict one step; errors as of `alpenglow.parallel.step_cost`."""
        hardware, how = self.tuned
        cost = step_cost(self.model, layout, work, hardware, how)
        return cost if self.calibration is None else self.calibration.finished(cost, how)


def add_options(
    parser: argparse.ArgumentParser, *, gpus: bool = True, required: bool = True
) -> None:
    """Add the options that `planned_run` reads.

    Args:
        parser: takes them.
        gpus: whether how many there are is one of them.
        required: whether there must be a model.
    """
    group = parser.add_argument_group("what is planned")
    group.add_argument(
        "--model", required=required, metavar="7b|3b|RECIPE|CONFIG|SIZES",
        help="a shipped recipe, a recipe's path, a Hugging Face config.json, or "
        "layers=32,hidden=4096,heads=32[,vocab=50432,intermediate=...,tied=true,"
        "parallel_residual=true]",
    )  # fmt: skip
    group.add_argument("--machine", help="name or path of a machine file; default: this machine's")
    if gpus:
        many = group.add_mutually_exclusive_group(required=True)
        many.add_argument("--nodes", type=int)
        many.add_argument("--gpus", type=int)
    group.add_argument("--batch", type=int, metavar="SEQUENCES", help="of a step, in all")
    group.add_argument("--sequence", type=int, metavar="TOKENS")
    group.add_argument("--dtype", choices=("fp32", "fp16", "bf16"))
    group.add_argument("--attention", choices=("plain", "sdpa"))
    group.add_argument("--framework", choices=sorted(FRAMEWORKS), default="deepspeed")
    group.add_argument(
        "--calibration", type=Path, metavar="FILE", help="by alpenglow plan calibrate"
    )


def planned_run(given: argparse.Namespace, machine: Machine | None = None) -> PlannedRun:
    """Read what `add_options` added.

    Args:
        given: the parsed options.
        machine: instead of --machine.

    Raises:
        PlanError, ConfigError, MachineError: one sentence on what cannot be.
    """
    found = machine or (current() if given.machine is None else load(given.machine))
    target = found.target
    each = target.compute.gpus
    if not each:
        raise PlanError(f"machine {target.name} has no GPUs: its file says node.gpus = 0")
    gpus = given.gpus if given.gpus is not None else given.nodes * each
    most = target.compute.nodes * each
    if not 1 <= gpus <= most:
        raise PlanError(
            f"{gpus:,} GPUs: {target.name} has {most:,} on {target.compute.nodes:,} nodes"
        )
    named = getattr(given, "layout", None)
    name, model, recipe = _model(given.model, target.name, named)
    for option in ("batch", "sequence"):
        number = getattr(given, option)
        if number is not None and number < 1:
            raise PlanError(f"--{option} {number}: it is at least 1")
    batch = given.batch or (recipe.batch.global_batch_size if recipe else None)
    if batch is None:
        raise PlanError(f"--batch is missing: sequences of a step; {name} is no recipe that has it")
    sequence = given.sequence or (
        recipe.batch.sequence_length if recipe else model.max_position_embeddings
    )
    work = Work(1, 1, sequence) if recipe is None else recipe.work(Layout())
    work = replace(work, micro_batch_size=1, micro_batches=1, sequence_length=sequence)
    if given.dtype is not None:
        work = replace(work, dtype=given.dtype)
    if given.attention is not None:
        work = replace(work, attention=given.attention)
    calibration = None if given.calibration is None else Calibration.read(given.calibration)
    if calibration is not None and calibration.machine != target.name:
        raise PlanError(
            f"{given.calibration}: was measured on {calibration.machine}, not on {target.name}"
        )
    return PlannedRun(
        name, model, target, gpus, batch, work, FRAMEWORKS[given.framework], calibration, recipe
    )


def model_of(word: str) -> ModelConfig:
    """The sizes that a --model names, whatever machine they are for.

    Raises:
        PlanError, ConfigError: no such model.
    """
    return _model(word, "summit")[1]


def recipe_path(word: str) -> Path | None:
    """The recipe that --model names; None where it names sizes or a config."""
    if word in SHIPPED:
        return jobs_folder() / SHIPPED[word]
    return Path(word) if word.endswith(".toml") else None


def _model(
    word: str, machine: str, layout: str | None = None
) -> tuple[str, ModelConfig, PretrainRecipe | None]:
    try:
        if "=" in word:
            return word, _sizes(word), None
        if word.endswith(".json"):
            return str(Path(word).parent.name or word), _config(Path(word)), None
    except (ValueError, TypeError) as error:
        raise PlanError(f"--model {word}: {error}") from None
    path = recipe_path(word)
    if path is None:
        raise PlanError(
            f"--model {word}: {', '.join(SHIPPED)}, a recipe (.toml), a config (.json), or "
            "layers=32,hidden=4096,heads=32"
        )
    # A name is one of the recipe's layouts; degrees and files are read by `chosen_layout`.
    plain = layout is not None and "=" not in layout and not layout.endswith(".json")
    recipe = load_recipe(
        path, PretrainRecipe, machine=machine, machines={*names(), machine},
        overrides=[f"layout={layout}"] if plain else [],
    )  # fmt: skip
    return (f"INCITE {word.upper()}" if word in SHIPPED else path.stem), recipe.model, recipe


def jobs_folder() -> Path:
    """Folder of the shipped recipes: in ALPENGLOW_ROOT, else in the checkout around this file."""
    root = os.environ.get("ALPENGLOW_ROOT")
    return (Path(root) if root else Path(__file__).resolve().parents[2]) / "jobs"


def _sizes(word: str) -> ModelConfig:
    # One branch after the other, as in GPT-2, Megatron-LM, MPT and RedPajama-INCITE.
    values: dict[str, Any] = {
        "vocab_size": 50432, "max_position_embeddings": 2048, "use_parallel_residual": False,
    }  # fmt: skip
    for part in word.split(","):
        key, _, text = part.partition("=")
        if key.strip() not in SIZES:
            raise ValueError(f"no size {key.strip()!r}; choose from {', '.join(SIZES)}")
        values[SIZES[key.strip()]] = json.loads(text)
    return ModelConfig(rotary_pct=1.0, **values)


def _config(path: Path) -> ModelConfig:
    try:
        told: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    neox = told.get("model_type") == "gpt_neox"
    values: dict[str, Any] = {"rotary_pct": 1.0, "use_parallel_residual": neox}
    for field, keys in HUGGING_FACE.items():
        for key in keys:
            if told.get(key) is not None:
                values[field] = told[key]
                break
    position = told.get("max_position_embeddings") or told.get("n_positions")
    return ModelConfig(**values, **({"max_position_embeddings": position} if position else {}))


__all__ = [
    "ConfigError",
    "PlanError",
    "PlannedRun",
    "add_options",
    "jobs_folder",
    "planned_run",
    "recipe_path",
]
