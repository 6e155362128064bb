"""A tiny training run on forked gloo ranks: the worker behind the tests of alpenglow.train.

Everything is the real thing (engine, trainer, checkpoints, recorder) but the tokens, which are
drawn from a seed per step, unless the recipe names a catalogue by its absolute path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distributed_ranks import run_ranks

from alpenglow.model.config import ModelConfig
from alpenglow.parallel.layout import Layout
from alpenglow.train.recipe import (
    BatchRecipe,
    DataRecipe,
    OptimizerRecipe,
    ParallelRecipe,
    PrecisionRecipe,
    PretrainRecipe,
    TrainRecipe,
)

STEPS = 6


def tiny_recipe(pipeline: int = 1, tensor: int = 1, **changes: dict[str, Any]) -> PretrainRecipe:
    """A recipe of 6 steps that trains in a second; `changes` go by table name."""
    recipe = PretrainRecipe(
        model=ModelConfig(
            num_layers=max(2, pipeline),
            hidden_size=32,
            num_attention_heads=4,
            vocab_size=128,
            max_position_embeddings=32,
        ),
        batch=BatchRecipe(global_batch_size=16, micro_batch_size=4, sequence_length=16),
        optimizer=OptimizerRecipe(lr=3e-3, min_lr=3e-4, warmup_steps=2),
        data=DataRecipe({"github": 1.0}),
        train=TrainRecipe(steps=STEPS, checkpoint_every=100, seed=7),
        parallel=ParallelRecipe(pipeline, tensor),
        precision=PrecisionRecipe(dtype="fp32"),
    )
    tables = {name: getattr(recipe, name) for name in changes}
    return dataclasses.replace(
        recipe, **{n: dataclasses.replace(t, **changes[n]) for n, t in tables.items()}
    )


def train(
    recipe: PretrainRecipe,
    world: int,
    run: Path,
    *,
    stop_after: int | None = None,
    local: Path | None = None,
    mean_time_s: float | None = None,
    largest_file: dict[int, int] | None = None,
    disturb: Callable[..., None] | None = None,
) -> list[dict[str, Any]]:
    """Run one segment on `world` ranks in `run`; returns what each rank says.

    Args:
        recipe: what to train.
        world: number of ranks.
        run: run directory; what an earlier call left there is gone on from.
        stop_after: a signal arrives on the last rank during this step (1-based).
        local: folder that stands for the node-local storage.
        mean_time_s: mean time between failures, seconds.
        largest_file: step (1-based) -> bytes that a file of the last rank may have from then on
            (RLIMIT_FSIZE); -1 lifts the limit.
        disturb: called on each rank as `disturb(rank, engine)` before the first step.
    """
    more = (stop_after, local, mean_time_s, largest_file or {}, disturb)
    return run_ranks(worker, world, recipe, str(run), *more, timeout=100)


def worker(
    rank: int,
    size: int,
    recipe: PretrainRecipe,
    run_path: str,
    stop_after: int | None,
    local: Path | None,
    mean_time_s: float | None,
    largest_file: dict[int, int],
    disturb: Callable[..., None] | None,
) -> dict[str, Any]:
    """One rank of `train`."""
    from alpenglow.data.catalogue import Catalogue
    from alpenglow.train.batches import Batches, ValidationBatches
    from alpenglow.train.checkpoint import CheckpointError, DistributedGroup
    from alpenglow.train.deadline import Deadline
    from alpenglow.train.engine import Engine, start
    from alpenglow.train.guard import Guard, open_skips
    from alpenglow.train.restart import Position, resume
    from alpenglow.train.run_directory import RunDirectory
    from alpenglow.train.stop import StopRequest
    from alpenglow.train.trainer import Segment, Trainer
    from alpenglow.train.validation import evaluate
    from alpenglow.train.whereabouts import WatchedRecorder, Whereabouts
    from alpenglow_lsf.ranks import Ranks
    from alpenglow_profiling.events import Recorder

    ranks = Ranks(rank, rank, size, size, "node00", "127.0.0.1", 29500)
    device = start(ranks, timeout_s=60)
    if recipe.precision.dtype == "fp16":
        # torch computes fp16 on any CPU, slowly; DeepSpeed wants the CPU to have units for it.
        from deepspeed.accelerator import get_accelerator

        get_accelerator().is_fp16_supported = lambda: True
    layout = recipe.layout(size)
    path = Path(run_path)
    run = RunDirectory(path, f"test.{len(list(path.glob('events/*')))}")
    group = DistributedGroup("node00")
    run = dataclasses.replace(run, segment=group.all_gather_object(run.segment)[0])
    where = Whereabouts(rank)
    recorder = WatchedRecorder(Recorder(run.events, rank, "node00", world_size=size), where)
    engine = Engine.build(recipe, layout, recorder, device)
    messages: list[str] = []
    refusal = open_skips(recipe.guard, path, group).refusal
    position = resume(engine, recipe, run.checkpoints, group, messages.append, refusal)
    resumed = position.step
    hosts = ("node00",) * size
    guard = Guard(
        engine, recipe.guard, path, run.segment, group, hosts, where, messages.append,
        until_step=resumed,
    )  # fmt: skip
    if disturb is not None:
        disturb(rank, engine)
    stop = StopRequest(Deadline(None), 0.0)
    stop.install()
    drawn = token_batches(recipe, layout, rank)
    batches = held_out = None
    if recipe.data.catalogue.is_absolute():
        catalogue = Catalogue.load(recipe.data.catalogue, look=False)
        batches = Batches.open(recipe, layout, rank, catalogue)
        held_out = ValidationBatches.open(recipe, layout, rank, catalogue)

    def micro_batches(position: Position) -> Iterator[Any]:
        step = position.step
        if stop_after == step + 1 and rank == size - 1:
            signal.raise_signal(signal.SIGTERM)
        if step + 1 in largest_file and rank == size - 1:
            trainer.saving.saver._drain.wait(60)  # whose end the limit would change
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file[step + 1], -1))
        return drawn(step) if batches is None else batches.step(position)

    file = None if local is None else local / f"rank-{rank}.section"
    segment = Segment(time.time(), position.step, local=file, mean_time_s=mean_time_s)
    trainer = Trainer(
        guard, recipe, micro_batches, position, run, group, recorder, stop, segment, {}
    )
    if held_out is not None:
        trainer.validate = lambda: evaluate(engine, held_out.read(), held_out.micro_batches)
    said = io.StringIO()
    failure = None
    try:
        with contextlib.redirect_stdout(said):
            code = trainer.train()
    except CheckpointError as error:
        code, failure = 1, str(error)
    recorder.close()
    return {
        "code": code,
        "resumed": resumed,
        "step": position.step,
        "updates": position.updates,
        "messages": messages,
        "counts": dict(guard.counts),
        "said": said.getvalue().splitlines(),
        "failure": failure,
        "segment": run.segment,
    }


def token_batches(
    recipe: PretrainRecipe, layout: Layout, rank: int
) -> Callable[[int], Iterator[Any]]:
    """This rank's micro-batches of a step (0-based), the same tokens in every layout."""
    import torch

    count = recipe.micro_batches(layout)

    def micro_batches(step: int) -> Iterator[Any]:
        batch, length = recipe.batch.global_batch_size, recipe.batch.sequence_length
        generator = torch.Generator().manual_seed(1000 + step)
        tokens = torch.randint(recipe.model.vocab_size, (batch, length + 1), generator=generator)
        tokens[:, 1::2] = tokens[:, 0:-1:2]  # something to learn: every second token repeats
        data_rank = layout.coordinates(rank)[1]
        parts = tokens.view(layout.data * count, -1, length + 1)
        mine = parts[data_rank * count : (data_rank + 1) * count]
        return iter([(part[:, :-1], part[:, 1:]) for part in mine])

    return micro_batches


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    """The loss of every step."""
    return [line["loss"] for line in metrics(run)]


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Every tensor of two checkpoints is equal bit for bit, whatever fragments they lie in."""
    import torch

    from alpenglow.train.checkpoint import Checkpoint

    first, second = Checkpoint.open(one), Checkpoint.open(other)
    kinds = [kind for kind in first.kinds() if kind != "rng"]
    assert kinds == [kind for kind in second.kinds() if kind != "rng"]
    for kind in kinds:
        assert sorted(first.names(kind)) == sorted(second.names(kind))
        for name in first.names(kind):
            assert torch.equal(first.tensor(kind, name), second.tensor(kind, name)), (kind, name)
