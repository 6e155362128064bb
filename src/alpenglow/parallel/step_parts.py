"""What a step is made of on each stage, before anything waits for anything.

Torch-free. `alpenglow.parallel.step_cost` says how long a step takes; this module says how long its
parts do, one by one and stage by stage, as a recorder of spans sees them. A measured run is held
against them, and `alpenglow.parallel.shared_step` plays them on cores that ranks share.
"""

from __future__ import annotations

from dataclasses import dataclass

from alpenglow.parallel import kernels
from alpenglow.parallel.framework import Framework
from alpenglow.parallel.hardware import Hardware
from alpenglow.parallel.kernels import Kernels
from alpenglow.parallel.layer_cost import Pass, Passes, head_passes
from alpenglow.parallel.layout import Layout
from alpenglow.parallel.memory import stage_parameters
from alpenglow.parallel.schedule import chunks
from alpenglow.parallel.spans import patterns
from alpenglow.parallel.step_cost import StepCost, step_cost
from alpenglow.parallel.work import Sizes, Work


@dataclass(frozen=True)
class StepParts:
    """Seconds by stage; passes are those of one micro-batch."""

    model: Sizes
    layout: Layout
    work: Work
    stages: tuple[Passes, ...]
    """With `loss = "fused"` the head's gradients are made in its forward pass."""
    hops: tuple[float, ...]
    """A message from each stage to the next."""
    reduction: tuple[float, ...]
    """Of the gradients, all of it."""
    exposed: tuple[float, ...]
    """What of it comes behind the last pass."""
    update: tuple[float, ...]
    """The optimizer's own work."""
    gather: tuple[float, ...]
    """Of the updated weights, and the norm's two sums."""

    @property
    def schedule(self) -> str:
        """The schedule that is run: without a pipeline every one is 1F1B."""
        return self.work.schedule if self.layout.pipeline > 1 else "1f1b"

    def meetings(self, stage: int) -> tuple[int, int]:
        """Tensor-parallel collectives of a micro-batch on a stage, forward and backward."""
        layout, model = self.layout, self.model
        if layout.tensor == 1:
            return 0, 0
        layers = layout.layers_of(model.num_layers)[stage]
        forward = layers * (1 if model.use_parallel_residual else 2) + (stage == 0)
        backward = 2 * layers
        if stage == layout.pipeline - 1:
            forward, backward = forward + 3, backward + 1
        return forward, backward


def step_parts(
    model: Sizes, layout: Layout, work: Work, hardware: Hardware, how: Framework
) -> StepParts:
    """Take a step apart; arguments and errors as of `alpenglow.parallel.step_cost.step_cost`."""
    cost = step_cost(model, layout, work, hardware, how)
    stages = list(cost.replicas[0].stages)
    if work.loss == "fused":
        span = patterns(hardware, layout)[0].tensor[-1]
        head = head_passes(model, work, cost.hardware.gpu, span, how)
        made = Passes(head.inputs + head.weights, Pass(), head.inputs * -1.0, head.weights * -1.0)
        stages[-1] += made
    exposed = []
    for passes, end in zip(stages, cost.ends, strict=True):
        share = passes * (1 / chunks(work.schedule))
        last = share.weights if work.schedule == "zb-h1" else share.backward
        exposed.append(max(end.reduce - last.seconds, end.behind))
    update = updates(cost, how)
    return StepParts(
        model,
        layout,
        work,
        tuple(stages),
        cost.replicas[0].hops,
        tuple(end.reduce for end in cost.ends),
        tuple(exposed),
        tuple(update),
        tuple(e.update - own + e.gather for e, own in zip(cost.ends, update, strict=True)),
    )


def updates(cost: StepCost, how: Framework) -> list[float]:
    """Seconds of the optimizer's own work on each stage, communication left out."""
    layout, work = cost.layout, cost.work
    found = []
    for stage in range(layout.pipeline):
        parameters = stage_parameters(cost.model, layout, stage)
        shard = parameters / (layout.data if how.zero else 1)
        sizes = kernels.optimizer_bytes(parameters, shard, work.size, work.gradient_size)
        found.append(Kernels().add(*sizes).seconds(cost.hardware.gpu))
    return found
