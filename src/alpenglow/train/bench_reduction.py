"""The reduction over the replicas: DeepSpeed's after the last backward, ours within it.

    python -m alpenglow.train.bench_reduction [--ranks 2] [--layers 8] [--hidden 512]
    python -m alpenglow.train.bench_reduction --device-ms 40

Ranks are data-parallel replicas on this computer, with the real engine and ZeRO-1. One engine takes
its steps in turns with the one reduction and the other, so both see the same machine. `exposed` is
how long the instruction ReduceGrads takes; what ours has hidden in the backward is not in it. Where
ranks compute on the cores that also sum, hiding saves little but the bytes; with `--device-ms` each
layer's backward also waits that long with idle cores, as beside a GPU. Medians over rounds of the
slowest rank; the norms of both are compared at every round.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from alpenglow.model.config import ModelConfig
from alpenglow.model.layers import TransformerLayer
from alpenglow.train.engine import Engine, start
from alpenglow.train.recipe import (
    BatchRecipe,
    DataRecipe,
    OptimizerRecipe,
    PrecisionRecipe,
    PretrainRecipe,
    TrainRecipe,
)
from alpenglow_lsf.ranks import Ranks
from alpenglow_profiling.events import Kind, NullRecorder
from alpenglow_profiling.span_recorder import OpenSpan

METHODS = ("deepspeed", "overlapped")


class Exposed(NullRecorder):
    """Adds up the time of one kind of span."""

    seconds = 0.0

    def span(self, kind: Kind, *_: Any, **__: Any) -> AbstractContextManager[OpenSpan]:
        """Measure where the kind is the reduction."""
        return self._measured() if kind is Kind.GRADIENT_REDUCE else super().span(kind)

    @contextmanager
    def _measured(self) -> Any:
        begin = time.perf_counter()
        yield super().span(Kind.GRADIENT_REDUCE)
        self.seconds += time.perf_counter() - begin


def recipe(options: argparse.Namespace) -> PretrainRecipe:
    """What each replica trains on."""
    return PretrainRecipe(
        model=ModelConfig(
            num_layers=options.layers,
            hidden_size=options.hidden,
            num_attention_heads=8,
            vocab_size=1024,
            max_position_embeddings=128,
        ),
        batch=BatchRecipe(2 * options.ranks, micro_batch_size=1, sequence_length=128),
        optimizer=OptimizerRecipe(lr=1e-3),
        data=DataRecipe({"none": 1.0}),
        train=TrainRecipe(steps=1),
        precision=PrecisionRecipe(dtype="fp32"),
    )


def rank_main(rank: int, options: argparse.Namespace, store: str, rows: SimpleQueue[Any]) -> None:
    """One replica; rank 0 gives the rows (exposed s, step s) of each method and round."""
    size = options.ranks
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    torch.distributed.init_process_group(
        "gloo",
        store=torch.distributed.FileStore(store, size),  # type: ignore[attr-defined]
        rank=rank,
        world_size=size,
    )
    device = start(Ranks(rank, rank, size, size, "node00", "127.0.0.1", 29500), timeout_s=600)
    chosen, recorder = recipe(options), Exposed()
    engine = Engine.build(chosen, chosen.layout(size), recorder, device)
    ours = engine.inner.reduction
    if options.device_ms:
        for layer in engine.inner.module.modules():
            if isinstance(layer, TransformerLayer):
                layer.register_full_backward_hook(lambda *_: time.sleep(options.device_ms / 1e3))
    generator = torch.Generator().manual_seed(rank)
    tokens = torch.randint(1024, (1, 129), generator=generator)
    batch = [(tokens[:, :-1], tokens[:, 1:])] * chosen.micro_batches(chosen.layout(size))
    taken: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    norms: dict[str, float | None] = {}
    for turn in range(options.rounds + 1):
        for method in METHODS:
            engine.inner.reduction = ours if method == "overlapped" else None
            torch.distributed.barrier()
            recorder.seconds, begin = 0.0, time.perf_counter()
            # A learning rate of zero: both methods meet the same gradients in every round.
            norms[method] = engine.step(iter(batch), 0.0).grad_norm
            mine = torch.tensor([recorder.seconds, time.perf_counter() - begin])
            torch.distributed.all_reduce(mine, op=torch.distributed.ReduceOp.MAX)
            if turn:  # the first round allocates
                taken[method].append((float(mine[0]), float(mine[1])))
        stock, here = norms["deepspeed"], norms["overlapped"]
        assert stock is not None and here is not None
        if abs(here - stock) > 1e-5 * stock:
            raise RuntimeError(f"gradient norms differ: {here} of ours, {stock} of DeepSpeed's")
    if rank == 0:
        gradients: list[Tensor] = list(engine.inner.module.parameters())
        rows.put((taken, sum(g.numel() * g.element_size() for g in gradients)))
    torch.distributed.barrier()


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the ranks and print the table."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.train.bench_reduction")
    parser.add_argument("--ranks", type=int, default=2, help="replicas (2)")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--device-ms", type=float, default=0.0, help="idle wait a layer's backward")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    if options.ranks < 2 or options.rounds < 1:
        parser.error("give two ranks or more, and a round or more")
    from torch.multiprocessing.spawn import start_processes

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepspeed.pipe"])
    rows = context.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="reduction-") as folder:
        start_processes(
            rank_main,
            (options, f"{folder}/store", rows),
            nprocs=options.ranks,
            start_method="forkserver",
        )
        taken, nbytes = rows.get()
    share = (options.ranks - 1) / options.ranks * nbytes / 1e6
    print(f"{options.ranks} replicas, {nbytes / 1e6:.0f} MB of gradients each")
    print("| reduction | MB a rank sends | exposed (ms) | step (ms) |\n|---|---|---|---|")
    medians = {}
    for method, factor in zip(METHODS, (2, 1), strict=True):
        exposed, step = (
            1e3 * statistics.median(column) for column in zip(*taken[method], strict=True)
        )
        medians[method] = (exposed, step)
        print(f"| {method} | {factor * share:.0f} | {exposed:.1f} | {step:.1f} |")
    (stock, stock_step), (ours, ours_step) = medians["deepspeed"], medians["overlapped"]
    print(f"exposed, ours / DeepSpeed's: {ours / stock:.2f}; step: {ours_step / stock_step:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
