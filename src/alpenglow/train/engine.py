"""The model on this rank: DeepSpeed's pipeline engine with ZeRO-1 and our tensor parallelism.

    start(ranks, timeout_s=600)                         # environment, device, process group
    engine = Engine.build(recipe, layout, recorder)     # collective
    result = engine.step(micro_batches, lr)

DeepSpeed is told everything; it discovers nothing and launches nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import io
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import deepspeed
import deepspeed.ops
import torch
import torch.distributed
from deepspeed.accelerator import get_accelerator

from alpenglow.config import ConfigError
from alpenglow.model.documents import Documents
from alpenglow.model.layers import Attention
from alpenglow.model.stages import (
    checkpointable_layers,
    global_tensors,
    layer_specs,
    loss_function,
    loss_sum,
)
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.memory import LARGEST_BUCKET
from alpenglow.parallel.tensor import TensorGroup
from alpenglow.train.compiler import compile_layers, require_compiler
from alpenglow.train.failure import TrainingError
from alpenglow.train.instructions import Recomputation, RecordedEngine, record
from alpenglow.train.no_compiler import without_compiler
from alpenglow.train.optimizer import build_optimizer
from alpenglow.train.output import diverted
from alpenglow.train.recipe import PretrainRecipe
from alpenglow.train.reduction import GradientReduction
from alpenglow.train.topology import SplitPipeline
from alpenglow.train.training_state import create_moments
from alpenglow.train.zero_bubble import ZeroBubbleEngine, split
from alpenglow_lsf.ranks import Ranks
from alpenglow_profiling.events import SpanRecorder


def start(ranks: Ranks, *, timeout_s: float) -> torch.device:
    """Choose the device and join the job's process group.

    Raises:
        ConfigError: the port is taken, or the first rank cannot be reached.
    """
    if not diverted():
        for name in ("DeepSpeed", "deepspeed"):
            logging.getLogger(name).setLevel(logging.ERROR)
    # Serves inference only, and would compile C++ for a minute on every start of a CPU run.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if torch.cuda.is_available():
        # One resource set may show a rank all GPUs of the node or its own alone.
        index = ranks.local_rank % torch.cuda.device_count()
        os.environ["LOCAL_RANK"] = str(index)
        torch.cuda.set_device(index)
        device, backend = torch.device("cuda", index), "nccl"
    else:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        device, backend = torch.device("cpu"), "gloo"
    try:
        with _quiet():
            deepspeed.init_distributed(
                backend,
                auto_mpi_discovery=False,
                verbose=False,
                timeout=datetime.timedelta(seconds=timeout_s),
            )
    except (RuntimeError, OSError) as error:
        where = f"{ranks.master_address}:{ranks.master_port}"
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise ConfigError(
                f"port {ranks.master_port} of {ranks.master_address} is in use, so rank 0 cannot "
                "gather the ranks: end the program that holds it, or set ALPENGLOW_MASTER_PORT"
            ) from None
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"rank {ranks.rank} cannot reach rank 0 at {where}: {reason}") from None
    return device


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what DeepSpeed prints while it builds (layer lists ...), unless it has a file."""
    if diverted():
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _bounded_groups(timeout_s: float) -> Iterator[None]:
    """Give every process group made meanwhile the job's timeout.

    DeepSpeed's `new_group(ranks)` passes none, so the data-parallel peer of a frozen rank would
    hang for torch's default instead.
    """
    original = torch.distributed.new_group
    bounded = functools.partial(original, timeout=datetime.timedelta(seconds=timeout_s))
    torch.distributed.new_group = bounded
    try:
        yield
    finally:
        torch.distributed.new_group = original


