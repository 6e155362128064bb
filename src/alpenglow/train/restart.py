"""Going on from a checkpoint, and making the next one.

The newest whole checkpoint counts; a damaged one is named and passed over, also when the damage
shows only as a rank reads its part. What was saved names global tensors, so the layout may be
another one than before. The state beside the tensors is a few numbers: steps done, samples consumed
(the position in the data), updates applied (a step whose gradients overflowed spends its samples
but is no update), the global batches so far and the loss scale. A run may begin with weights of
another program: a checkpoint of step 0 without moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow.train.architecture import first_difference
from alpenglow.train.batch_history import BatchHistory
from alpenglow.train.checkpoint import Checkpoint, CheckpointError, Group
from alpenglow.train.engine import Engine
from alpenglow.train.failure import TrainingError
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.training_state import (
    Fragments,
    fragments,
    load,
    load_random,
    load_scaler,
    random_fragments,
    scaler_state,
    weights_alone,
)

NOTHING = 0
"""The step of a run that has no checkpoint."""


@dataclass
class Position:
    """How far training is."""

    step: int = 0
    """Steps done."""
    updates: int = 0
    """Steps that changed the weights: Adam's count."""
    samples: int = 0
    """Samples consumed: where the stream goes on."""
    applied: int = 0
    """Samples of the steps that changed the weights: the place in the learning-rate schedule."""
    batches: BatchHistory | None = None
    """The global batches so far; None before the first step of a run."""
    began_with: Mapping[str, Any] | None = None
    """What an import said of the weights that the run began with; None for random ones."""

    def advance(self, samples: int, *, applied: bool) -> None:
        """Count a step.

        Args:
            samples: its global batch.
            applied: whether it changed the weights.
        """
        self.step += 1
        self.samples += samples
        self.updates += applied
        self.applied += samples * applied

    def go_on(self, global_batch_size: int) -> BatchHistory:
        """Note the global batch of the steps that follow."""
        history = self.batches or BatchHistory(global_batch_size)
        self.batches = history.then(self.step, self.samples, global_batch_size)
        return self.batches

    def total_steps(self, recipe: PretrainRecipe) -> int:
        """Steps of the whole run, at the recipe's global batch from here on."""
        batch = recipe.batch.global_batch_size
        samples = recipe.samples_of(batch if self.batches is None else self.batches.first)
        return self.step + max(0, -(-(samples - self.samples) // batch))

    @property
    def skipped(self) -> int:
        """Steps whose gradients were not finite."""
        return self.step - self.updates


def resume(
    engine: Engine,
    recipe: PretrainRecipe,
    checkpoints: Path,
    group: Group,
    log: Callable[[str], None],
    refusal: Callable[[Mapping[str, Any]], str | None] = lambda state: None,
    data: Mapping[str, Any] | None = None,
) -> Position:
    """Load the newest checkpoint that every rank can read; collective.

    Args:
        engine: fresh from `Engine.build`; its weights and optimizer state are overwritten.
        recipe: for the seed of ranks that the checkpoint does not know.
        checkpoints: the run's folder of checkpoints.
        group: all ranks.
        log: told, on rank 0, which checkpoint is passed over and why.
        refusal: given a checkpoint's state, why it is not to be gone on from; None where it is.
        data: the run's table of that name; None asks no checkpoint what it was trained on.

    Raises:
        TrainingError: on every rank alike: the checkpoint is of another architecture, catalogue or
            tokenizer.
    """
    below: int | None = None
    while (checkpoint := Checkpoint.newest(checkpoints, log, group=group, below=below)) is not None:
        difference = first_difference(
            {name: checkpoint.shape("weight", name) for name in checkpoint.names("weight")},
            recipe.model,
            checkpoint.state.get("recipe", {}).get("model"),
        )
        if difference is not None:  # not damage: an older one would be no better
            raise TrainingError(
                f"{checkpoint.directory}: a checkpoint of another architecture: {difference}"
            )
        other = _other_data(checkpoint.state.get("data", {}), data or {})
        if other is not None:
            raise TrainingError(f"{checkpoint.directory}: a checkpoint of another {other}")
        error: str | None = refusal(checkpoint.state)
        updates = int(checkpoint.state["updates"])
        try:
            if error is not None:
                raise CheckpointError(error)
            load(checkpoint, engine.tensors, engine.optimizer, updates=updates)
            load_random(checkpoint, group.rank, recipe.train.seed)
        except CheckpointError as failure:
            error = str(failure)
        errors = [text for text in group.all_gather_object(error) if text is not None]
        if not errors:
            load_scaler(engine.scaler, checkpoint.state.get("loss_scale"))
            if group.rank == 0 and weights_alone(checkpoint):
                log(_begins_with(checkpoint))
            return _position(checkpoint.step, checkpoint.state)
        if group.rank == 0:
            log(f"checkpoint {checkpoint.directory.name} is passed over: {errors[0]}")
        below = checkpoint.step
    return Position()


def _begins_with(checkpoint: Checkpoint) -> str:
    made = checkpoint.state.get("imported", {})
    origin = f" (imported from {made['from']} {made['path']})" if "path" in made else ""
    return (
        f"checkpoint {checkpoint.directory.name} holds weights alone{origin}: the optimizer's "
        "moments, the learning-rate schedule and the data begin anew"
    )


def _other_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say on which other tokenizer or catalogue a checkpoint's run was; None where both agree."""
    for key, what in (("tokenizer_hash", "tokenizer"), ("fingerprint", "catalogue")):
        if key in then and key in now and then[key] != now[key]:
            return f"{what}: its is {str(then[key])[:12]}, this run's is {str(now[key])[:12]}"
    return None


def _position(step: int, state: Mapping[str, Any]) -> Position:
    updates, samples = int(state["updates"]), int(state["samples"])
    # A checkpoint of before batches could change does not say what one batch makes plain.
    applied = state.get("applied", updates * samples // max(1, step))
    began_with = state.get("began_with") or state.get("imported")
    history = BatchHistory.of_state(state)
    return Position(step, updates, samples, int(applied), history, began_with)


def rank_fragments(engine: Engine, rank: int) -> Fragments:
    """All that this rank saves; the same fragments in the same order at every save."""
    own = fragments(engine.tensors, engine.optimizer, engine.coordinates)
    return own + random_fragments(rank)


def position_state(
    engine: Engine, recipe: PretrainRecipe, position: Position, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The numbers of a checkpoint beside its tensors.

    Args:
        engine: between two steps.
        recipe: what is trained.
        position: where training is.
        about: what the run is, for those who read a checkpoint alone (model, data, layout).
    """
    return {
        **about,
        "step": position.step,
        "updates": position.updates,
        "samples": position.samples,
        "applied": position.applied,
        "tokens": position.samples * recipe.batch.sequence_length,
        "batches": None if position.batches is None else position.batches.tables(),
        "dtype": engine.dtype,
        **({} if position.began_with is None else {"began_with": dict(position.began_with)}),
        "loss_scale": scaler_state(engine.scaler),
        "layout": {
            "pipeline": engine.layout.pipeline,
            "tensor": engine.layout.tensor,
            "data": engine.layout.data,
        },
    }
