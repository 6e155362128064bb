"""Campaigns played through, thousands at a time: a Monte Carlo over arrays of campaigns.

    outcome = simulate(campaign, count=10_000, seed=1)

A stretch is the time from the start of ranks (of a job, or of a relaunch within one) to what ends
it: the reserve before the walltime, a failure, the last step, or the walltime itself where the
reserve is too short. Within a stretch everything is regular, so its end and all that was done until
then have closed forms; a loop over stretches takes all campaigns at once. Times are whole ns, and
the pieces of a job sum to its elapsed time exactly.

Order within a stretch, as in the trainer: start-up, reading the checkpoint (if there is one), then
steps; at the border behind a step, whether to stop; if not, the evaluation and the save that are
due. A save stops training for `save_s`; its checkpoint is durable `drain_s` later. Who stops saves
once more, waits for the drain, and leaves. Lost is what was trained beyond the newest durable
checkpoint, the step under way, and the time until the failure is noticed.

Random numbers belong to the k-th failure, the k-th job of a campaign and so on, each kind with a
stream of its own: two plans simulated with the same seed meet the same luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gamma

import numpy as np
import numpy.typing as npt

from alpenglow_analysis.campaign import PATIENCE, Campaign
from alpenglow_analysis.campaign_job import CampaignError
from alpenglow_analysis.campaign_outcome import Outcome
from alpenglow_analysis.campaign_stretch import NS, Stretch, play
from alpenglow_analysis.queue_wait import normal

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CHUNK = 2_000
"""Campaigns that are played together: their arrays stay in a processor's cache."""
NEVER = np.int64(2**62)
"""ns until a failure that does not come."""
MOST_STRETCHES = 100_000
"""A campaign of more is taken as one that never finishes."""


class Luck:
    """Numbers in (0, 1) of one kind, by campaign and by how many of the kind it had before."""

    def __init__(self, generator: np.random.Generator, count: int) -> None:
        self._generator = generator
        self._drawn = 0
        self._table = np.empty((8, count))

    def draw(self, turn: Ints, campaign: Ints) -> Floats:
        """The numbers of these campaigns at these turns."""
        wanted = int(turn.max(initial=-1)) + 1
        if wanted > len(self._table):
            rows = max(wanted, 2 * len(self._table))
            table = np.empty((rows, self._table.shape[1]))
            table[: self._drawn] = self._table[: self._drawn]
            self._table = table
        while self._drawn < wanted:
            # 1 - [0, 1): never 0, whose logarithm is taken.
            self._table[self._drawn] = 1.0 - self._generator.random(self._table.shape[1])
            self._drawn += 1
        return np.asarray(self._table[turn, campaign])


@dataclass
class Chance:
    """All that is random in a chunk of campaigns."""

    campaign: Campaign
    failures: Luck
    queues: Luck
    slow_count: Luck
    slow_length: Luck
    factor: Floats
    """[campaigns]: what the step really takes, as a multiple of what was predicted."""

    @classmethod
    def of(cls, campaign: Campaign, count: int, seed: np.random.SeedSequence) -> Chance:
        """Make the streams."""
        streams = [np.random.default_rng(child) for child in seed.spawn(5)]
        sigma = campaign.work.sigma
        uniform = 1.0 - streams[4].random(count)
        factor = np.exp(sigma * normal(uniform)) if sigma else np.ones(count)
        failures, queues, many, long = (Luck(stream, count) for stream in streams[:4])
        return cls(campaign, failures, queues, many, long, factor)

    def gap(self, turn: Ints, who: Ints) -> Ints:
        """Running time until the next failure, ns."""
        mean, shape = self.campaign.mean_time_s, self.campaign.hazards.shape
        if mean is None:
            return np.full(len(who), NEVER)
        scale = mean / gamma(1 + 1 / shape)
        gaps = scale * (-np.log(self.failures.draw(turn, who))) ** (1 / shape)
        return np.asarray(np.minimum(gaps * NS, float(NEVER)).astype(np.int64))

    def wait(self, turn: Ints, who: Ints) -> Ints:
        """Time in the queue, ns."""
        return np.asarray((self.campaign.wait.seconds(self.queues.draw(turn, who)) * NS).astype(
            np.int64
        ))  # fmt: skip

    def slow_share(self, turn: Ints, who: Ints, ahead: Ints) -> Floats:
        """Share of the coming stretch, `ahead` ns at most, in which a node is slow.

        Episodes come as a Poisson process and last exponential times; within a stretch they are
        taken as spread evenly over it, so that all its steps are as slow as the mean one.
        """
        hazards = self.campaign.hazards
        if hazards.slow_node_hours is None:
            return np.zeros(len(who))
        hours = ahead / (3600 * NS)
        expected = hours * self.campaign.job.training / hazards.slow_node_hours
        uniform = self.slow_count.draw(turn, who)
        # Poisson by inversion: how many terms of the distribution lie below the number.
        term = np.exp(-np.minimum(expected, 700.0))
        below, episodes = term.copy(), np.zeros(len(who))
        for k in range(1, 1 + int(20 + 10 * float(expected.max(initial=0.0)))):
            more = uniform > below
            if not more.any():
                break
            episodes += more
            term = term * expected / k
            below += term
        # Lengths of so many episodes together: the Wilson-Hilferty form of a gamma variate.
        some = np.maximum(episodes, 1.0)
        normals = normal(self.slow_length.draw(turn, who))
        sums = some * np.maximum(0.0, 1 - 1 / (9 * some) + normals / (3 * np.sqrt(some))) ** 3
        total = np.where(episodes > 0, sums, 0.0) * hazards.slow_hours
        return np.asarray(np.minimum(1.0, total / np.maximum(hours, 1e-9)))


