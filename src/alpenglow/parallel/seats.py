"""Which rank, and which node, is where in a layout, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.layout import Layout

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Seats:
    """Which rank, and which node, is where in the layout."""

    rank: Numbers
    """[stages, tensor, data]"""
    node: Numbers
    """[stages, tensor, data]"""

    @classmethod
    def of(cls, layout: Layout, ranks_per_node: int) -> Seats:
        """Find every rank of a layout; nodes are filled one after the other."""
        places: Numbers = np.arange(layout.world, dtype=np.int64)
        if layout.order == "pipe-major":
            places = places.reshape(layout.pipeline, layout.data, layout.tensor)
        else:
            shape = layout.data, layout.pipeline, layout.tensor
            places = places.reshape(shape).swapaxes(0, 1)
        stage_at = np.array(layout.seats or range(layout.pipeline))
        rank = np.ascontiguousarray(places[np.argsort(stage_at)].swapaxes(1, 2))
        return cls(rank, rank // ranks_per_node)

    def near(self) -> npt.NDArray[np.bool_]:
        """[stages - 1, data]: whether a stage and the next share a node, all tensor ranks."""
        return np.asarray((self.node[:-1] == self.node[1:]).all(axis=1))

    def on(self, node: int) -> npt.NDArray[np.bool_]:
        """[stages, tensor, data]: who sits on a node."""
        return np.asarray(self.node == node)
