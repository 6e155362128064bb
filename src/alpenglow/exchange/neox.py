"""Checkpoints of EleutherAI's GPT-NeoX as a source of weights.

`global_stepN/` holds `layer_LL-model_TT-model_states.pt` (or, where it was trained without a
pipeline, `mp_rank_TT_model_states.pt` with all layers in one), and `configs/`. Tensor ranks' parts
are put together tensor by tensor, from files that are mapped, not read.

A row-parallel bias (`attention.dense.bias`, `mlp.dense_4h_to_h.bias`) is kept by every tensor rank.
With the parallel residual each rank adds its copy before the one all-reduce, so the model's bias is
the *sum* of the copies. With the serial residual the all-reduce comes first and each rank adds its
replica after it, so the bias is *one* of them. (RowParallelLinear is built with
parallel_output=gpt_j_residual, megatron/model/transformer.py; upstream's converter sums always.)
Replicas that have drifted apart are averaged, and a note says so, as with layer norms.

This module is imported, never started.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.layer_files import (
    FLOATS,
    NAME,
    Merged,
    Part,
    Rule,
    layer_file,
    missing_files,
    present,
    tensors_of,
)
from alpenglow.exchange.neox_config import NeoxConfig
from alpenglow.exchange.neox_names import candidates, ignored, merge_of, slot_of, slots
from alpenglow.exchange.step_folder import engine_files, engine_rank, step_of, tagged
from alpenglow.model.config import ModelConfig, Slice

log = logging.getLogger("alpenglow.exchange")

_CONFIGS = "configs"
_EMBEDDING = "word_embeddings.weight"


@dataclass(frozen=True)
class _Files:
    """Where each slot's tensors of each tensor rank are."""

    folder: Path
    tensor: int
    sequential: bool
    """All slots of a rank in one file."""

    @property
    def key(self) -> str:
        """Where in a file's body its tensors are."""
        return "module" if self.sequential else ""

    def path(self, slot: int, rank: int) -> Path:
        """The file of a slot and a rank."""
        if self.sequential:
            return self.folder / f"mp_rank_{rank:02d}_model_states.pt"
        return layer_file(self.folder, slot, rank)

    def tensors(self, slot: int, rank: int) -> dict[str, torch.Tensor]:
        """A slot's tensors by their names in the slot."""
        held = tensors_of(self.path(slot, rank), self.key)
        room = self.name(slot, "")
        return {n.removeprefix(room): t for n, t in held.items() if n.startswith(room)}

    def name(self, slot: int, local: str) -> str:
        """A tensor's name in its file."""
        return f"sequential.{slot}.{local}" if self.sequential else local


