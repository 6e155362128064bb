"""DeepSpeed's pipeline on a layout of ours: which rank is where, which slots a stage has.

DeepSpeed reads everything from its topology's mapping of coordinates to ranks (process groups,
peers of p2p, checkpoint names), so a mapping of our own is followed by all of it.
"""

from __future__ import annotations

from typing import Any

from deepspeed.pipe import PipelineModule
from deepspeed.runtime.pipe.topology import ProcessTopology

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.split import bounds


class LayoutTopology(ProcessTopology):
    """A topology with the ranks of `layout`; axes pipe, data and model, as DeepSpeed names them."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(
            axes=["pipe", "data", "model"], dims=[layout.pipeline, layout.data, layout.tensor]
        )
        self.mapping = {
            self.ProcessCoord(*layout.coordinates(rank)): rank for rank in range(layout.world)
        }


class SplitPipeline(PipelineModule):
    """A pipeline module whose stages hold the layers that `layout` gives them.

    DeepSpeed's own methods cannot say this: its split by type takes every layer for equal, that by
    parameters builds the whole model on every rank to count.

    Args:
        layout: how ranks and layers are laid out.
        layers: the slots of alpenglow.model.stages.layer_specs.
        num_layers: transformer layers among them.
        options: as PipelineModule's.
    """

    def __init__(self, layout: Layout, layers: list[Any], num_layers: int, **options: Any) -> None:
        self.bounds = bounds(layout.layers_of(num_layers))
        super().__init__(layers, topology=LayoutTopology(layout), **options)

    def _partition_layers(self, method: str = "") -> None:
        """Set this rank's slots; called by DeepSpeed, whose `method` does not matter."""
        del method
        assert self.bounds[-1] == self._num_layers, "slots and bounds are of two models"
        self.parts = self.bounds
        stage = self._topo.get_coord(self.global_rank).pipe
        self._set_bounds(start=self.parts[stage], stop=self.parts[stage + 1])
