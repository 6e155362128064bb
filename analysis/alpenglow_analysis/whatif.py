"""What one change would bring: sampled steps played again with one thing idealised.

Each scenario is the recorded step but for one thing, so gains do not add up: what two changes bring
together may be more or less than the sum. A gain is the share of the step's length that it takes
away, by the replay's own length before and after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from alpenglow.parallel.schedule import SCHEDULES
from alpenglow_analysis.causes import factors, stage_ratio
from alpenglow_analysis.replayed import NETWORK, Lengths, played, recorded
from alpenglow_analysis.run import Run
from alpenglow_analysis.sample import Sample
from alpenglow_analysis.study import Study
from alpenglow_analysis.units import amount, percent, seconds

HEAVY = 1.02
"""A stage with this many times the work of the middle one is called heavy."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scenario:
    """One change and what it would bring."""

    key: str
    label: str
    step_s: float
    """Mean length of a step with the change, s."""
    gain: float
    """Share of the step that it takes away; below 0 where it would cost."""
    equivalents: float
    """Ranks that the same tokens would need less: N x gain."""
    sentence: str
    assumes: str = ""
    """What was supposed beside what was measured."""


def scenarios(run: Run, found: Study) -> list[Scenario]:
    """Play every scenario; the biggest gain first. Empty where no step was sampled."""
    sample = found.sample
    if sample is None:
        return []
    base = float(sample.weight @ played(recorded(sample)))
    measured = sample.mean_s
    made = []
    for key, label, lengths, assumes in _changes(run, sample, found):
        took = float(sample.weight @ played(lengths)) / base
        gain, unit = 1 - took, run.facts.unit
        word = "shorter" if gain >= 0 else "longer"
        made.append(
            Scenario(
                key,
                label,
                measured * took,
                gain,
                run.facts.ranks * gain,
                f"{label}: a step of {seconds(measured * took)} instead of {seconds(measured)}, "
                f"{percent(abs(gain))} {word} "
                f"({amount(run.facts.ranks * gain)} of {run.facts.ranks:,} {unit}-equivalents).",
                assumes,
            )
        )
    return sorted(made, key=lambda scenario: -scenario.gain)


def _changes(run: Run, sample: Sample, found: Study) -> Iterator[tuple[str, str, Lengths, str]]:
    whole = recorded(sample)
    yield from _ranks(sample, whole, found)
    yield from _stages(sample, whole)
    if sample.layout.world > 1:
        yield "network", "A network without any delay", whole.without(*NETWORK), ""
    if found.links:
        named = ", ".join(link.node for link in found.links[:3])
        yield (
            "slow_links",
            f"No slow link ({named})",
            _evened(sample, whole, found),
            "messages of these nodes as quick as their peers', gradients as the middle stage's",
        )
    if whole.gradient.any():
        yield "gradient", "Gradient reduction hidden", whole.without("gradient"), ""
    if whole.load.any() or whole.head.any():
        yield "data", "No wait for data", whole.without("load", "head"), ""
    yield from _schedules(sample, whole)
    yield from _batches(run, sample, whole)


def _ranks(sample: Sample, whole: Lengths, found: Study) -> Iterator[tuple[str, str, Lengths, str]]:
    """No slow rank, no jitter, neither."""
    if sample.layout.world == 1:
        return
    own = sample.own + sample.recompute
    level = own.mean(axis=(2, 3, 5), keepdims=True)[:, :, :, 0]
    factor = factors(sample, found.episodes)
    if (factor > 1).any():
        # A tensor group goes on with its slowest rank: what that one has too much is taken away.
        saved = own.max(axis=3) - (own / factor[..., None]).max(axis=3)
        passes = np.maximum(sample.joint - saved, 0)
        yield (
            "slow_ranks",
            "No slow rank",
            replace(whole, passes=passes),
            "ranks in a slow spell compute as fast as their peers",
        )
    usual = level / factor.mean(axis=(2, 3), keepdims=True)
    steady = usual * factor.max(axis=3, keepdims=True)
    yield (
        "jitter",
        "No jitter",
        replace(whole, passes=np.broadcast_to(steady, sample.joint.shape)),
        "each pass as long as the mean of its stage, slow ranks as slow as they are",
    )
    yield (
        "no_skew",
        "No rank slower than another, no jitter",
        replace(whole, passes=np.broadcast_to(usual, sample.joint.shape)).without("load", "head"),
        "each pass as long as the mean of its stage, no waits for data",
    )


