"""What to train: the recipe of `python -m alpenglow.train RECIPE.toml [key=value ...]`.

One frozen dataclass a table of the TOML file. Impossible combinations are refused here, before
torch is imported, with both values in the sentence. The data-parallel degree is not a key: it is
what the job's ranks leave after pipeline and tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from alpenglow.config import ConfigError
from alpenglow.model.config import ModelConfig
from alpenglow.parallel.layout import Layout, LayoutError
from alpenglow.parallel.links import Site
from alpenglow.parallel.memory import excess, worst_stage
from alpenglow.parallel.placement import place
from alpenglow.parallel.work import Work
from alpenglow.train.guard_policy import GuardRecipe
from alpenglow.train.measure_recipe import MeasureRecipe as MeasureRecipe  # noqa: PLC0414
from alpenglow.train.parallel_recipe import ParallelRecipe as ParallelRecipe  # noqa: PLC0414
from alpenglow.train.parallel_recipe import ReductionRecipe as ReductionRecipe  # noqa: PLC0414
from alpenglow.train.parallel_recipe import positive
from alpenglow.train.precision_recipe import DType as DType  # noqa: PLC0414
from alpenglow.train.precision_recipe import PrecisionRecipe as PrecisionRecipe  # noqa: PLC0414
from alpenglow_lsf.machine import Machine


@dataclass(frozen=True)
class BatchRecipe:
    """Sizes of one step."""

    global_batch_size: int
    """Sequences a step, over all data-parallel replicas."""
    micro_batch_size: int
    """Sequences that go through the pipeline at once."""
    sequence_length: int
    """Tokens a sequence that are predicted (a window holds one more)."""

    def __post_init__(self) -> None:
        positive(
            "batch",
            global_batch_size=self.global_batch_size,
            micro_batch_size=self.micro_batch_size,
            sequence_length=self.sequence_length,
        )

    @property
    def tokens_per_step(self) -> int:
        """Tokens predicted in one step by all replicas together."""
        return self.global_batch_size * self.sequence_length


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW with decoupled weight decay on matrices, none on biases and layer norms."""

    lr: float
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the last step."""
    name: Literal["adamw"] = "adamw"
    """Apex's FusedAdam on a GPU where NVIDIA Apex is installed, torch's AdamW elsewhere."""
    betas: tuple[float, ...] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    warmup_fraction: float = 0.01
    """Share of all steps with a rising learning rate; ignored where `warmup_steps` is given."""
    warmup_steps: int | None = None
    gradient_clipping: float = 1.0
    """Largest global gradient norm; 0 clips nothing."""

    def __post_init__(self) -> None:
        positive("optimizer", lr=self.lr, eps=self.eps)
        if not 0 <= self.min_lr <= self.lr:
            raise ConfigError(
                f"optimizer.min_lr = {self.min_lr} must lie between 0 and optimizer.lr = {self.lr}"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(
                f"optimizer.betas = {list(self.betas)}: two numbers, each from 0 to below 1"
            )
        if not 0 <= self.warmup_fraction <= 1:
            raise ConfigError(
                f"optimizer.warmup_fraction = {self.warmup_fraction} must lie between 0 and 1"
            )
        if self.weight_decay < 0 or self.gradient_clipping < 0 or (self.warmup_steps or 0) < 0:
            raise ConfigError(
                f"optimizer: weight_decay = {self.weight_decay}, gradient_clipping = "
                f"{self.gradient_clipping} and warmup_steps = {self.warmup_steps} "
                "must not be negative"
            )


@dataclass(frozen=True)
class DataRecipe:
    """Which tokens, in which proportion and order."""

    mixture: Mapping[str, float]
    """Slice -> weight (any scale; 0 leaves a slice out)."""
    catalogue: Path = Path("shards/catalogue.json")
    """Catalogue of the token shards, which `jobs/prepare_data.lsf` writes."""
    optional: tuple[str, ...] = ()
    """Slices of the mixture that may be absent from the catalogue; the rest share by weight."""
    seed: int = 1234
    """Seed of the order of the windows."""
    documents: Literal["joined", "masked"] = "joined"
    """`joined`: a window is one text, and attention crosses the borders of documents (as Pythia);
    `masked`: positions begin anew at each document, and no token attends to another one's."""
    validation_fraction: float = 0.0
    """Share of every slice that training never reads."""
    validation_samples: int = 1024
    """Sequences of an evaluation, the first of the validation stream: always the same ones."""

    def __post_init__(self) -> None:
        positive("data", validation_samples=self.validation_samples)
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                f"data.validation_fraction = {self.validation_fraction} must lie from 0 to below 1"
            )
        if any(weight < 0 for weight in self.mixture.values()):
            raise ConfigError(f"data.mixture = {dict(self.mixture)}: no weight may be negative")
        if not any(self.mixture.values()):
            raise ConfigError("data.mixture: at least one slice needs a weight greater than 0")
        unknown = sorted(set(self.optional) - set(self.mixture))
        if unknown:
            raise ConfigError(
                f"data.optional names {', '.join(unknown)}, which data.mixture "
                f"({', '.join(self.mixture)}) does not hold"
            )

    def weights(self, present: Mapping[str, object] | set[str]) -> dict[str, float]:
        """Shares that sum to 1, of the slices that are in the catalogue.

        Args:
            present: names of the catalogue's slices.

        Raises:
            ConfigError: a slice with a weight is absent and not optional.
        """
        wanted = {name: weight for name, weight in self.mixture.items() if weight > 0}
        absent = [name for name in wanted if name not in present]
        needed = [name for name in absent if name not in self.optional]
        if needed:
            raise ConfigError(
                f"data.mixture gives a weight to {', '.join(needed)}, which {self.catalogue} does "
                f"not hold (it holds {', '.join(sorted(present))}): prepare that slice, set its "
                "weight to 0, or name it in data.optional"
            )
        kept = {name: weight for name, weight in wanted.items() if name not in absent}
        if not kept:
            raise ConfigError(
                f"data.mixture: none of {', '.join(wanted)} is in {self.catalogue} "
                f"(it holds {', '.join(sorted(present)) or 'nothing'})"
            )
        total = sum(kept.values())
        return {name: weight / total for name, weight in kept.items()}


