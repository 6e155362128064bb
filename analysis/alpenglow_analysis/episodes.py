"""When a node or a rank was slow: from which step to which, and by how much.

The heat of a node is the median over its ranks, step by step: near 1, and higher by a steady factor
while the node is slow. An episode is the interval in which that excess adds up to most (the maximal
sum of Bentley 1984, after a level of half the excess is taken away, which is where a change point
between two levels lies); what is left on either side is searched again. A rank is named by itself
where its node as a whole is not slow.

So many intervals of so many series are looked at that noise alone makes some stand out: the mean of
an episode of k steps must exceed sqrt(2 ln n) of its standard error s / sqrt(k), where n is their
number (the largest of n normal values is about that, so chance makes about one in a run).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.heat import Heat

LEAST_EXCESS = 0.03
"""A node within 3 % of its peers is not called slow."""
SHORTEST = 3
"""Steps; a shorter spell is jitter."""
MOST = 200
"""Episodes that are looked for in all."""

Series = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Episode:
    """A node, or one rank of it, that computed slower than its peers for a while."""

    node: str
    ranks: tuple[int, ...]
    whole_node: bool
    first_step: int
    last_step: int
    steps: int
    """Steps of it that count."""
    factor: float
    """Mean compute time over that of the peers."""
    whole_run: bool
    """It was slow from the first recorded step to the last."""

    @property
    def excess(self) -> float:
        """Steps' worth of compute lost by each of its ranks."""
        return self.steps * (self.factor - 1)

    @property
    def where(self) -> str:
        """The node, or the rank on it."""
        if self.whole_node:
            return self.node
        named = ", ".join(map(str, self.ranks))
        return f"rank {named} on {self.node}" if self.node != "unknown" else f"rank {named}"


def episodes(heat: Heat) -> list[Episode]:
    """Find slow nodes and ranks, the one that lost most first."""
    ratio = heat.ratio.astype(np.float64)
    steps, ranks = ratio.shape
    doubt = math.sqrt(2 * math.log(max(2, ranks * steps * steps / 2)))
    by_node: dict[str, list[int]] = {}
    for rank, node in enumerate(heat.nodes):
        by_node.setdefault(node, []).append(rank)
    found: list[Episode] = []
    names = [node for node, of in by_node.items() if node != "unknown" and len(of) > 1]
    series = [_quantile(ratio[:, by_node[node]], 0.25) for node in names]
    for i in np.flatnonzero(_suspicious(np.array(series).T, doubt)).tolist() if names else []:
        of = by_node[names[i]]
        for begin, end, _ in _spells(series[i], doubt):
            # All but every rank of it is slow, or the quarter that is least so would not be.
            factor = float(np.nanmean(ratio[begin:end, of]))
            found.append(_episode(heat, of, True, begin, end, factor))
            ratio[begin:end, of] = np.nan
    for rank in np.flatnonzero(_suspicious(ratio, doubt)).tolist():
        whole = len(by_node[heat.nodes[rank]]) == 1
        for begin, end, factor in _spells(ratio[:, rank], doubt):
            found.append(_episode(heat, [rank], whole, begin, end, factor))
    found.sort(key=lambda one: -one.excess * len(one.ranks))
    return found[:MOST]


def _episode(
    heat: Heat, ranks: list[int], whole_node: bool, begin: int, end: int, factor: float
) -> Episode:
    return Episode(
        node=heat.nodes[ranks[0]],
        ranks=tuple(ranks),
        whole_node=whole_node,
        first_step=int(heat.step[begin]),
        last_step=int(heat.step[end - 1]),
        steps=end - begin,
        factor=factor,
        whole_run=begin == 0 and end == len(heat.step),
    )


def _quantile(values: Series, q: float) -> Series:
    """[steps]: lower quantile over ranks, nan where one is not known."""
    return np.asarray(np.sort(values, axis=1)[:, int(q * values.shape[1])])


def _suspicious(ratio: Series, doubt: float) -> npt.NDArray[np.bool_]:
    """[series]: those in which the mean over some window stands out, worth a full search."""
    steps = len(ratio)
    values = np.nan_to_num(ratio - 1.0)
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    noise = _noise(ratio)
    found = np.zeros(values.shape[1], bool)
    for window in sorted({min(steps, w) for w in (SHORTEST, 8, 32, 128, 512, steps)}):
        most = (total[window:] - total[:-window]).max(axis=0) / window
        # Windows of these lengths cover an episode to two thirds at least.
        found |= most > 0.6 * np.maximum(LEAST_EXCESS, doubt * noise / np.sqrt(window))
    return found


def _noise(series: Series) -> Series:
    """Noise from step to step of each column, whatever its level: changes of level are few."""
    if len(series) < 2:
        return np.zeros(series.shape[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a rank that is never known
        spread = np.nanmedian(np.abs(np.diff(series, axis=0)), axis=0)
    return np.asarray(np.nan_to_num(spread) / (0.6745 * np.sqrt(2)))


def _spells(series: Series, doubt: float) -> Iterator[tuple[int, int, float]]:
    """Intervals [begin, end) of a series about 1 in which it is higher, and its mean there."""
    known = np.flatnonzero(~np.isnan(series))
    if not len(known):
        return
    values = series[known] - 1
    noise = float(_noise(series[:, None])[0])
    pending = [(0, len(values))]
    while pending:
        left, right = pending.pop()
        spell = _best(values[left:right])
        if spell is None:
            continue
        begin, end, excess = left + spell[0], left + spell[1], spell[2]
        if end - begin < min(SHORTEST, len(values)) or excess < _level(doubt * noise, end - begin):
            continue
        yield int(known[begin]), int(known[end - 1]) + 1, 1 + excess
        pending += [(left, begin), (end, right)]


def _level(noise: float, steps: int) -> float:
    return float(max(LEAST_EXCESS, noise / np.sqrt(steps)))


def _best(values: Series) -> tuple[int, int, float] | None:
    """The interval whose excess over half of its own level adds up to most."""
    if not len(values):
        return None
    level = LEAST_EXCESS
    best: tuple[int, int] | None = None
    for _ in range(8):  # the level settles within a few rounds
        interval = _maximal_sum(values - level / 2)
        if interval is None:
            return None if best is None else (*best, float(values[slice(*best)].mean()))
        if interval == best:
            break
        best = interval
        level = max(LEAST_EXCESS, float(values[slice(*interval)].mean()))
    assert best is not None
    return (*best, float(values[slice(*best)].mean()))


def _maximal_sum(values: Series) -> tuple[int, int] | None:
    """The interval [begin, end) with the largest sum; None where no value is above 0."""
    if not (values > 0).any():
        return None
    total = np.concatenate([[0.0], np.cumsum(values)])
    lowest = np.minimum.accumulate(total)
    end = int(np.argmax(total - lowest))
    begin = int(np.argmin(total[: end + 1]))
    return begin, end
