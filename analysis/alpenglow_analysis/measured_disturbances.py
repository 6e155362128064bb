"""What disturbed a run, as distributions that another run may be simulated with.

- Jitter: how far passes of one rank differ between micro-batches of one step, own time and
  recomputation, all ranks and sampled steps pooled. Rare pauses are in it.
- Slow nodes and GPUs: their slow spells (`episodes.py`), as a share of all nodes x steps, and the
  factors in them.
- Slow links: nodes with slow messages (`slow_links.py`), likewise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alpenglow.parallel.disturbance import Disturbance, Jitter, SlowLinks, SlowRanks, Spread
from alpenglow_analysis.run import Run
from alpenglow_analysis.sample import Sample
from alpenglow_analysis.segment import RunError
from alpenglow_analysis.study import Study


def measured(run: Run, found: Study) -> tuple[Disturbance, ...]:
    """Say what disturbed a run.

    Args:
        run: the run.
        found: its study.

    Raises:
        RunError: none of its steps has the spans of all ranks.
    """
    if found.sample is None or found.heat is None:
        raise RunError(f"{run.path}: no step has the spans of all ranks: nothing tells its jitter")
    source = f"measured in {run.path}"
    steps, nodes = len(found.heat.step), len(set(found.heat.nodes))
    made: list[Disturbance] = []
    whole = [(one.factor, one.steps) for one in found.episodes if one.whole_node]
    if whole:
        share = sum(count for _, count in whole) / (steps * nodes)
        made.append(SlowRanks(min(1.0, share), _spread(whole), source=source))
    single = [
        (one.factor, one.steps * len(one.ranks)) for one in found.episodes if not one.whole_node
    ]
    if single:
        share = sum(count for _, count in single) / (steps * len(found.heat.nodes))
        made.append(SlowRanks(min(1.0, share), _spread(single), per="gpu", source=source))
    jitter = variation(found.sample)
    if jitter > 0:
        made.append(Jitter(min(2.0, jitter), source=source))
    if found.links:
        first, last = int(found.heat.step[0]), int(found.heat.step[-1])
        slow = [
            (link.factor, (link.last_step - link.first_step + 1) / (last - first + 1))
            for link in found.links
        ]
        share = sum(part for _, part in slow) / nodes
        made.append(SlowLinks(min(1.0, share), _spread(slow), source=source))
    return tuple(made)


def variation(sample: Sample) -> float:
    """Coefficient of variation of a pass: between micro-batches of a rank and step."""
    own = sample.own + sample.recompute  # [n, S, D, T, 3, M]
    if own.shape[-1] < 2:
        return 0.0
    mean = own.mean(axis=-1)
    level = float(np.square(mean).sum())
    return float(np.sqrt(own.var(axis=-1, ddof=1).sum() / level)) if level else 0.0


def _spread(found: Sequence[tuple[float, float]]) -> Spread:
    """Factors with their weights as a distribution: eleven quantiles, or a fixed value."""
    factors, weights = (np.array(column) for column in zip(*sorted(found), strict=True))
    middle = (np.cumsum(weights) - weights / 2) / weights.sum()
    if len(factors) == 1:
        return Spread((max(1.0, float(factors[0])),))
    points = np.interp(np.linspace(0, 1, 11), middle, factors)
    return Spread(tuple(max(1.0, point) for point in points.tolist()))