def resolve_dtype(name: str, device: torch.device) -> str:
    """What `auto` means here: fp32 on a CPU, bf16 where the GPU computes in it, fp16 elsewhere."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    # Volta (compute capability 7) has no bf16 units; torch would emulate.
    return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"


def deepspeed_config(
    recipe: PretrainRecipe, layout: Layout, dtype: str, parameters: int
) -> dict[str, Any]:
    """The configuration that `deepspeed.initialize` gets; it reads no file.

    Args:
        recipe: what to train.
        layout: on which ranks.
        dtype: fp32, fp16 or bf16.
        parameters: parameters of the largest stage, to bound the reduction's buffer.
    """
    # A bucket that holds the whole stage is one all-reduce; it must be even for NCCL's alignment.
    bucket = min(LARGEST_BUCKET, 2 * math.ceil(parameters / 2) + 2)
    config: dict[str, Any] = {
        "train_batch_size": recipe.batch.global_batch_size,
        "train_micro_batch_size_per_gpu": recipe.batch.micro_batch_size,
        "gradient_accumulation_steps": recipe.micro_batches(layout),
        "gradient_clipping": recipe.optimizer.gradient_clipping,
        "zero_optimization": {
            "stage": 1,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "pipeline": {
            "pipe_partitioned": recipe.parallel.slice_transfers,
            "grad_partitioned": recipe.parallel.slice_transfers,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False, "synchronized": False}},
    }
    if dtype == "fp16":
        config["fp16"] = {
            "enabled": True,
            "initial_scale_power": recipe.precision.initial_scale_power,
            "loss_scale_window": recipe.precision.loss_scale_window,
            "hysteresis": recipe.precision.hysteresis,
            "min_loss_scale": recipe.precision.min_loss_scale,
        }
    elif dtype == "bf16":
        config["bf16"] = {"enabled": True}
    # bf16 has 8 bits of mantissa: its sums over micro-batches are always kept in fp32.
    if dtype == "bf16" or recipe.precision.fp32_gradients:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if dtype == "fp16" and (recipe.precision.fp32_gradients or recipe.reduction.dtype != "auto"):
        travels = recipe.reduction.dtype
        config["communication_data_type"] = "fp32" if travels == "auto" else travels
    if recipe.reduction.predivide is not None:
        config["gradient_predivide_factor"] = recipe.reduction.predivide
    return config


def own_reduction(inner: RecordedEngine, recipe: PretrainRecipe) -> GradientReduction | None:
    """Our own reduction; None where DeepSpeed's is wanted, or its bf16 optimizer needs it."""
    # That optimizer takes the global norm from sums that every replica has whole.
    if recipe.reduction.method == "deepspeed" or inner.using_bf16_optimizer:
        return None
    group = inner.optimizer.dp_process_group
    members = torch.distributed.get_process_group_ranks(group)

    travels = recipe.reduction.dtype

    def reduce(part: torch.Tensor, owner: int) -> Any:
        return deepspeed.comm.reduce(part, members[owner], group=group, async_op=True)

    return GradientReduction(
        inner.optimizer,
        reduce,
        rank=members.index(torch.distributed.get_rank()),
        size=len(members),
        bucket=recipe.reduction.bucket,
        predivide=recipe.reduction.predivide,
        dtype={"auto": None, "fp16": torch.float16, "fp32": torch.float32}[travels],
        late=frozenset(weight for weight, _ in inner.module.get_tied_weights_and_groups()),
    )


@dataclass(frozen=True)
class StepResult:
    """What one step gave; the same on every rank."""

    loss: float
    """Mean over the global batch, in nats a token."""
    grad_norm: float | None
    """Global norm before clipping; None where the gradients were not finite."""
    loss_scale: float
    """The scale of this step's loss (1 without fp16)."""
    applied: bool
    """False where gradients were not finite and the weights stayed as they were."""