def simulate(campaign: Campaign, count: int = 10_000, seed: int = 1) -> Outcome:
    """Play a campaign `count` times.

    Args:
        campaign: what to play.
        count: how often.
        seed: the same seed gives the same outcome, to the ns.

    Raises:
        CampaignError: count is not above 0, or a run does not finish.
    """
    if count < 1 or seed < 0:
        raise CampaignError(
            f"{count} campaigns, seed {seed}: at least one must be played, and a seed is 0 or more"
        )
    chunks = [min(CHUNK, count - first) for first in range(0, count, CHUNK)]
    seeds = np.random.SeedSequence(seed).spawn(len(chunks))
    played = [_chunk(campaign, n, child) for n, child in zip(chunks, seeds, strict=True)]
    return Outcome.joined(campaign, played)


def _chunk(campaign: Campaign, count: int, seed: np.random.SeedSequence) -> Outcome:
    chance = Chance.of(campaign, count, seed)
    rules = Stretch.of(campaign)
    step = np.maximum(1, np.rint(campaign.work.step_s * chance.factor * NS)).astype(np.int64)
    out = Outcome.empty(campaign, count, step)
    walltime = round(campaign.job.walltime_s * NS)
    detect = round(campaign.overheads.detect_s * NS)
    spares = campaign.job.spare if campaign.hazards.relaunch else 0

    live = np.arange(count)
    durable = np.zeros(count, np.int64)
    left = np.full(count, walltime)
    fails_in = chance.gap(np.zeros(count, np.int64), live)
    spare = np.full(count, spares, np.int64)
    turn = np.zeros(count, np.int64)
    out.wait_ns[:] = chance.wait(np.zeros(count, np.int64), live)
    out.segments[:] = 1
    for _ in range(MOST_STRETCHES):
        if not len(live):
            break
        done, room = durable[live], left[live]
        share = chance.slow_share(turn[live], live, room)
        turn[live] += 1
        now = step[live]
        slowed = now + np.rint(now * share * (campaign.hazards.slow_factor - 1)).astype(np.int64)
        got = play(rules, now, slowed, done, room, fails_in[live])
        for key, ns in got.pieces.items():
            out.pieces[key][live] += ns
        durable[live] = done + got.gained
        out.lost_steps[live] += got.lost_steps
        room = room - got.elapsed
        fails_in[live] -= got.elapsed

        # Who has failed stands still until that is noticed, or the walltime comes.
        failed = got.failed
        noticed = np.where(failed, np.minimum(detect, room), 0)
        out.pieces["lost"][live] += noticed
        room = room - noticed
        out.failures[live] += failed
        hit = live[failed]
        fails_in[hit] = chance.gap(out.failures[hit], hit)
        out.elapsed_ns[live] += got.elapsed + noticed
        out.killed[live] += got.killed

        finished = durable[live] >= rules.steps
        again = failed & ~finished & (spare[live] > 0) & (room > rules.least(slowed))
        spare[live[again]] -= 1
        out.relaunches[live[again]] += 1
        left[live] = room
        live = live[~finished]
        queued = live[~again[~finished]]
        out.wait_ns[queued] += chance.wait(out.segments[queued], queued)
        out.segments[queued] += 1
        left[queued] = walltime
        spare[queued] = spares
    else:
        mean = campaign.mean_time_s
        raise CampaignError(
            f"{len(live)} of {count} runs had not finished after {MOST_STRETCHES:,} starts: too "
            f"little is gained between failures (every {(mean or 0) / 3600:.3g} h); save more "
            f"often, or use fewer nodes (limit: {PATIENCE:g} starts for a checkpoint)"
        )
    return out
