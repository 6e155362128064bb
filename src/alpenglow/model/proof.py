"""Proof of the architecture: our model against `transformers.GPTNeoXForCausalLM`.

    python -m alpenglow.model.proof

Small models with random weights and non-zero biases go through DeepSpeed's PipelineModule on every
shape tensor 1, 2 x pipeline 1, 2, with parallel and serial residual, rotary_pct 0.25 and 1.0, tied
and untied embeddings, in fp32 on the CPU. For each the largest absolute difference to transformers
is printed: logits, loss, and every gradient of one ZeRO-1 step of two micro-batches with its global
norm. The rows "pipeline none" do without DeepSpeed (`build_local`). Exit code 1 if the logits
differ by 1e-4 or the rest by 1e-5.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import math
import multiprocessing
import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from alpenglow.model.config import ModelConfig, Slice
from alpenglow.model.stages import (
    build_local,
    checkpointable_layers,
    global_tensors,
    layer_specs,
    load_global,
    loss_function,
)
from alpenglow.parallel.layout import PARTITION_METHOD, Layout
from alpenglow.parallel.tensor import TensorGroup

LOGITS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-5
SHAPES = ((1, 1), (1, 2), (2, 1), (2, 2))
"""(pipeline, tensor) degrees of each process group."""

_LENGTH = 24
_ROWS = 2
_MICRO_BATCHES = 2


@dataclass(frozen=True)
class Case:
    """A model with what transformers makes of it.

    Args:
        config: the model, small.
        tokens: int64 [micro-batches, rows, length + 1].
        logits: of the first micro-batch [rows, length, vocabulary].
        loss: mean over the micro-batches.
        gradients: of that loss, by global tensor name.
    """

    config: ModelConfig
    tokens: Tensor
    logits: Tensor
    loss: float
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Difference:
    """Largest absolute differences to transformers for one model on one shape of ranks.

    `pipeline` 0 means without DeepSpeed; `fused` the loss that never holds all logits;
    `gradient` is over all elements, `norm` of their norm.
    """

    pipeline: int
    tensor: int
    config: ModelConfig
    recompute: bool
    fused: bool
    logits: float
    loss: float
    gradient: float
    norm: float

    @property
    def equal(self) -> bool:
        """Whether all four are within tolerance."""
        small = max(self.loss, self.gradient, self.norm) < GRADIENT_TOLERANCE
        return self.logits < LOGITS_TOLERANCE and small


def configurations() -> list[ModelConfig]:
    """List the eight models: residual form x rotary_pct x tied embeddings."""
    return [
        ModelConfig(
            num_layers=3,  # two stages hold 2 and 1
            hidden_size=32,
            num_attention_heads=4,
            vocab_size=96,
            max_position_embeddings=_LENGTH,
            rotary_pct=rotary_pct,
            use_parallel_residual=parallel,
            tie_word_embeddings=tied,
        )
        for parallel, rotary_pct, tied in itertools.product(
            (True, False), (0.25, 1.0), (True, False)
        )
    ]


def random_weights(config: ModelConfig, seed: int = 1) -> dict[str, Tensor]:
    """Draw every global tensor, fp32, with biases and norm weights that are not at rest."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in config.tensor_shapes().items():
        spread = 0.3 if len(shape) == 1 else 2.0 * shape[1] ** -0.5
        centre = 1.0 if name.endswith("norm.weight") else 0.0
        weights[name] = centre + spread * torch.randn(shape, generator=generator)
    return weights


