"""Speed of a training step: our model against `transformers`, in one process, in turns.

    python -m alpenglow.train.bench_step                       # fp32 on this CPU, two shapes
    python -m alpenglow.train.bench_step --compile --engine    # torch.compile; DeepSpeed's engine
    python -m alpenglow.train.bench_step --device cuda --dtype bf16 --shape 1.4b --shape 2.8b \
        --batch 4 --peak-tflops 989

A step is forward, loss, backward and AdamW (torch's fused one, for all contenders alike) on the
same tokens from the same weights. The peer is `transformers.GPTNeoXForCausalLM` at its fastest fair
settings: `attn_implementation="sdpa"`, no cache, its logits, torch's own cross entropy, and with
--compile compiled as well. Contenders take turns round by round, so that what else the machine does
hits all of them; medians, and the median of the ratios round by round, are printed. Losses must
agree at the end, or the exit code is 1. MFU is FLOPS_FORMULA x tokens/s over the peak.

`loss` is the peak memory that head and loss together add, gradients included: from torch's profiler
on a CPU, from the allocator on CUDA.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import io
import itertools
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import truediv
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from alpenglow.model.config import FLOPS_FORMULA, ModelConfig
from alpenglow.model.stages import LocalModel, LossKind, build_local, global_tensors, loss_function
from alpenglow.parallel.head_loss import head_input
from alpenglow.train.compiler import compile_layers, require_compiler

LEARNING_RATE = 1e-4
LOSS_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 5e-2}
"""Largest difference of the losses, nats a token, after all rounds of training."""
FP16_SCALE = 2.0**12
"""The first loss scale of the recipes (Pythia's)."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Shape:
    """A model with the batch of a step."""

    config: ModelConfig
    length: int
    batch: int


def _shape(layers: int, hidden: int, heads: int, vocabulary: int, length: int, batch: int) -> Shape:
    return Shape(ModelConfig(layers, hidden, heads, vocabulary), length, batch)


SHAPES = {
    # Pythia's widths with as many layers as a step of seconds allows; the last two in full.
    "tiny": _shape(2, 64, 4, 512, 64, 2),
    "31m": _shape(6, 256, 8, 8192, 1024, 2),
    "70m": _shape(6, 512, 8, 50304, 512, 2),
    "410m-cut": _shape(3, 1024, 16, 8192, 2048, 1),
    "1.4b": _shape(24, 2048, 16, 50304, 2048, 4),
    "2.8b": _shape(32, 2560, 32, 50304, 2048, 2),
}


@dataclass
class Contender:
    """One way to train a step, with what it took so far."""

    name: str
    step: Callable[[], float]
    """Trains once; returns the loss before the update."""
    seconds: list[float] = field(default_factory=list)
    loss: float = float("nan")


def peer_model(shape: Shape, source: LocalModel, device: torch.device, dtype: torch.dtype) -> Any:
    """`transformers`' model with the weights of ours."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    fields = shape.config.huggingface_fields()
    with torch.device(device):
        peer = GPTNeoXForCausalLM(GPTNeoXConfig(**fields, attn_implementation="sdpa"))
    peer = peer.to(dtype)
    theirs = dict(peer.gpt_neox.named_parameters())
    theirs["embed_out.weight"] = peer.get_output_embeddings().weight
    with torch.no_grad():
        for tensor in global_tensors(source, shape.config, source.group):
            theirs[tensor.name].copy_(tensor.parameter)
    return peer


def training_step(model: Any, loss_of: Callable[[], Tensor], dtype: str) -> Callable[[], float]:
    """A function that trains once: forward, loss, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    scale = FP16_SCALE if dtype == "fp16" else 1.0

    def step() -> float:
        loss = loss_of()
        (loss * scale).backward()
        if scale != 1.0:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, 1.0 / scale)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()  # waits for the device

    return step