class Engine:
    """DeepSpeed's engine, and what the trainer needs to know about it; made by `build`."""

    def __init__(
        self,
        inner: RecordedEngine,
        recipe: PretrainRecipe,
        layout: Layout,
        group: TensorGroup,
        dtype: str,
    ) -> None:
        self.inner = inner
        self.layout = layout
        self.group = group
        self.dtype = dtype
        self.loss_sum = loss_sum(recipe.model, group)
        """The loss function of an evaluation."""
        self.coordinates = layout.coordinates(torch.distributed.get_rank())
        self.optimizer: torch.optim.Optimizer = inner.optimizer.optimizer
        """The optimizer inside DeepSpeed's, over flat partitions."""
        self.tensors = global_tensors(inner.module, recipe.model, group)
        """The global tensors of this rank's stage."""

    @classmethod
    def build(
        cls,
        recipe: PretrainRecipe,
        layout: Layout,
        recorder: SpanRecorder,
        device: torch.device,
    ) -> Engine:
        """Build this rank's stage; collective, after `start`."""
        dtype = resolve_dtype(recipe.precision.dtype, device)
        if dtype == "fp16" and not get_accelerator().is_fp16_supported():
            raise TrainingError(
                f"precision.dtype = fp16 on {device.type}: this device does not compute in fp16; "
                "choose fp32, bf16 or auto"
            )
        if recipe.train.compile:
            require_compiler(device)
        # Init is by global layer number (see model.stages): this seed is for anything else.
        torch.manual_seed(recipe.train.seed)
        with (
            _quiet(),
            contextlib.nullcontext() if recipe.train.compile else without_compiler(),
            _bounded_groups(recipe.train.collective_timeout_s),
        ):
            rank = torch.distributed.get_rank()
            group = TensorGroup.create(layout, rank, recorder, comm=deepspeed.comm)
            recomputation = Recomputation(recorder)
            documents = Documents() if recipe.data.documents == "masked" else None
            module = SplitPipeline(
                layout,
                layer_specs(
                    recipe.model,
                    group,
                    seed=recipe.train.seed,
                    attention=recipe.train.attention,
                    loss=recipe.train.loss,
                    documents=documents,
                ),
                recipe.model.num_layers,
                loss_fn=loss_function(recipe.model, group),
                activation_checkpoint_interval=1 if recipe.train.recompute == "full" else 0,
                activation_checkpoint_func=recomputation,
                checkpointable_layers=checkpointable_layers(),
            )
            if recipe.train.recompute == "selective":
                for attention in (m for m in module.modules() if isinstance(m, Attention)):
                    attention.run_core = recomputation
            if recipe.train.compile:
                compile_layers(module)
            largest = torch.tensor(sum(p.numel() for p in module.parameters()), device=device)
            torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
            inner, _, _, _ = deepspeed.initialize(
                model=module,
                optimizer=build_optimizer(module, recipe.optimizer, device),
                config=deepspeed_config(recipe, layout, dtype, int(largest)),
            )
        if recipe.parallel.schedule == "zb-h1" and layout.pipeline > 1:
            inner = split(record(inner, recorder, ZeroBubbleEngine), group)
        else:
            inner = record(inner, recorder)
        inner.documents = documents
        inner.reduction = own_reduction(inner, recipe)
        engine = cls(inner, recipe, layout, group, dtype)
        create_moments(engine.optimizer, 0)
        return engine

    @property
    def stage(self) -> int:
        """This rank's pipeline stage."""
        return self.coordinates[0]

    @property
    def scaler(self) -> Any:
        """DeepSpeed's loss scaler; None where its optimizer has none."""
        return getattr(self.inner.optimizer, "loss_scaler", None)

    def step(self, micro_batches: Iterator[Any], lr: float) -> StepResult:
        """Train on one global batch.

        Args:
            micro_batches: this replica's (tokens, labels), as many as a step has; with documents
                masked also `positions`, see `alpenglow.train.batches.MicroBatches`.
            lr: learning rate of this update.
        """
        self.load_documents(micro_batches)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        scale = float(getattr(self.scaler, "cur_scale", 1.0))
        if self.inner.reduction is not None:
            self.inner.reduction.begin()
        loss = self.inner.train_batch(data_iter=micro_batches)
        applied = not self.inner.optimizer.overflow
        norm = self.inner.get_global_grad_norm() if applied else None
        return StepResult(
            loss=float(loss),
            grad_norm=None if norm is None else float(norm),
            loss_scale=scale,
            applied=applied,
        )

    def load_documents(self, micro_batches: Iterator[Any]) -> None:
        """Tell the layers where documents begin in what follows, if they keep to documents."""
        documents = self.inner.documents
        if documents is not None:
            positions = getattr(micro_batches, "positions", None)
            documents.load(None if positions is None else positions.to(self.inner.device))
