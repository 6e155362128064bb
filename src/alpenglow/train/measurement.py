"""What a segment measures beside its spans: samples of each node, and clocks between nodes.

    measurement = Measurement.begin(recipe.measure, ranks, run, group)   # collective
    ...
    measurement.end()                                                    # collective
    measurement.keep()                                                   # the group may be gone

Clocks are exchanged at both ends, and at the end only where all ranks came to it together: after a
rank has died nobody calls `end`. The exchange itself waits for nobody for longer than some seconds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from alpenglow.train.checkpoint_group import Group
from alpenglow.train.measure_recipe import MeasureRecipe
from alpenglow.train.run_directory import RunDirectory
from alpenglow_lsf.ranks import Ranks
from alpenglow_profiling.clock_exchange import ExchangePoint, Offer, answer, append
from alpenglow_profiling.sampler import Sampler
from alpenglow_profiling.samples import merge

LOG = logging.getLogger(__name__)


class Measurement:
    """This rank's part of it.

    Args:
        ranks: which rank this is.
        run: where to write.
        group: all ranks.
        sampler: samples this node; None on all ranks of a node but one, or where none is wanted.
    """

    def __init__(
        self, ranks: Ranks, run: RunDirectory, group: Group, sampler: Sampler | None
    ) -> None:
        self._ranks = ranks
        self._run = run
        self._group = group
        self._sampler = sampler

    @classmethod
    def begin(
        cls, recipe: MeasureRecipe, ranks: Ranks, run: RunDirectory, group: Group
    ) -> Measurement:
        """Exchange clocks and start to sample; collective."""
        hosts_pids = exchange(ranks, run.events, group)
        own = [rank for rank, (host, _) in enumerate(hosts_pids) if host == ranks.host]
        sampler = None
        if recipe.sample_seconds and own[0] == ranks.rank:
            try:
                sampler = Sampler(
                    run.samples,
                    ranks.host,
                    period_s=recipe.sample_seconds,
                    pids=[hosts_pids[rank][1] for rank in own],
                )
            except OSError as error:
                LOG.warning("this node is not sampled: %s", error)
        return cls(ranks, run, group, sampler)

    def end(self) -> None:
        """Exchange clocks again and take the last sample; collective, all ranks alive."""
        exchange(self._ranks, self._run.events, self._group)
        if self._sampler is not None:
            self._sampler.close()

    def keep(self) -> None:
        """Make this node's file of samples; what fails is left to the next reader."""
        if self._sampler is None:
            return
        try:
            merge(self._run.samples, node=self._ranks.host, remove_log=True)
        except OSError as error:
            LOG.warning("samples of this node stay in its log: %s", error)


def exchange(ranks: Ranks, directory: Path, group: Group) -> Sequence[tuple[str, int]]:
    """Measure the clocks of all nodes against rank 0's; collective.

    Args:
        ranks: which rank this is.
        directory: `events/SEGMENT` of the run.
        group: all ranks.

    Returns:
        Host and process of every rank.
    """
    point = _point() if ranks.rank == 0 and ranks.world_size > ranks.local_size else None
    offer: Offer | None = None if point is None else point.offer
    told = group.all_gather_object((ranks.host, os.getpid(), offer))
    hosts = [host for host, _, _ in told]
    offer = told[0][2]
    leader = hosts.index(ranks.host) == ranks.rank
    if point is not None:
        found, missing = point.measure(set(hosts) - {ranks.host})
        try:
            append(directory, ranks.host, found, missing)
        except OSError as error:
            LOG.warning("the clocks of the nodes were measured, but not written down: %s", error)
    elif offer is not None and leader and ranks.rank != 0:
        answer(ranks.master_address, offer, ranks.host)
    return [(host, pid) for host, pid, _ in told]


def _point() -> ExchangePoint | None:
    try:
        return ExchangePoint()
    except OSError as error:
        LOG.warning("the clocks of the nodes are not measured: %s", error)
        return None
