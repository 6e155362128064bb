"""One segment of a pretraining run, put together: this module knows every part of the room."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping
from time import monotonic_ns
from typing import Any, TypeVar

import torch
import torch.distributed

from alpenglow.config import to_tables
from alpenglow.data.catalogue import Catalogue
from alpenglow.model.config import FLOPS_FORMULA
from alpenglow.parallel.layout import Layout
from alpenglow.train.batch_history import BatchHistory
from alpenglow.train.batches import Batches, ValidationBatches
from alpenglow.train.checkpoint import DistributedGroup, Group
from alpenglow.train.deadline import Deadline
from alpenglow.train.engine import Engine, resolve_dtype, start
from alpenglow.train.failure import TrainingError, lost_peer
from alpenglow.train.guard import Guard, open_skips
from alpenglow.train.instruction_hooks import add_hook
from alpenglow.train.local_storage import local_file
from alpenglow.train.measurement import Measurement
from alpenglow.train.output import keep, say
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.restart import resume
from alpenglow.train.run_directory import RunDirectory, code_version, software, utc_now
from alpenglow.train.stop import StopRequest
from alpenglow.train.tracing import Tracing
from alpenglow.train.trainer import Segment, Trainer
from alpenglow.train.validation import evaluate
from alpenglow.train.watchdog import NotingGroup, Watchdog
from alpenglow.train.whereabouts import Activity, Board, WatchedRecorder, Whereabouts
from alpenglow_lsf.machine import Machine
from alpenglow_lsf.ranks import Ranks
from alpenglow_profiling.cuda import CudaClock
from alpenglow_profiling.events import Kind, Recorder, merge

# Bytes a parameter of weights and optimizer state in a checkpoint (fp16 weight, three fp32), and
# the rates of a node to its memory and to the file system, for the first estimate of a save and its
# drain; later ones are measured.
STATE_BYTES = 14
SAVE_BYTES_PER_S = 5e9
DRAIN_BYTES_PER_S = 5e8

LOG = logging.getLogger(__name__)
T = TypeVar("T")


def pretrain(
    recipe: PretrainRecipe,
    layout: Layout,
    ranks: Ranks,
    machine: Machine | None,
    run: RunDirectory,
    started: float,
) -> int:
    """Train until the recipe is complete (0) or the segment has to end (85).

    Args:
        recipe: what to train.
        layout: on which ranks.
        ranks: which of them this is.
        machine: where; None where nobody said.
        run: the run directory.
        started: unix seconds at which this process began.
    """
    device = start(ranks, timeout_s=recipe.train.collective_timeout_s)
    group = DistributedGroup(ranks.host)
    # Without a scheduler ranks number the segment themselves, and may have looked at different
    # moments.
    run = dataclasses.replace(run, segment=group.all_gather_object(run.segment)[0])
    stop = _stop_request(recipe, ranks, run, group)
    stop.install()
    watchdog = _watchdog(recipe, ranks, run, group)
    group = NotingGroup(ranks.host, watchdog.whereabouts)
    try:
        return _segment(recipe, layout, ranks, machine, run, started, device, group, stop, watchdog)
    except RuntimeError as error:
        missing = watchdog.gone() if lost_peer(error) else None
        if missing is not None:
            error.add_note(missing)
        raise


def _segment(
    recipe: PretrainRecipe,
    layout: Layout,
    ranks: Ranks,
    machine: Machine | None,
    run: RunDirectory,
    started: float,
    device: torch.device,
    group: DistributedGroup,
    stop: StopRequest,
    watchdog: Watchdog,
) -> int:
    catalogue, batches, held_out = together(group, lambda: _open_data(recipe, layout, ranks.rank))
    local = together(group, lambda: local_file(recipe.checkpoint, machine, run.path, ranks.rank))
    tables = _tables(recipe, layout, ranks, machine, run, group, catalogue, device)
    together(group, lambda: run.describe(tables) if ranks.rank == 0 else None)
    together(group, lambda: keep(run.logs / f"{ranks.host}.txt"))
    measurement = Measurement.begin(recipe.measure, ranks, run, group)
    log = Recorder(
        run.events,
        ranks.rank,
        ranks.host,
        world_size=ranks.world_size,
        sample_every=recipe.measure.spans_every,
        device=CudaClock() if device.type == "cuda" else None,
    )
    where = watchdog.whereabouts
    recorder = WatchedRecorder(log, where)
    if ranks.rank == 0:
        say(header(recipe, layout, tables))

    engine = Engine.build(recipe, layout, recorder, device)
    restart = monotonic_ns()
    begun = restart - round((time.time() - started) * 1e9)
    skips = open_skips(recipe.guard, run.path, group)
    with where.at(Activity.RESUME):
        position = resume(
            engine, recipe, run.checkpoints, group, say, skips.refusal, tables["data"]
        )
    if position.batches is None:
        # A run that lost all of its checkpoints is still as long as it was meant to be.
        begun_with = group.all_gather_object(run.first_batch() if group.rank == 0 else None)[0]
        position.batches = BatchHistory(begun_with or recipe.batch.global_batch_size)
    guard = Guard(
        engine,
        recipe.guard,
        run.path,
        run.segment,
        group,
        tuple(group.all_gather_object(ranks.host)),
        where,
        say if ranks.rank == 0 else _say_nothing,
        until_step=position.step,
    )
    add_hook(engine.inner, where)  # last, so that it stands outside of the guard's
    ready = monotonic_ns()
    recorder.record(Kind.STARTUP, begun, restart)
    if position.step:
        recorder.record(Kind.RESTART, restart, ready)
        if ranks.rank == 0:
            say(f"resumed from step {position.step}, {(ready - restart) / 1e9:.1f} s")

    peak = tables["machine"].get("peak_flops_per_rank")
    segment = Segment(
        started,
        position.step,
        local=local,
        mean_time_s=None if machine is None else machine.mean_time_s(ranks.world_size),
        startup_s=(ready - begun) / 1e9,
        peak_flops=None if peak is None else peak * ranks.world_size,
    )
    trainer = Trainer(
        guard,
        recipe,
        batches.step,
        position,
        run,
        group,
        recorder,
        stop,
        segment,
        about={key: tables[key] for key in ("run", "recipe", "data", "model")},
    )
    if held_out is not None:
        trainer.validate = lambda: evaluate(engine, held_out.read(), held_out.micro_batches)
    tracing = Tracing(recipe.measure, run, group, stop, trainer.console.say)
    trainer.traced = tracing.step
    code = trainer.train()
    watchdog.close()
    trained = monotonic_ns()
    tracing.close()
    measurement.end()
    batches.close()
    recorder.close()
    hosts = group.all_gather_object(ranks.host)  # no log of a node grows once all ranks are here
    torch.distributed.destroy_process_group()
    if ranks.local_rank == 0:
        _merge_events(run, [rank for rank, host in enumerate(hosts) if host == ranks.host])
    measurement.keep()
    trainer.left((monotonic_ns() - trained) / 1e9)
    return code


def _watchdog(
    recipe: PretrainRecipe, ranks: Ranks, run: RunDirectory, group: DistributedGroup
) -> Watchdog:
    """Share the places of this node's ranks and watch this one; collective."""
    board: Board | None = None
    name = f"alpenglow-{os.getuid()}-{ranks.master_port}-{run.segment}-{ranks.host}"
    try:
        board, file = Board.shared(name, ranks.host, ranks.local_size)
    except OSError as error:
        LOG.warning("the watchdog knows no other rank of this node: %s", error)
    where = Whereabouts(ranks.rank, board, ranks.local_rank if board else 0)
    group.barrier()  # every rank has mapped it
    if board is not None:
        file.unlink(missing_ok=True)
    return Watchdog(
        where,
        run.path / "whereabouts" / run.segment,
        ranks.world_size,
        hang_s=recipe.guard.hang_s,
        patience_s=recipe.train.collective_timeout_s,
    )


