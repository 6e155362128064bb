"""Why ranks wait within steps: ordered replays, each with one more cause than the one before.

    bubble      all passes of a kind as long as their mean, no network: what the schedule itself
                idles (POP's serialisation)
    imbalance   each stage's own mean
    slow ranks  each rank's own factor, where it or its node was slow for a while (`episodes.py`)
    jitter      each pass as it was, who waits for whom inside a tensor group included
    data        the waits for data
    tensor, p2p, gradient   transfers: of collectives in passes, between stages, of gradients
    optimizer   the optimizer step from the last arrival on

A cause is charged what its replay takes longer than the one before, times all ranks. What the whole
step takes beyond the last replay (the host's work between operations, what the replay does not
model) is `unexplained`; it may be below 0 and is never hidden. With this order the rows of a step
are its length times all ranks less its compute, exactly. In another order single rows would differ,
their sum would not: what taking one cause away alone would bring is `whatif.py`'s.

The method of replaying a recorded schedule with idealised parts is that of Lin et al. 2025
(Understanding Stragglers in Large Model Training Using What-if Analysis, OSDI'25).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.episodes import Episode
from alpenglow_analysis.replayed import bare, played, recorded, spread
from alpenglow_analysis.sample import Sample

Floats = npt.NDArray[np.float64]

CAUSES = (
    "bubble", "imbalance", "slow_ranks", "jitter", "data", "tensor", "p2p", "gradient",
    "optimizer", "unexplained",
)  # fmt: skip
"""In the order of the replays."""
FEW = 8
"""Fewer steps than this give no regression."""


@dataclass(frozen=True)
class Causes:
    """What each cause takes of each step of a sample."""

    ns: dict[str, Floats]
    """[n] by cause: ns of all ranks. They sum to `waiting`."""
    waiting: Floats
    """[n]: length of the step times all ranks, less compute and recomputation."""
    played: dict[str, Floats]
    """[n]: length of the step in the replay in which each cause came in, in ns."""

    def expected(self, like: npt.NDArray[np.bool_], waiting: float) -> dict[str, float]:
        """What each cause takes of a step like some that were replayed, ns.

        By linear regression of each cause on the waiting of the step over these (the slopes sum to
        1, so the causes sum to the waiting): that like steps differ in waiting is mostly jitter, of
        which a sample has more or less than the whole by chance. With few steps, or such as hardly
        differ, all causes are in proportion.

        Args:
            like: [n]: which of the replayed steps.
            waiting: ns that all ranks wait in the step, or in the mean of some.
        """
        seen = self.waiting[like]
        mean = float(seen.mean())
        away = seen - mean
        spread = float((away**2).sum())
        found = {}
        for cause, ns in self.ns.items():
            average = float(ns[like].mean())
            if len(seen) >= FEW and spread > (1e-6 * mean) ** 2 * len(seen):
                slope = float((away * ns[like]).sum()) / spread
            else:
                slope = average / mean if mean else 0.0
            found[cause] = average + slope * (waiting - mean)
        return found


def causes(sample: Sample, slow: Sequence[Episode] = ()) -> Causes:
    """Replay the steps of a sample.

    Args:
        sample: the steps.
        slow: nodes and ranks that were slow, and when.
    """
    own = sample.own + sample.recompute  # [n, S, D, T, 3, M]
    whole = recorded(sample)
    mean = own.mean(axis=(1, 2, 3, 5), keepdims=True)[:, :, :, 0]
    by_stage = mean * stage_ratio(own, sample.usual)
    factor = factors(sample, slow)
    # A stage's mean holds its slow ranks already: they are taken out before each gets its own.
    usual = factor.mean(axis=(2, 3), keepdims=True)
    by_rank = by_stage / usual * factor.max(axis=3, keepdims=True)
    chain = {
        "bubble": bare(sample, spread(mean, sample)),
        "imbalance": bare(sample, spread(by_stage, sample)),
        "slow_ranks": bare(sample, spread(by_rank, sample)),
        "jitter": bare(sample, sample.joint),
        "data": whole.without("tensor", "down", "up", "gradient", "optimizer"),
        "tensor": whole.without("down", "up", "gradient", "optimizer"),
        "p2p": whole.without("gradient", "optimizer"),
        "gradient": whole.without("optimizer"),
        "optimizer": whole,
    }
    lasted = {cause: played(lengths) for cause, lengths in chain.items()}
    ranks = sample.layout.world
    busy = sample.busy.sum(axis=(1, 2, 3))
    ns: dict[str, Floats] = {}
    before = busy / ranks
    for cause, took in lasted.items():
        ns[cause] = ranks * (took - before)
        before = took
    ns["unexplained"] = ranks * (sample.duration - before)
    return Causes(ns, ranks * sample.duration - busy, lasted)


def stage_ratio(own: Floats, usual: npt.NDArray[np.bool_]) -> Floats:
    """[n, S, 1, 3, 1]: mean pass of each stage over that of all.

    That of ordinary steps is the mean of them all, so that chance is not taken for imbalance.

    Args:
        own: [n, S, D, T, 3, M].
        usual: [n]
    """
    by_stage = own.mean(axis=(2, 3, 5))
    whole = by_stage.mean(axis=1, keepdims=True)
    ratio = np.divide(by_stage, whole, out=np.ones_like(by_stage), where=whole > 0)
    if usual.any():
        ratio[usual] = ratio[usual].mean(axis=0)
    return np.asarray(ratio[:, :, None, :, None])


def factors(sample: Sample, slow: Sequence[Episode]) -> Floats:
    """[n, S, D, T, 1]: how many times as long as its peers a rank computes, by its episodes."""
    layout = sample.layout
    shape = (len(sample), layout.pipeline, layout.data, layout.tensor, 1)
    found = np.ones(shape)
    for one in slow:
        during = (sample.step >= one.first_step) & (sample.step <= one.last_step)
        for rank in one.ranks:
            stage, data, tensor = layout.coordinates(rank)
            place = found[during, stage, data, tensor, 0]
            found[during, stage, data, tensor, 0] = np.maximum(place, one.factor)
    return found


__all__ = ["CAUSES", "Causes", "causes", "factors"]