def reference(config: ModelConfig, weights: Mapping[str, Tensor]) -> Any:
    """Build the transformers model with these weights."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    fields = config.huggingface_fields()
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**fields, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, parameter in _reference_tensors(model, config).items():
            parameter.copy_(weights[name])
    return model


def make_case(config: ModelConfig) -> Case:
    """Run transformers on random weights and tokens."""
    generator = torch.Generator().manual_seed(2)
    size = (_MICRO_BATCHES, _ROWS, _LENGTH + 1)
    tokens = torch.randint(config.vocab_size, size, generator=generator)
    model = reference(config, random_weights(config))
    outputs = [model(batch[:, :-1]).logits for batch in tokens]
    losses = [
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        for logits, batch in zip(outputs, tokens, strict=True)
    ]
    loss = torch.stack(losses).mean()
    loss.backward()
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in _reference_tensors(model, config).items()
    }
    return Case(config, tokens, outputs[0].detach(), loss.item(), gradients)


def measure_rank(
    rank: int, size: int, pipeline: int, tensor: int, cases: Sequence[Case]
) -> list[Difference]:
    """Run the cases through DeepSpeed on a shape of ranks; every rank returns the same rows.

    Collective: torch.distributed is initialised and every rank of the shape calls it. Cases with
    tied embeddings recompute activations, so that this path is compared too.
    """
    import deepspeed
    import deepspeed.ops

    # DeepSpeed would compile a CPU extension for minutes that only its inference uses.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    layout = Layout.of(size, pipeline, tensor)
    with contextlib.redirect_stdout(io.StringIO()):
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
        group = TensorGroup.create(layout, rank, comm=deepspeed.comm)
        return [_measure(case, layout, group) for case in cases]


def measure_local(case: Case) -> Difference:
    """Run a case through `build_local` with fused attention and loss, without DeepSpeed."""
    weights = random_weights(case.config)
    model = build_local(case.config, attention="sdpa", loss="fused")
    model.load_global(lambda name, part: cut(weights[name], part))
    loss_of = loss_function(case.config, model.group)
    outputs = [model(batch[:, :-1]) for batch in case.tokens]
    losses = [loss_of(x, batch[:, 1:]) for x, batch in zip(outputs, case.tokens, strict=True)]
    loss = torch.stack(losses).mean()
    loss.backward()
    gradients = {
        item.name: item.parameter.grad
        for item in global_tensors(model, case.config, model.group)
        if item.parameter.grad is not None
    }
    return Difference(
        pipeline=0,
        tensor=1,
        config=case.config,
        recompute=False,
        fused=True,
        logits=_largest(_logits(outputs[0]), case.logits),
        loss=abs(loss.item() - case.loss),
        gradient=max(_largest(gradients[name], case.gradients[name]) for name in case.gradients),
        norm=abs(_norm(gradients) - _norm(case.gradients)),
    )


def cut(tensor: Tensor, part: Slice) -> Tensor:
    """Return a slice of a whole tensor."""
    return tensor[tuple(slice(start, stop) for start, stop in part)]


def table(rows: Sequence[Difference]) -> str:
    """Write the differences as a text table."""
    columns = "tensor pipeline residual rotary_pct embeddings recompute  loss"
    head = f"{columns}   logits     loss gradient     norm"
    lines = [head, "-" * len(head)]
    for row in rows:
        lines.append(
            f"{row.tensor:6d} {row.pipeline or 'none':>8} "
            f"{'parallel' if row.config.use_parallel_residual else 'serial':>8} "
            f"{row.config.rotary_pct:10.2f} "
            f"{'tied' if row.config.tie_word_embeddings else 'untied':>10} "
            f"{'yes' if row.recompute else 'no':>9} {'fused' if row.fused else 'plain':>5} "
            f"{row.logits:8.1e} {row.loss:8.1e} {row.gradient:8.1e} {row.norm:8.1e}"
            f"{'' if row.equal else '  DIFFERS'}"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 if all is equal, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow.model.proof", description=(__doc__ or "").split("\n")[0]
    )
    parser.parse_args(arguments)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read as DeepSpeed is imported
    logging.getLogger("transformers").setLevel(logging.ERROR)
    cases = [make_case(config) for config in configurations()]
    rows = [measure_local(case) for case in cases]
    for pipeline, tensor in SHAPES:
        rows += _on_ranks(pipeline, tensor, cases)
    sys.stdout.write(table(rows))
    wrong = sum(not row.equal for row in rows)
    sys.stdout.write(
        f"{len(rows)} comparisons with transformers in fp32, {wrong} out of tolerance "
        f"(logits {LOGITS_TOLERANCE:g}, loss and gradients {GRADIENT_TOLERANCE:g})\n"
    )
    return 1 if wrong else 0


def _measure(case: Case, layout: Layout, group: TensorGroup) -> Difference:
    import deepspeed
    from deepspeed.pipe import PipelineModule
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    config, recompute = case.config, case.config.tie_word_embeddings
    # Half of the models, so that each form of the loss meets each form of the rest.
    fused = config.rotary_pct == 1.0
    module = PipelineModule(
        layer_specs(config, group, seed=None, loss="fused" if fused else "plain"),
        topology=PipeModelDataParallelTopology(layout.pipeline, layout.tensor, layout.data),
        loss_fn=loss_function(config, group),
        partition_method=PARTITION_METHOD,
        activation_checkpoint_interval=1 if recompute else 0,
        checkpointable_layers=checkpointable_layers(),
    )
    weights = random_weights(config)
    tensors = global_tensors(module, config, group)
    load_global(tensors, lambda name, part: cut(weights[name], part))
    engine, *_ = deepspeed.initialize(
        model=module,
        # With lr 1 and no momentum the step is the gradient.
        optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
        config={
            "train_micro_batch_size_per_gpu": _ROWS,
            "gradient_accumulation_steps": _MICRO_BATCHES,
            "steps_per_print": 10**9,
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 0.0,  # DeepSpeed's own default is 1.0
        },
    )
    batches = [(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()) for batch in case.tokens]
    _, logits = engine.eval_batch(iter(batches[:1]), return_logits=True, num_micro_batches=1)
    found = [0.0, 0.0, 0.0, 0.0]
    if logits is not None:
        found[0] = _largest(group.gather_last(_logits(logits)), case.logits)
    found[1] = abs(float(engine.train_batch(iter(batches))) - case.loss)
    found[3] = abs(float(engine.get_global_grad_norm()) - _norm(case.gradients))
    for item in tensors:
        step = cut(weights[item.name], item.slice) - item.parameter.detach()
        found[2] = max(found[2], _largest(step, cut(case.gradients[item.name], item.slice)))
    worst = torch.tensor(found, dtype=torch.float64)
    torch.distributed.all_reduce(worst, op=torch.distributed.ReduceOp.MAX)
    return Difference(layout.pipeline, layout.tensor, config, recompute, fused, *worst.tolist())


def _reference_tensors(model: Any, config: ModelConfig) -> dict[str, Any]:
    # The head's attribute is embed_out up to transformers 4 and lm_head from 5 on.
    inner = dict(model.gpt_neox.named_parameters())
    head = {"embed_out.weight": model.get_output_embeddings().weight}
    return {name: (inner | head)[name] for name in config.tensor_shapes()}


def _logits(outputs: Any) -> Tensor:
    """What the model gives, or what the fused loss would make of it."""
    if not isinstance(outputs, tuple):
        return outputs  # type: ignore[no-any-return]
    hidden, head = outputs
    return torch.nn.functional.linear(hidden, head.weight)


def _norm(gradients: Mapping[str, Tensor]) -> float:
    return float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())


def _largest(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(f"shape {list(ours.shape)} against {list(theirs.shape)}")
    difference = (ours.detach() - theirs).abs().max().item()
    return float("inf") if math.isnan(difference) else difference


def _on_ranks(pipeline: int, tensor: int, cases: Sequence[Case]) -> list[Difference]:
    """Start the ranks of one shape on this machine and return their rows."""
    from torch.multiprocessing.spawn import start_processes

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepspeed.pipe"])
    rows = context.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="proof-") as folder:
        # As bytes, or every tensor would take a file descriptor on its way to a rank.
        shape = (pipeline, tensor, pickle.dumps(list(cases)), f"{folder}/store", rows)
        start_processes(_rank_main, shape, nprocs=pipeline * tensor, start_method="forkserver")
        return list(rows.get())


def _rank_main(
    rank: int, pipeline: int, tensor: int, cases: bytes, store: str, rows: SimpleQueue[Any]
) -> None:
    from torch.distributed import FileStore  # type: ignore[attr-defined]

    size = pipeline * tensor
    torch.set_num_threads(1)
    warnings.simplefilter(
        "ignore"
    )  # torch's deprecations are DeepSpeed's affair; they hide the table
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    torch.distributed.init_process_group(
        "gloo", store=FileStore(store, size), rank=rank, world_size=size
    )
    found = measure_rank(rank, size, pipeline, tensor, pickle.loads(cases))
    if rank == 0:
        rows.put(found)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