def _merge_events(run: RunDirectory, ranks: list[int]) -> None:
    """Make this node's event file from its ranks' logs; what fails is left to the next reader."""
    try:
        merge(run.events, ranks=ranks, remove_logs=True)
    except OSError as error:
        LOG.warning("events of this node stay in its logs: %s", error)


def together(group: Group, act: Callable[[], T]) -> T:
    """Run `act` on every rank; where it failed on any, all ranks raise the first failure.

    Raises:
        TrainingError: with the sentence of the first rank that failed.
    """
    result: T | None = None
    failure: str | None = None
    try:
        result = act()
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        failure = " ".join(str(error).split())
    failures = [(rank, text) for rank, text in enumerate(group.all_gather_object(failure)) if text]
    if failures:
        rank, text = failures[0]
        same = all(other == text for _, other in failures) and len(failures) == group.world_size
        raise TrainingError(text if same or rank == 0 else f"rank {rank}: {text}")
    return result  # type: ignore[return-value]


def _open_data(
    recipe: PretrainRecipe, layout: Layout, rank: int
) -> tuple[Catalogue, Batches, ValidationBatches | None]:
    catalogue = Catalogue.load(recipe.data.catalogue, look=rank == 0)
    return (
        catalogue,
        Batches.open(recipe, layout, rank, catalogue),
        ValidationBatches.open(recipe, layout, rank, catalogue),
    )


