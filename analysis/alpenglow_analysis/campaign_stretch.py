"""One stretch of a campaign's job: what it gains until its clean end, a failure or the walltime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.campaign import Campaign

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
NS = 1_000_000_000


@dataclass(frozen=True)
class Stretch:
    """The rules of a campaign's stretches; ns and steps."""

    steps: int
    startup: int
    read: int
    save: int
    drain: int
    leave: int
    reserve: int
    interval: int
    evaluate_every: int
    """0: never."""
    evaluate: int

    @classmethod
    def of(cls, campaign: Campaign) -> Stretch:
        """Read them off a campaign."""
        own = campaign.overheads
        return cls(
            steps=campaign.work.full_steps,
            startup=round(own.startup_s * NS),
            read=round(own.read_s * NS),
            save=round(own.save_s * NS),
            drain=round(own.drain_s * NS),
            leave=round(own.leave_s * NS),
            reserve=round(campaign.reserve_s * NS),
            interval=max(1, round(campaign.interval_s * NS)),
            evaluate_every=own.evaluate_every if campaign.evaluate_s > 0 else 0,
            evaluate=round(campaign.evaluate_s * NS),
        )

    def least(self, step: Ints) -> Ints:
        """Time from which on a start gains a durable step."""
        last = self.save + self.drain + self.leave
        return np.asarray(self.startup + self.read + step + max(self.reserve, last))

    def evaluations(self, done: Ints, n: Ints) -> Ints:
        """Evaluations at the borders behind the first `n` steps of a stretch."""
        if not self.evaluate_every:
            return np.zeros_like(done)
        return (done + n) // self.evaluate_every - done // self.evaluate_every


@dataclass(frozen=True)
class Played:
    """What became of a stretch; all [campaigns]."""

    elapsed: Ints
    """ns until its end: a clean one, the failure, or the walltime."""
    gained: Ints
    """Steps that are durable."""
    lost_steps: Ints
    """Whole steps that are not."""
    failed: Bools
    killed: Bools
    """By the walltime, before the last checkpoint was durable or the job had left."""
    pieces: dict[str, Ints]
    """ns by piece; they sum to `elapsed`."""


def play(
    rules: Stretch, nominal: Ints, step: Ints, done: Ints, left: Ints, fails_in: Ints
) -> Played:
    """Play one stretch of many campaigns.

    Args:
        rules: of the campaign.
        nominal: ns of a step with no slow node.
        step: ns of a step in this stretch, not below `nominal`.
        done: durable steps before.
        left: ns until the walltime.
        fails_in: ns until the next failure.
    """
    k = np.maximum(1, -(-rules.interval // step))
    read = np.where(done > 0, rules.read, 0)
    ahead = rules.startup + read

    def finished(n: Ints) -> Ints:
        """When step n has ended, ns after `ahead`, with all that came between steps before."""
        before = np.maximum(n - 1, 0)
        between = before // k * rules.save + rules.evaluations(done, before) * rules.evaluate
        return np.asarray(n * step + between)

    # The stop: the first border at which less than the reserve is left, or nothing is to do.
    todo = rules.steps - done
    limit = left - ahead - rules.reserve
    last = np.minimum(todo, _first(finished, limit, np.maximum(limit, 0) // step + 1))
    end = ahead + finished(last)
    clean = end + rules.save + rules.drain + rules.leave
    cut = np.minimum(left, fails_in)
    whole = clean <= cut
    elapsed = np.where(whole, clean, cut)

    # Steps that had ended when it was cut, and the time since the end of the newest.
    inside = np.clip(elapsed - ahead, 0, None)
    steps = np.minimum(last, _first(finished, inside, last) - 1)
    steps = np.where(finished(last) <= inside, last, steps)
    since = inside - finished(steps)
    at_last = steps == last
    some = steps > 0
    due = rules.evaluations(done, steps) - rules.evaluations(done, np.maximum(steps - 1, 0))
    due = np.where(some & ~at_last, due, 0)
    evaluating = np.minimum(since, due * rules.evaluate)
    since -= evaluating
    saving = np.where(some & ~at_last & (steps % k == 0), rules.save, 0)
    saving = np.where(at_last, rules.save + rules.drain, saving)
    saving = np.minimum(since, saving)
    since -= saving
    leaving = np.where(at_last, since, 0)
    partial = since - leaving

    # What is durable: the last save once drained, else the newest periodic one that is.
    saves = np.where(at_last, np.maximum(last - 1, 0), steps) // k
    border = saves * k
    at = finished(border) + rules.evaluate * (
        rules.evaluations(done, border) - rules.evaluations(done, np.maximum(border - 1, 0))
    )
    fresh = inside >= at + rules.save + rules.drain
    gained = np.where(saves > 0, (saves - ~fresh) * k, 0)
    sealed = at_last & (inside >= finished(last) + rules.save + rules.drain)
    gained = np.where(sealed, last, gained)

    failed = ~whole & (fails_in <= left)
    before = np.maximum(steps - 1, 0)
    pieces = {
        "startup": np.minimum(elapsed, rules.startup),
        "restart": np.clip(elapsed - rules.startup, 0, read),
        "lost": (steps - gained) * step + partial,
        "checkpoint": before // k * rules.save + saving,
        "evaluate": rules.evaluations(done, before) * rules.evaluate + evaluating,
        "launch": leaving,
        "slow_ranks": gained * (step - nominal),
        "steps": gained * nominal,
    }
    return Played(elapsed, gained, steps - gained, failed, ~whole & ~failed, pieces)


def _first(finished: Callable[[Ints], Ints], limit: Ints, high: Ints) -> Ints:
    """The smallest n from 1 to `high` with finished(n) > limit; `high` where there is none.

    `finished` rises; the search halves the range of all campaigns at once.
    """
    low, high = np.ones_like(high), np.maximum(high, 1)
    while (low < high).any():
        middle = (low + high) // 2
        beyond = finished(middle) > limit
        high = np.where(beyond, middle, high)
        low = np.where(beyond, low, middle + 1)
    return high
