"""What a run must remember: this rank's part of it as checkpoint fragments, and back.

Under ZeRO-1 each data-parallel rank owns a flat range of every parameter group: fp32 weights
("master") and Adam's two moments. DeepSpeed notes in `param._hp_mapping` which range of a
parameter that is, which is exactly a fragment: a flat range within this rank's slice of a global
tensor. A reader asks for the ranges that *it* owns, so any layout reads any other's checkpoint.
In fp32 the weights are their own master copy and are stored once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alpenglow.model.stages import GlobalTensor
from alpenglow.train.checkpoint import Checkpoint, Fragment

Fragments = list[tuple[Fragment, torch.Tensor]]
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Shard:
    """The part of one parameter whose optimizer state this rank owns."""

    flat: torch.Tensor
    """This rank's flat fp32 partition of the parameter group: the key of the optimizer's state."""
    start: int
    """Where the parameter's part begins in the partition."""
    range: tuple[int, int]
    """Row-major range within this rank's slice of the global tensor."""

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """View of this parameter's part of a flat tensor that lies like the partition."""
        return flat.narrow(0, self.start, self.range[1] - self.range[0])


def shard_of(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> Shard | None:
    """This rank's share of a parameter's optimizer state; None where other ranks own all of it.

    Args:
        parameter: a parameter that DeepSpeed's ZeRO-1 or BF16 optimizer manages.
        optimizer: the optimizer inside DeepSpeed's, whose groups hold one flat partition each.
    """
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return None
    high, low = mapping.hp_fragment_address, mapping.lp_fragment_address
    flat = optimizer.param_groups[mapping.param_group_index]["params"][0]
    return Shard(flat, high.start, (low.start, low.start + low.numel))


def create_moments(optimizer: torch.optim.Optimizer, updates: int) -> None:
    """Give every flat partition zero moments and Adam's step count.

    Args:
        optimizer: the optimizer inside DeepSpeed's.
        updates: updates applied so far.
    """
    counts_in_group = not isinstance(optimizer, torch.optim.AdamW)  # Apex keeps it in the group
    for group in optimizer.param_groups:
        if counts_in_group:
            group["step"] = updates
        for flat in group["params"]:
            state = optimizer.state[flat]
            for moment in MOMENTS:
                state[moment] = torch.zeros_like(flat, requires_grad=False)
            if not counts_in_group:
                device = flat.device if group.get("fused") else torch.device("cpu")
                state["step"] = torch.tensor(float(updates), device=device)


def fragments(
    tensors: Sequence[GlobalTensor],
    optimizer: torch.optim.Optimizer,
    coordinates: tuple[int, int, int],
) -> Fragments:
    """This rank's fragments of weights and optimizer state; together the ranks give each once.

    Args:
        tensors: the global tensors of this rank's stage.
        optimizer: the optimizer inside DeepSpeed's.
        coordinates: (pipeline stage, data rank, tensor rank) of this rank.
    """
    found: Fragments = []
    for tensor, parameter in _written_here(tensors, coordinates):
        shard = shard_of(parameter, optimizer)
        if shard is None:
            continue
        place = functools.partial(Fragment.of, global_shape=tensor.global_shape, slice=tensor.slice)
        start, stop = shard.range
        # Every data rank has the whole weight and saves the part whose optimizer state it owns: all
        # ranks then stand still equally long.
        parts = {"weight": parameter.detach().reshape(-1)[start:stop]}
        parts |= {moment: shard.of(optimizer.state[shard.flat][moment]) for moment in MOMENTS}
        if parameter.dtype != torch.float32:
            parts["master"] = shard.of(shard.flat.detach())
        for kind, part in parts.items():
            found.append((place(kind, tensor.name, part, flat=shard.range), part))
    return found


def _written_here(
    tensors: Sequence[GlobalTensor], coordinates: tuple[int, int, int]
) -> Iterator[tuple[GlobalTensor, torch.nn.Parameter]]:
    for tensor in tensors:
        if not tensor.tied_copy and not (tensor.replicated and coordinates[2] > 0):
            yield tensor, tensor.parameter


def weights_alone(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint was made without moments, before any update.

    One of the two kinds missing, or both after an update, is damage and no such checkpoint.
    """
    none = not set(MOMENTS) & set(checkpoint.kinds())
    return none and int(checkpoint.state.get("updates", -1)) == 0


def load(
    checkpoint: Checkpoint,
    tensors: Sequence[GlobalTensor],
    optimizer: torch.optim.Optimizer,
    *,
    updates: int,
) -> None:
    """Read this rank's weights and optimizer state, whatever layout wrote them.

    Of a checkpoint of weights alone, which a run may begin with, the moments stay zero.

    Args:
        checkpoint: where from.
        tensors: the global tensors of this rank's stage; their parameters are overwritten.
        optimizer: the optimizer inside DeepSpeed's.
        updates: Adam's step count.

    Raises:
        CheckpointError: something is missing, damaged or of another shape.
    """
    create_moments(optimizer, updates)
    moments = () if weights_alone(checkpoint) else MOMENTS
    master = "master" if "master" in checkpoint.kinds() else "weight"
    for tensor in tensors:
        with torch.no_grad():
            # From the master where there is one: a checkpoint made in fp16 goes on in any dtype.
            weight = checkpoint.tensor(master, tensor.name, slice=tensor.slice)
            tensor.parameter.copy_(weight)
            shard = shard_of(tensor.parameter, optimizer)
            if shard is None:
                continue
            start, stop = shard.range
            shard.of(shard.flat).copy_(weight.reshape(-1)[start:stop])
            for moment in moments:
                part = checkpoint.flat(moment, tensor.name, tensor.slice, shard.range)
                shard.of(optimizer.state[shard.flat][moment]).copy_(part)


def random_fragments(rank: int) -> Fragments:
    """Torch's random state of this rank: of the CPU, and of its GPU where there is one."""
    states = {f"rank-{rank:05d}": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"rank-{rank:05d}.cuda"] = torch.cuda.get_rng_state()
    return [(Fragment.of("rng", name, state), state) for name, state in states.items()]


def load_random(checkpoint: Checkpoint, rank: int, seed: int) -> None:
    """Bring back this rank's random state, or seed it anew where the checkpoint has none for it.

    Nothing in this architecture draws random numbers after initialisation, so a run on another
    number of ranks goes on alike.
    """
    known = checkpoint.names("rng")
    name = f"rank-{rank:05d}"
    if name not in known:
        torch.manual_seed(seed + checkpoint.step + rank)
        return
    torch.set_rng_state(checkpoint.tensor("rng", name))
    if torch.cuda.is_available() and f"{name}.cuda" in known:
        torch.cuda.set_rng_state(checkpoint.tensor("rng", f"{name}.cuda"))


def scaler_state(scaler: Any) -> dict[str, float] | None:
    """The dynamic loss scale's state; None where the precision has none."""
    if scaler is None or not getattr(scaler, "dynamic", False):
        return None
    names = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
    return {name: getattr(scaler, name) for name in names}


def load_scaler(scaler: Any, state: Mapping[str, float] | None) -> None:
    """Bring the dynamic loss scale back, where both the run and the checkpoint have one."""
    if scaler is None or state is None or not getattr(scaler, "dynamic", False):
        return
    for name, value in state.items():
        setattr(scaler, name, value)