def _stages(sample: Sample, whole: Lengths) -> Iterator[tuple[str, str, Lengths, str]]:
    """Work shared out evenly, and the heaviest stage as light as the middle one."""
    if sample.layout.pipeline == 1:
        return
    ratio = stage_ratio(sample.own + sample.recompute, sample.usual)
    even = sample.joint / np.maximum(ratio, 1e-9)
    yield (
        "balanced",
        "Stages of equal work",
        replace(whole, passes=even),
        "the same work, shared out",
    )
    middle = np.median(ratio, axis=1, keepdims=True)
    heavy = np.average(ratio, axis=0, weights=sample.weight).mean(axis=(1, 2, 3))
    if heavy.max() > HEAVY * float(np.median(heavy)):
        stage = int(np.argmax(heavy))
        scale = np.minimum(1.0, middle / np.maximum(ratio, 1e-9))
        yield (
            "heavy_stage",
            f"Stage {stage} as light as the middle one",
            replace(whole, passes=sample.joint * scale),
            "what it has more is gone, not moved elsewhere",
        )


def _evened(sample: Sample, whole: Lengths, found: Study) -> Lengths:
    """Messages of slow nodes at the middle of their border, gradients at the middle stage's."""
    nodes = () if found.heat is None else found.heat.nodes
    slow = {link.node for link in found.links}
    layout = sample.layout
    down, up = whole.down.copy(), whole.up.copy()
    for border in range(layout.pipeline - 1):
        for replica in range(layout.data):
            ends = {nodes[layout.rank(border + side, replica, 0)] for side in (0, 1)}
            if ends & slow and len(ends) == 2:
                for table in (down, up):
                    middle = np.median(table[:, border], axis=1)
                    table[:, border, replica] = np.minimum(table[:, border, replica], middle)
    middle = np.median(whole.gradient.max(axis=2), axis=1)[:, None, None]
    return replace(whole, down=down, up=up, gradient=np.minimum(whole.gradient, middle))


def _schedules(sample: Sample, whole: Lengths) -> Iterator[tuple[str, str, Lengths, str]]:
    if sample.layout.pipeline == 1:
        return
    split = bool(sample.own[..., 2, :].any())
    for name in SCHEDULES:
        if name == sample.schedule:
            continue
        lengths, assumes = replace(whole, schedule=name), ""
        if name == "zb-h1" and not split:
            lengths = _halved(lengths)
            assumes = "half of a backward pass is the gradient of the weights"
        yield f"schedule_{name}", f"Schedule {name.upper()}", lengths, assumes


def _halved(lengths: Lengths) -> Lengths:
    """Whole backward passes cut into one of the input and one of the weights, of equal length."""
    passes = lengths.passes.copy()
    passes[:, :, :, 2] = passes[:, :, :, 1] = lengths.passes[:, :, :, 1] / 2
    # Collectives are in the pass of the input: the weights' gradient needs none.
    return replace(lengths, passes=passes)


def _batches(run: Run, sample: Sample, whole: Lengths) -> Iterator[tuple[str, str, Lengths, str]]:
    """Twice as many micro-batches of half the size, and the reverse, at the same global batch."""
    m, size = sample.micro_batches, run.facts.micro_batch_size
    if sample.layout.pipeline == 1:
        return
    assumes = (
        "a micro-batch's time in proportion to its size; smaller kernels may be less efficient"
    )
    if size % 2 == 0:
        yield (
            "micro_batches_double",
            f"{2 * m} micro-batches of {size // 2} in place of {m} of {size}",
            _resized(whole, 2),
            assumes,
        )
    if m % 2 == 0 and m > 2:
        yield (
            "micro_batches_half",
            f"{m // 2} micro-batches of {2 * size} in place of {m} of {size}",
            _resized(whole, 0.5),
            assumes + ", larger ones need more memory",
        )


def _resized(lengths: Lengths, times: float) -> Lengths:
    """Lengths with `times` as many micro-batches, each of the same share of the time."""

    def along(values: Floats) -> Floats:
        if times == 2:
            return np.repeat(values / 2, 2, axis=-1)
        return np.asarray(values[..., 0::2] + values[..., 1::2])

    return replace(
        lengths,
        passes=along(lengths.passes),
        tensor=along(lengths.tensor),
        down=along(lengths.down),
        up=along(lengths.up),
        load=along(lengths.load),
    )