class NeoxSource:
    """A checkpoint of GPT-NeoX; get one by `open`."""

    form = "neox"

    def __init__(
        self,
        path: Path,
        step: int | None,
        config: ModelConfig,
        tensors: Mapping[str, Merged],
        dtype: torch.dtype,
        notes: tuple[str, ...],
        state: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.step = step
        self.config = config
        self.dtype = dtype
        self.notes = notes
        self.state = state
        self._tensors = tensors

    @classmethod
    def open(cls, path: Path, model: ModelConfig | None = None) -> NeoxSource:
        """Open `global_stepN`, or the folder above it with `latest`; looks at every layer's names.

        Args:
            path: the folder.
            model: the architecture, where the checkpoint has no `configs/`.

        Raises:
            ExchangeError: an incomplete checkpoint, mixed steps, a configuration that cannot be
                expressed, tensors that do not fit it, or a file that could run code.
        """
        folder = tagged(path)
        step = step_of(folder) if folder.is_dir() else None
        said = _configuration(folder, model)
        files = _files(folder, said)
        layers = said.layers if said else model.num_layers  # type: ignore[union-attr]
        tied = said.tied if said else model.tie_word_embeddings  # type: ignore[union-attr]
        wanted = slots(layers, tied=tied)
        _check_files(files, wanted, str(said.path) if said else "the model")
        file, first = files.path(0, 0), files.tensors(0, 0)
        if _EMBEDDING not in first:
            raise ExchangeError(f"{file}: {_EMBEDDING} is missing: not a GPT-NeoX checkpoint")
        if first[_EMBEDDING].dim() != 2:
            raise ExchangeError(f"{file}: {_EMBEDDING} is {list(first[_EMBEDDING].shape)}")
        if said is not None:
            config = said.model(len(first[_EMBEDDING]) * files.tensor)
        else:
            assert model is not None
            config = model
        try:
            config.check_parallel(1, files.tensor)
        except ValueError as error:
            raise ExchangeError(f"{folder}: {error}") from None
        index = _Index(files, config)
        for slot in wanted:
            index.add(slot)
        notes = (*(said.notes() if said else ()), *index.notes())
        for note in notes:
            log.warning("%s: %s", folder, note)
        state = {"layout": {"tensor": files.tensor}}
        return cls(folder, step, config, index.tensors, index.dtype, notes, state)

    def stored(self, name: str) -> torch.dtype:
        """Dtype that `tensor` gives: the file's, but float32 for a bias that ranks sum."""
        return self._tensors[name].dtype

    def tensor(self, name: str, part: Slice | None = None) -> torch.Tensor:
        """A tensor or a box of it; one file is open at a time.

        Raises:
            ExchangeError: a file is gone or damaged.
        """
        return self._tensors[name].tensor(part)


def _configuration(folder: Path, model: ModelConfig | None) -> NeoxConfig | None:
    configs = folder / _CONFIGS
    if configs.is_dir():
        return NeoxConfig.load(configs)
    if model is None:
        raise ExchangeError(
            f"{configs}: missing, so the architecture is unknown; put the run's .yml files there, "
            "or give the model"
        )
    return None


def _files(folder: Path, said: NeoxConfig | None) -> _Files:
    """Find out in which of the two forms a checkpoint is, and of how many tensor ranks."""
    if held := present(folder):
        highest = max(rank for some in held.values() for rank in some)
        return _Files(folder, said.tensor if said else highest + 1, sequential=False)
    ranks = [engine_rank(path) for path in engine_files(folder)]
    if not ranks:
        raise ExchangeError(
            f"{folder}: neither layer_XX-model_YY-model_states.pt nor mp_rank_XX_model_states.pt"
        )
    files = _Files(folder, said.tensor if said else len(ranks), sequential=True)
    for rank in sorted({*range(files.tensor)} ^ {*ranks}):
        what = "missing" if rank < files.tensor else "one file too many"
        raise ExchangeError(f"{files.path(0, rank)}: {what}: there are {files.tensor} tensor ranks")
    return files


def _check_files(files: _Files, wanted: list[int], whose: str) -> None:
    """Look for every slot of every rank, and for none too many."""
    about = f"{whose} has {files.tensor} tensor ranks and parameters in slots {_listed(wanted)}"
    if files.sequential:
        for rank in range(files.tensor):
            path = files.path(0, rank)
            for name in tensors_of(path, "module"):
                room, _, rest = name.partition(".")
                number = rest.partition(".")[0]
                lawful = room == "sequential" and number.isdigit() and int(number) in wanted
                if not lawful:
                    raise ExchangeError(f"{path}: {name} is too much: {about}")
        return
    for path in missing_files(files.folder, wanted, files.tensor):
        raise ExchangeError(f"{path}: missing: {about}")
    for slot, ranks in present(files.folder).items():
        path = layer_file(files.folder, slot, max(ranks))
        if slot not in wanted or max(ranks) >= files.tensor:
            raise ExchangeError(f"{path}: one file too many: {about}")


def _listed(numbers: list[int]) -> str:
    """`0, 2 to 33, 35`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


class _Index:
    """Every tensor as its parts, collected slot by slot; replicas are compared on the way."""

    def __init__(self, files: _Files, config: ModelConfig) -> None:
        self.tensors: dict[str, Merged] = {}
        self.dtype = torch.float32
        """The first matrix's."""
        self._files = files
        self._config = config
        self._shapes = config.tensor_shapes()
        self._drift: dict[str, tuple[str, float]] = {}

    def add(self, slot: int) -> None:
        """Look at a slot's files.

        Raises:
            ExchangeError: names or shapes that are not the model's, or ranks that disagree on
                them.
        """
        names = [n for n in self._shapes if slot_of(n, self._config.num_layers) == slot]
        parts: dict[str, list[Part]] = {name: [] for name in names}
        found: dict[str, torch.Tensor] = {}
        replicas: dict[str, torch.Tensor] = {}
        for rank in range(self._files.tensor):
            path, held = self._files.path(slot, rank), self._files.tensors(slot, rank)
            for name in names:
                local, tensor = _choose(path, name, held)
                parts[name].append(Part(path, self._files.name(slot, local), self._files.key))
                first = found.setdefault(name, tensor.detach().to("meta"))
                self._check(path, name, local, tensor, first)
                if self._rule(name, tensor) in ("one", "mean"):
                    self._compare(name, tensor, replicas)
            if left := sorted(key for key in held if not ignored(key)):
                raise ExchangeError(
                    f"{path}: {left[0]} is no part of the architecture, or is there twice under "
                    "two names"
                )
        for name in names:
            self._take(name, tuple(parts[name]), found[name])

    def _check(
        self, path: Path, name: str, local: str, tensor: torch.Tensor, first: torch.Tensor
    ) -> None:
        rule, ranks = self._rule(name, tensor), self._files.tensor
        whole = self._shapes[name]
        wanted = tuple(n // ranks if i == rule else n for i, n in enumerate(whole))
        if tuple(tensor.shape) != wanted:
            raise ExchangeError(
                f"{path}: {local} is {list(tensor.shape)}, the configuration with {ranks} tensor "
                f"rank{'s' if ranks > 1 else ''} wants {list(wanted)}"
            )
        if tensor.dtype not in FLOATS or tensor.dtype != first.dtype:
            raise ExchangeError(f"{path}: {local} is {tensor.dtype}, other ranks' {first.dtype}")

    def _rule(self, name: str, tensor: torch.Tensor) -> Rule:
        merge = merge_of(name)
        if merge == "bias":
            return "sum" if self._config.use_parallel_residual else "mean"
        if name == "embed_out.weight" and tensor.dim() == 2:
            # Old releases cut the head by columns where output_layer_parallelism was "row".
            by_columns = (self._config.vocab_size, self._config.hidden_size // self._files.tensor)
            return 1 if self._files.tensor > 1 and tuple(tensor.shape) == by_columns else 0
        rules: dict[str, Rule] = {"rows": 0, "columns": 1, "replica": "mean"}
        return rules[merge]

    def _compare(self, name: str, tensor: torch.Tensor, replicas: dict[str, torch.Tensor]) -> None:
        first = replicas.setdefault(name, tensor.detach().double())
        apart = float((tensor.detach().double() - first).abs().max())
        kind = "layer norms" if merge_of(name) == "replica" else "row-parallel biases"
        if apart > self._drift.get(kind, ("", 0.0))[1]:
            self._drift[kind] = (name, apart)

    def _take(self, name: str, parts: tuple[Part, ...], like: torch.Tensor) -> None:
        rule = self._rule(name, like)
        dtype = torch.float32 if rule == "sum" and len(parts) > 1 else like.dtype
        if name == "embed_in.weight":
            self.dtype = like.dtype
        self.tensors[name] = Merged(name, self._shapes[name], dtype, parts, rule)

    def notes(self) -> tuple[str, ...]:
        """A sentence for each kind of replica that tensor ranks do not agree on."""
        return tuple(
            f"tensor ranks' replicas of {kind} have drifted apart, by up to {apart:.3g} in {name}; "
            "their mean is taken"
            for kind, (name, apart) in self._drift.items()
        )


def _choose(path: Path, name: str, held: dict[str, torch.Tensor]) -> tuple[str, torch.Tensor]:
    """Take a tensor of ours out of a file's, by the first of its names that is there."""
    names = candidates(name)
    for local in names:
        if local in held:
            return local, held.pop(local)
    raise ExchangeError(f"{path}: no {name} under any known name ({', '.join(names)})")


def looks_like(folder: Path) -> bool:
    """Whether a folder's layer files (or the one file without a pipeline) are GPT-NeoX's.

    Raises:
        ExchangeError: the file that would tell cannot be read.
    """
    first = layer_file(folder, 0, 0)
    if first.is_file():
        return _EMBEDDING in tensors_of(first)
    if any(NAME.fullmatch(path.name) for path in folder.iterdir()):
        return (folder / _CONFIGS).is_dir()
    return (folder / _CONFIGS).is_dir() and bool(engine_files(folder))