def contenders(
    shape: Shape, tokens: Tensor, dtype: str, *, compiled: bool, quick: bool
) -> Iterator[Contender]:
    """Build each contender from the same initial weights.

    Args:
        shape: the model.
        tokens: int64 [batch, length + 1] on the device.
        dtype: fp32, bf16 or fp16.
        compiled: also with torch.compile, the peer as well.
        quick: only our defaults and the peer.
    """
    inputs, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    device, number = tokens.device, DTYPES[dtype]

    def ours(attention: Any, loss: LossKind) -> LocalModel:
        built = build_local(shape.config, seed=1, attention=attention, loss=loss)
        return built.to(device=device, dtype=number)

    def entry(name: str, model: LocalModel) -> Contender:
        loss_of = loss_function(shape.config, model.group)
        step = training_step(model, lambda: loss_of(model(inputs), labels), dtype)
        return Contender(name, step)

    source = ours("sdpa", "fused")
    yield entry("alpenglow", source)
    peers = [("transformers", peer_model(shape, source, device, number))]
    if not quick:
        yield entry("alpenglow plain", ours("plain", "plain"))
    if compiled:
        model = ours("sdpa", "fused")
        compile_layers(model)
        yield entry("alpenglow compiled", model)
        peer = peer_model(shape, source, device, number)
        peer.compile(dynamic=False)
        peers.append(("transformers compiled", peer))
    for name, peer in peers:

        def loss_of(peer: Any = peer) -> Tensor:
            logits = peer(inputs, use_cache=False).logits
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

        yield Contender(name, training_step(peer, loss_of, dtype))


@contextlib.contextmanager
def engine_contender(shape: Shape, tokens: Tensor, dtype: str) -> Iterator[Contender]:
    """The same step through DeepSpeed's pipeline engine on one rank, as training runs it."""
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
    from alpenglow_profiling.events import Recorder

    rows, length = tokens.shape[0], tokens.shape[1] - 1
    recipe = PretrainRecipe(
        model=shape.config,
        batch=BatchRecipe(rows, rows, length),
        # torch's defaults, and no clipping, as the others have it.
        optimizer=OptimizerRecipe(
            LEARNING_RATE,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            warmup_steps=0,
            gradient_clipping=0.0,
        ),
        data=DataRecipe({"tokens": 1.0}),
        train=TrainRecipe(steps=1, seed=1),
        precision=PrecisionRecipe(dtype=dtype),  # type: ignore[arg-type]
    )
    ranks = Ranks.from_environment()
    ranks.export(os.environ)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        threads = torch.get_num_threads()
        device = start(ranks, timeout_s=60)
        torch.set_num_threads(threads)
        with Recorder(Path(folder), 0, "bench", world_size=1) as recorder:
            engine = Engine.build(recipe, recipe.layout(1), recorder, device)
            batch = (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
            yield Contender(
                "alpenglow engine", lambda: engine.step(iter([batch]), LEARNING_RATE).loss
            )
        torch.distributed.destroy_process_group()


def run_rounds(entries: Sequence[Contender], rounds: int) -> None:
    """Let the contenders train in turns; a first, untimed round warms up."""
    for number in range(rounds + 1):
        for place in range(len(entries)):
            entry = entries[(place + number) % len(entries)]
            begin = perf_counter()
            entry.loss = entry.step()
            if number:
                entry.seconds.append(perf_counter() - begin)
        gc.collect()


def loss_memory(shape: Shape, kind: LossKind, device: torch.device, dtype: torch.dtype) -> float:
    """Peak bytes that head and loss of a step add, forward and backward, gradients included."""
    from alpenglow.parallel.tensor import TensorGroup

    group, rows = TensorGroup(), shape.batch * shape.length
    make = functools.partial(torch.randn, device=device, dtype=dtype)
    hidden = make(rows, shape.config.hidden_size).requires_grad_()
    weight = torch.nn.Parameter(make(shape.config.vocab_size, shape.config.hidden_size))
    labels = torch.randint(shape.config.vocab_size, (rows,), device=device)
    loss_of = loss_function(shape.config, group)

    def work() -> None:
        fused = kind == "fused"
        product = torch.nn.functional.linear
        outputs: Any = head_input(hidden, weight, group) if fused else product(hidden, weight)
        loss_of(outputs, labels).backward()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return float(torch.cuda.max_memory_allocated(device) - before)
    with torch.profiler.profile(profile_memory=True, record_shapes=False) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    )
    return float(max(itertools.accumulate((change for _, change in changes), initial=0)))