def _stop_request(
    recipe: PretrainRecipe, ranks: Ranks, run: RunDirectory, group: Group
) -> StopRequest:
    """Say when to stop: saves as earlier segments measured them, or guessed in the first."""
    own = run.measured() if ranks.rank == 0 else None
    measured = group.all_gather_object(own)[0]
    state = _state_of_a_node(recipe, group)
    guess = (state / SAVE_BYTES_PER_S, state / DRAIN_BYTES_PER_S, 0.0)
    save_s, drain_s, leave_s = guess if measured is None else measured
    return StopRequest(
        Deadline(ranks.deadline, tell=say if ranks.local_rank == 0 else _say_nothing),
        save_s,
        drain_s=drain_s,
        leave_s=leave_s,
        measured=measured is not None,
        file=run.stop if ranks.rank == 0 else None,
    )


def _state_of_a_node(recipe: PretrainRecipe, group: Group) -> float:
    """Bytes of a node's share of a checkpoint."""
    nodes = len(set(group.all_gather_object(group.node)))
    return recipe.model.parameters() * STATE_BYTES / nodes


def _tables(
    recipe: PretrainRecipe,
    layout: Layout,
    ranks: Ranks,
    machine: Machine | None,
    run: RunDirectory,
    group: Group,
    catalogue: Catalogue,
    device: torch.device,
) -> dict[str, Any]:
    """The tables of run.toml."""
    nodes = len(set(group.all_gather_object(ranks.host)))
    dtype = resolve_dtype(recipe.precision.dtype, device)
    peak = None if machine is None else machine.peak(dtype)
    return {
        "run": {
            "name": run.path.name,
            "activity": "pretrain",
            "created": utc_now(),
            "code_version": code_version() if ranks.rank == 0 else "",
        },
        "software": software(),
        "machine": {
            "name": "unnamed" if machine is None else machine.name,
            "nodes": nodes,
            "ranks": ranks.world_size,
            "ranks_per_node": ranks.local_size,
            "gpus_per_node": _gpus_per_node(machine, device),
            **({} if peak is None else {"peak_flops_per_rank": peak}),
        },
        "layout": dataclasses.asdict(layout),
        "batch": {
            "micro_batch_size": recipe.batch.micro_batch_size,
            "micro_batches": recipe.micro_batches(layout),
            "sequence_length": recipe.batch.sequence_length,
            "tokens_per_step": recipe.batch.tokens_per_step,
        },
        "data": {
            "catalogue": str(recipe.data.catalogue),
            "fingerprint": catalogue.fingerprint,
            "content": catalogue.content,
            "removals": catalogue.removals,
            "tokenizer": str(catalogue.tokenizer_path),
            "tokenizer_hash": catalogue.tokenizer_hash,
        },
        "model": {
            "parameters": recipe.model.parameters(),
            "flops_per_token": recipe.model.flops_per_token(recipe.batch.sequence_length),
            "flops_formula": FLOPS_FORMULA,
            "dtype": dtype,
        },
        "recipe": to_tables(recipe),
    }


def _gpus_per_node(machine: Machine | None, device: torch.device) -> int:
    """GPUs that a node of this run has; a rank may see only those of its resource set."""
    if device.type != "cuda":
        return 0
    return torch.cuda.device_count() if machine is None else machine.compute.gpus


def header(recipe: PretrainRecipe, layout: Layout, tables: Mapping[str, Any]) -> str:
    """A few lines that say what runs where."""
    model, batch, machine = recipe.model, recipe.batch, tables["machine"]
    peak = machine.get("peak_flops_per_rank")
    rate = f", {peak / 1e12:.3g} TFLOP/s a rank" if peak else ""
    residual = "parallel" if model.use_parallel_residual else "serial"
    return (
        f"model    GPT-NeoX, {model.num_layers} layers x {model.hidden_size} x "
        f"{model.num_attention_heads} heads, vocabulary {model.vocab_size}, {residual} residual, "
        f"{model.parameters():,} parameters, {tables['model']['dtype']}\n"
        f"layout   pipeline {layout.pipeline} x tensor {layout.tensor} x data {layout.data} = "
        f"{layout.world} ranks, {layout.order}, "
        f"{' + '.join(map(str, layout.layers_of(model.num_layers)))} layers\n"
        f"batch    {batch.global_batch_size} sequences of {batch.sequence_length} = "
        f"{batch.tokens_per_step:,} tokens a step, {recipe.micro_batches(layout)} micro-batches "
        f"of {batch.micro_batch_size} a replica\n"
        f"data     {recipe.data.catalogue} (fingerprint {tables['data']['fingerprint'][:12]})\n"
        f"machine  {machine['name']}: {machine['nodes']} nodes x {machine['ranks_per_node']} ranks"
        f"{rate}\n"
    )


def _say_nothing(text: str) -> None:
    del text
