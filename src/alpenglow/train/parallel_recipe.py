"""The tables of a recipe that say how ranks share the work: [parallel] and [reduction]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alpenglow.config import ConfigError
from alpenglow.parallel.placement import OrderChoice
from alpenglow.parallel.split import Split


def positive(where: str, **values: float) -> None:
    """Refuse values of table `where` that are not above 0, with a ConfigError."""
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"{where}.{name} = {value}: it must be greater than 0")


@dataclass(frozen=True)
class ParallelRecipe:
    """Degrees of parallelism; data parallelism takes the ranks that are left."""

    pipeline: int = 1
    """Pipeline stages."""
    tensor: int = 1
    """Ranks that share one layer's matrices."""
    schedule: Literal["1f1b", "zb-h1"] = "1f1b"
    """`1f1b`: DeepSpeed's; `zb-h1`: gradients of weights fill the pipeline's bubble, and each stage
    holds as many micro-batches as the first (alpenglow.parallel.schedule)."""
    slice_transfers: bool = True
    """Each rank of a tensor group sends its share of the activations to the next stage, where they
    are gathered: 1/tensor of the bytes between nodes for one more collective inside a node."""
    order: OrderChoice = "pipe-major"
    """Which axis of the ranks runs slowest; `auto`: the cheapest by alpenglow.parallel.placement
    where the machine file has the links, pipe-major elsewhere."""
    split: Split = "even"
    """Layers a stage: spread evenly, or with the head counted (alpenglow.parallel.split)."""

    def __post_init__(self) -> None:
        positive("parallel", pipeline=self.pipeline, tensor=self.tensor)


@dataclass(frozen=True)
class ReductionRecipe:
    """How gradients are summed over the data-parallel replicas."""

    method: Literal["overlapped", "deepspeed"] = "overlapped"
    """`overlapped`: each bucket to its owners, within the last backward; `deepspeed`: its
    all-reduce of buckets after it. In bf16 always DeepSpeed's."""
    bucket: int = 25_000_000
    """Most elements of a bucket; a stage has eight buckets or more."""
    predivide: float | None = None
    """Divide by this before the sum and by replicas / this after it; unset: by the replicas before
    it. The root of the replicas keeps fp16 sums of many replicas between overflow and underflow."""
    dtype: Literal["auto", "fp16", "fp32"] = "auto"
    """What travels; `auto`: what gradients are kept in. fp16 halves the bytes of fp32 sums."""

    def __post_init__(self) -> None:
        predivide = 1.0 if self.predivide is None else self.predivide
        positive("reduction", bucket=self.bucket, predivide=predivide)