def table(
    name: str, shape: Shape, entries: Sequence[Contender], dtype: str, peak: float | None
) -> str:
    """The results of one shape as text."""
    config, tokens = shape.config, shape.batch * shape.length
    peers = [entry for entry in entries if entry.name.startswith("transformers")]
    columns = "".join(f" / {peer.name:>21}" for peer in peers)
    flops = config.flops_per_token(shape.length)
    lines = [
        f"{name}: {config.num_layers} layers x {config.hidden_size} x "
        f"{config.num_attention_heads} heads, vocabulary {config.vocab_size}, "
        f"{config.parameters() / 1e6:,.1f} M parameters, {shape.batch} x {shape.length} tokens, "
        f"{dtype}",
        f"  {'':22}  ms a step  tokens/s   MFU {columns}   loss",
    ]
    for entry in entries:
        middle = statistics.median(entry.seconds)
        share = "    -" if peak is None else f"{100 * flops * tokens / middle / peak:4.1f}%"
        ratios = "".join(
            f" {statistics.median(map(truediv, peer.seconds, entry.seconds)):23.2f}"
            for peer in peers
        )
        lines.append(
            f"  {entry.name:22} {1e3 * middle:10,.1f} {tokens / middle:9,.0f} {share} {ratios}"
            f"   {entry.loss:.4f}"
        )
    return "\n".join(lines) + "\n"


def measure(name: str, options: argparse.Namespace) -> bool:
    """Measure one shape and print it; whether the losses agree."""
    shape = SHAPES[name]
    if options.batch:
        shape = Shape(shape.config, shape.length, options.batch)
    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(1)
    size = (shape.batch, shape.length + 1)
    tokens = torch.randint(shape.config.vocab_size, size, generator=generator).to(device)
    with contextlib.ExitStack() as stack:
        entries = list(
            contenders(shape, tokens, options.dtype, compiled=options.compile, quick=options.quick)
        )
        if options.engine:
            with contextlib.redirect_stdout(io.StringIO()):
                entries.append(stack.enter_context(engine_contender(shape, tokens, options.dtype)))
        run_rounds(entries, options.rounds)
    sys.stdout.write(table(name, shape, entries, options.dtype, options.peak))
    del tokens
    kinds: tuple[LossKind, ...] = ("plain", "fused")
    held = [loss_memory(shape, kind, device, DTYPES[options.dtype]) / 2**20 for kind in kinds]
    head = shape.config.vocab_size * shape.config.hidden_size * DTYPES[options.dtype].itemsize
    sys.stdout.write(
        f"  head and loss hold at most: plain {held[0]:,.0f} MiB, fused {held[1]:,.0f} MiB "
        f"(the head's gradient, {head / 2**20:,.0f} MiB, included)\n"
    )
    spread = max(entry.loss for entry in entries) - min(entry.loss for entry in entries)
    if not spread <= LOSS_TOLERANCE[options.dtype]:
        sys.stdout.write(f"  LOSSES DIFFER by {spread:.2g}\n")
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table a shape; 0, or 1 where losses differ or something is absent."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow.train.bench_step", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--shape", action="append", choices=SHAPES, help="default: 31m and 70m")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (7)")
    parser.add_argument("--batch", type=int, help="sequences a step; default: the shape's")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--threads", type=int, help="of torch on a CPU; default: torch's own")
    parser.add_argument("--compile", action="store_true", help="torch.compile, the peer as well")
    parser.add_argument("--engine", action="store_true", help="also through DeepSpeed's engine")
    parser.add_argument("--quick", action="store_true", help="only the defaults and the peer")
    parser.add_argument(
        "--peak-tflops", type=float, help="of the device in this dtype, for MFU (H100 SXM: 989)"
    )
    options = parser.parse_args(arguments)
    options.peak = None if options.peak_tflops is None else options.peak_tflops * 1e12
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("alpenglow.train.bench_step: no CUDA device here\n")
        return 1
    if options.device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        torch.set_num_threads(options.threads or os.cpu_count() or 1)
    if options.compile:
        require_compiler(torch.device(options.device))
    logging.getLogger("transformers").setLevel(logging.ERROR)
    threads = f", {torch.get_num_threads()} threads" if options.device == "cpu" else ""
    sys.stdout.write(
        f"torch {torch.__version__}{threads}; {options.rounds} rounds in turns, medians; a ratio "
        f"above 1 is faster\nMFU = tokens/s x FLOPs a token / peak; FLOPs: {FLOPS_FORMULA}\n"
    )
    agree = [measure(name, options) for name in options.shape or ("31m", "70m")]
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