@dataclass(frozen=True)
class TrainRecipe:
    """How long, and what happens on the way."""

    steps: int | None = None
    """Length of the run in steps; give either this or `tokens`."""
    tokens: int | None = None
    """Length of the run in tokens, rounded up to whole steps."""
    checkpoint_every: int | Literal["auto", "never"] = "auto"
    """Steps between checkpoints, or `auto`: the time that loses least at the machine's rate of
    failures (see `alpenglow.train.save_interval`). One more is written at the end and before the
    walltime; `never`: none at all, for runs that only measure."""
    keep_last: int = 2
    """Newest checkpoints that stay on disk."""
    keep_every: int = 0
    """Checkpoints at multiples of this step stay for good; 0 keeps none."""
    validate_every: int = 0
    """Steps between evaluations on the validation stream; one more is made at the end; 0: none."""
    log_every: int = 1
    """Steps between printed lines; metrics.jsonl has every step."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Computed again in the backward pass, not kept: nothing, the attention core, whole layers."""
    attention: Literal["plain", "sdpa"] = "sdpa"
    """`plain`: matrix products and an fp32 softmax; `sdpa`: torch's fused attention, of which a
    V100 has the memory-efficient kernel (FlashAttention's wants compute capability 8)."""
    loss: Literal["plain", "fused"] = "fused"
    """`fused`: logits and their cross entropy for a few tokens at a time."""
    compile: bool = False
    """Compile the layers at the first step (torch.compile), which communicate nothing half-way."""
    monitor: tuple[Literal["csv", "tensorboard", "wandb"], ...] = ()
    """Curves beside metrics.jsonl (`alpenglow.train.monitors`); W&B stays offline."""
    seed: int = 1234  # of the initial weights
    collective_timeout_s: float = 600.0
    """How long a rank waits for a silent peer before it gives up."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.tokens is None):
            raise ConfigError(
                f"train.steps = {self.steps} and train.tokens = {self.tokens}: give exactly one"
            )
        positive(
            "train",
            steps=self.steps or 1,
            tokens=self.tokens or 1,
            checkpoint_every=self.save_steps or 1,
            keep_last=self.keep_last,
            log_every=self.log_every,
            collective_timeout_s=self.collective_timeout_s,
        )
        if self.validate_every < 0:
            raise ConfigError(f"train.validate_every = {self.validate_every}: 0 or more steps")

    @property
    def save_steps(self) -> int | None:
        """Steps between checkpoints; None: by time, or never."""
        return self.checkpoint_every if isinstance(self.checkpoint_every, int) else None


@dataclass(frozen=True)
class CheckpointRecipe:
    """Where a checkpoint is written on its way to the run directory."""

    local: str = "auto"
    """Node-local folder ($VARIABLES are expanded) that a save goes to first; `auto`: the machine's
    NVMe where the job has it; empty: straight to the run directory."""


@dataclass(frozen=True)
class PretrainRecipe:
    """The whole recipe; see `alpenglow.config.load` for overlays and overrides."""

    model: ModelConfig
    batch: BatchRecipe
    optimizer: OptimizerRecipe
    data: DataRecipe
    train: TrainRecipe
    parallel: ParallelRecipe = field(default_factory=ParallelRecipe)
    precision: PrecisionRecipe = field(default_factory=PrecisionRecipe)
    checkpoint: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    reduction: ReductionRecipe = field(default_factory=ReductionRecipe)
    guard: GuardRecipe = field(default_factory=GuardRecipe)
    measure: MeasureRecipe = field(default_factory=MeasureRecipe)

    def __post_init__(self) -> None:
        model, parallel, batch = self.model, self.parallel, self.batch
        if batch.sequence_length > model.max_position_embeddings:
            raise ConfigError(
                f"batch.sequence_length = {batch.sequence_length} is longer than "
                f"model.max_position_embeddings = {model.max_position_embeddings}"
            )
        try:
            model.check_parallel(parallel.pipeline, parallel.tensor)
        except ValueError as error:
            raise ConfigError(f"model and parallel: {error}") from None
        if self.train.validate_every and not self.data.validation_fraction:
            raise ConfigError(
                f"train.validate_every = {self.train.validate_every} needs a part of the data that "
                "is held out: set data.validation_fraction above 0"
            )
        for key, value, breaks in (
            ("parallel.tensor", parallel.tensor, parallel.tensor > 1),
            ("parallel.schedule", parallel.schedule, "zb-h1"),
            ("train.recompute", self.train.recompute, "selective"),
            ("data.documents", self.data.documents, "masked"),
        ):
            if self.train.compile and (breaks is True or value == breaks):
                raise ConfigError(f"train.compile = true with {key} = {value}: change one of them")
        if self.warmup_steps > self.total_steps:
            raise ConfigError(
                f"optimizer.warmup_steps = {self.warmup_steps} is more than the run's "
                f"{self.total_steps} steps"
            )

    @property
    def total_steps(self) -> int:
        """Length of the run in steps, if the global batch stays what it is here."""
        return self.steps_of(self.batch.global_batch_size)

    @property
    def warmup_steps(self) -> int:
        """Steps with a rising learning rate, if the global batch stays what it is here."""
        return self.warmup_of(self.batch.global_batch_size)

    def samples_of(self, first_batch: int) -> int:
        """Length of the run in samples, whatever batches follow the first one.

        Args:
            first_batch: global batch that the run was begun with.
        """
        if self.train.steps is not None:
            return self.train.steps * first_batch
        return math.ceil((self.train.tokens or 0) / self.batch.sequence_length)

    def steps_of(self, first_batch: int) -> int:
        """The same in whole steps of the first batch: the length of the learning-rate schedule."""
        return math.ceil(self.samples_of(first_batch) / first_batch)

    def warmup_of(self, first_batch: int) -> int:
        """Steps of the first batch with a rising learning rate."""
        if self.optimizer.warmup_steps is not None:
            return self.optimizer.warmup_steps
        return round(self.optimizer.warmup_fraction * self.steps_of(first_batch))

    def layout(self, world_size: int, machine: Machine | None = None) -> Layout:
        """The layout on `world_size` ranks.

        Args:
            world_size: ranks of the job.
            machine: whose links decide where `parallel.order` leaves it open.

        Raises:
            ConfigError: the degrees do not divide the ranks, or the batch does not divide over
                micro-batches and replicas.
        """
        try:
            layout = Layout.of(world_size, self.parallel.pipeline, self.parallel.tensor)
        except LayoutError as error:
            raise ConfigError(f"parallel: {error}") from None
        share = self.batch.micro_batch_size * layout.data
        if self.batch.global_batch_size % share:
            raise ConfigError(
                f"batch.global_batch_size = {self.batch.global_batch_size} is not a multiple of "
                f"batch.micro_batch_size = {self.batch.micro_batch_size} x data-parallel degree "
                f"{layout.data} = {share}"
            )
        return place(
            self.model,
            layout,
            self.work(layout),
            None if machine is None else self.site(machine, world_size),
            order=self.parallel.order,
            how=self.parallel.split,
        )

    def site(self, machine: Machine, world_size: int) -> Site | None:
        """The links of a machine; None where its file does not name them."""
        return Site.of(machine, world_size, self._gpu_dtype)

    @property
    def _gpu_dtype(self) -> str:
        return "fp16" if self.precision.dtype == "auto" else self.precision.dtype

    def work(self, layout: Layout) -> Work:
        """What one step asks of a replica, for memory and placement."""
        return Work(
            micro_batch_size=self.batch.micro_batch_size,
            micro_batches=self.micro_batches(layout),
            sequence_length=self.batch.sequence_length,
            dtype=self._gpu_dtype,
            attention=self.train.attention,
            recompute=self.train.recompute,
            loss=self.train.loss,
            masked=self.data.documents == "masked",
            schedule=self.parallel.schedule,
            fp32_gradients=self.precision.fp32_gradients,
            slice_transfers=self.parallel.slice_transfers,
            overlapped=self.reduction.method == "overlapped",
            bucket=self.reduction.bucket,
            travels={"auto": 0, "fp16": 2, "fp32": 4}[self.reduction.dtype],
        )

    def refused(self, layout: Layout, machine: Machine) -> str | None:
        """One sentence where a stage does not fit the machine's GPUs, with its parts; else None."""
        if machine.node is None or not machine.node.gpus:
            return None
        worst = worst_stage(self.model, layout, self.work(layout))
        return excess(worst, machine.node.gpu_memory_bytes)

    def micro_batches(self, layout: Layout) -> int:
        """Micro-batches a replica and step (the gradient accumulation steps)."""
        return self.batch.global_batch_size // (self.batch.micro_batch_size * layout.data)
