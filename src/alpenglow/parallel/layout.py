"""How the ranks of a job form pipeline, data and tensor parallel groups.

Torch-free, so that the planner, the report and the script check can use it. The tensor rank always
runs fastest, so that the ranks of one tensor group are neighbours on a node. Which axis runs
slowest is the `order`: `pipe-major` (the stage; DeepSpeed's PipeModelDataParallelTopology) puts
replicas of one stage on a node, `data-major` (the replica) puts neighbouring stages there. What
each costs on a machine is alpenglow.parallel.placement's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Order = Literal["pipe-major", "data-major"]

PARTITION_METHOD = "type:TransformerLayer"
"""DeepSpeed's `partition_method` that `stage_layers` describes.

Transformer layers are spread evenly, the embedding joins the first stage, the final norm and the
head the last. DeepSpeed's default ("parameters") builds every layer of the model on every rank to
count weights: 27 GB in fp32 for the 7B model, six times on a node.
"""


class LayoutError(ValueError):
    """Degrees that cannot be laid out; the message is one sentence for the user."""


@dataclass(frozen=True)
class Layout:
    """Degrees of pipeline, tensor and data parallelism.

    Args:
        pipeline: number of pipeline stages.
        tensor: ranks that share each layer's matrices.
        data: replicas of the model.
        order: which axis runs slowest.
        seats: stage that sits at each place of a pipeline, the place of lowest rank first; empty
            means in order. A light stage can be seated where tensor ranks are far apart.
        layers: transformer layers of each stage; empty means `stage_layers`, spread evenly.
    """

    pipeline: int = 1
    tensor: int = 1
    data: int = 1
    order: Order = "pipe-major"
    seats: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("pipeline", "tensor", "data"):
            if getattr(self, name) < 1:
                raise LayoutError(f"{name} = {getattr(self, name)}: a degree is at least 1")
        if self.order not in get_args(Order):
            raise LayoutError(f"order = {self.order!r}; choose from {', '.join(get_args(Order))}")
        if self.seats and sorted(self.seats) != list(range(self.pipeline)):
            raise LayoutError(
                f"seats = {list(self.seats)} do not name each of {self.pipeline} stages once"
            )
        if self.layers and (len(self.layers) != self.pipeline or min(self.layers) < 1):
            raise LayoutError(
                f"layers = {list(self.layers)} do not give each of {self.pipeline} stages a layer"
            )

    @classmethod
    def of(cls, world: int, pipeline: int, tensor: int, order: Order = "pipe-major") -> Layout:
        """Derive the data-parallel degree from the number of ranks.

        Raises:
            LayoutError: pipeline x tensor does not divide `world`.
        """
        model = cls(pipeline, tensor).world
        if world < 1 or world % model:
            raise LayoutError(
                f"pipeline {pipeline} x tensor {tensor} = {model} ranks a replica does not divide "
                f"the {world} ranks of the job; change a degree or the number of ranks"
            )
        return cls(pipeline, tensor, world // model, order)

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.pipeline * self.tensor * self.data

    def coordinates(self, rank: int) -> tuple[int, int, int]:
        """Return (pipeline stage, data rank, tensor rank) of a global rank."""
        if not 0 <= rank < self.world:
            raise LayoutError(f"rank {rank} is not one of the {self.world} ranks of the layout")
        rest, tensor = divmod(rank, self.tensor)
        if self.order == "pipe-major":
            place, data = divmod(rest, self.data)
        else:
            data, place = divmod(rest, self.pipeline)
        return (self.seats[place] if self.seats else place), data, tensor

    def rank(self, pipeline: int, data: int, tensor: int) -> int:
        """Return the global rank at a place of the layout; `coordinates` undoes it."""
        places = (("pipeline", pipeline), ("data", data), ("tensor", tensor))
        for name, place in places:
            if not 0 <= place < getattr(self, name):
                raise LayoutError(f"{name} rank {place} is outside degree {getattr(self, name)}")
        seat = self.seats.index(pipeline) if self.seats else pipeline
        if self.order == "pipe-major":
            return (seat * self.data + data) * self.tensor + tensor
        return (data * self.pipeline + seat) * self.tensor + tensor

    def layers_of(self, num_layers: int) -> list[int]:
        """Count the transformer layers of each stage of a model with `num_layers`.

        Raises:
            LayoutError: a stage would hold no layer, or `layers` are those of another model.
        """
        if not self.layers:
            return stage_layers(num_layers, self.pipeline)
        if sum(self.layers) != num_layers:
            raise LayoutError(f"layers = {list(self.layers)} are not num_layers = {num_layers}")
        return list(self.layers)

    def tensor_groups(self) -> list[list[int]]:
        """Global ranks of every tensor-parallel group, by stage and replica."""
        return [
            [self.rank(stage, data, t) for t in range(self.tensor)]
            for stage in range(self.pipeline)
            for data in range(self.data)
        ]

    def data_groups(self) -> list[list[int]]:
        """Global ranks of every group that reduces gradients together."""
        return [
            [self.rank(stage, data, t) for data in range(self.data)]
            for stage in range(self.pipeline)
            for t in range(self.tensor)
        ]

    def pipeline_groups(self) -> list[list[int]]:
        """Global ranks of every pipeline, first stage first."""
        return [
            [self.rank(stage, data, t) for stage in range(self.pipeline)]
            for data in range(self.data)
            for t in range(self.tensor)
        ]


def stage_layers(num_layers: int, pipeline: int) -> list[int]:
    """Count the transformer layers of each stage under `PARTITION_METHOD`.

    The first `num_layers % pipeline` stages hold one layer more: the last stage, which also has
    the head (about one layer's work at these sizes), is never among the fuller ones unless all are
    equal. The published 7B layout (32 layers, 12 stages) has eight stages of 3 and four of 2.

    Raises:
        LayoutError: a stage would hold no layer.
    """
    if pipeline < 1 or num_layers < pipeline:
        raise LayoutError(
            f"num_layers = {num_layers} cannot fill pipeline = {pipeline} stages; "
            "every stage needs a layer"
        )
    share, more = divmod(num_layers, pipeline)
    return [share + (stage < more) for stage in range(pipeline)]
