"""Ideal versus actual tokens/s, every ideal with its baseline named.

The ideals come from the run itself: what its own forward and backward passes would give if nothing
made a rank wait. How fast those passes should be is another question, answered by MFU where the
machine's peak is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alpenglow_analysis.bubble import in_words, schedule_name
from alpenglow_analysis.run import Run
from alpenglow_analysis.study import Study
from alpenglow_analysis.utilisation import Account


@dataclass(frozen=True)
class Rate:
    """One bar of the comparison."""

    key: str
    label: str
    baseline: str
    """What this rate is, in one sentence."""
    tokens_per_s: float
    measured: bool


@dataclass(frozen=True)
class Utilisation:
    """Model FLOP/s utilisation at the median step, by one definition of model FLOPs."""

    formula: str
    flops_per_token: float
    fraction: float | None
    """Of the ranks' peak; None where the peak is unknown."""
    flops_per_s: float
    """Model FLOP/s of all ranks together."""
    hardware_fraction: float | None = None
    """HFU: the same with what recomputation adds; None where nothing was recomputed or the peak is
    unknown."""


def rates(run: Run, account: Account, found: Study | None = None) -> list[Rate]:
    """Ideal and actual tokens/s, the most ideal first; those that cannot be known are left out.

    Args:
        run: the run.
        account: its account.
        found: its study; None leaves the replay's rate out.
    """
    facts = run.facts
    unit = facts.unit
    known: list[Rate] = []
    if facts.peak_flops_per_rank and facts.flops_per_token:
        known.append(
            Rate(
                "peak",
                "Peak FLOP/s",
                f"all {facts.ranks} {unit}s at their peak of "
                f"{facts.peak_flops_per_rank / 1e12:.4g} TFLOP/s, all the time",
                facts.ranks * facts.peak_flops_per_rank / facts.flops_per_token,
                False,
            )
        )
    if len(account.step_s):
        compute = float(np.median(account.compute_s))
        step = float(np.median(account.step_s))
        if compute > 0:
            known += _ideals(run, account, compute)
        known += _model(run, account, found)
        known.append(
            Rate(
                "steps",
                "Actual, median step",
                f"measured: tokens of a step / median duration of {len(account.step_s)} steps",
                float(np.median(run.tokens(account.step))) / step,
                True,
            )
        )
    elapsed = sum(segment.elapsed_ns for segment in run.segments) / 1e9
    counted = max(run.metrics.step, account.step, key=len)
    tokens = float(run.tokens(counted).sum())
    if elapsed > 0 and tokens:
        known.append(
            Rate(
                "charged",
                "Actual, charged time",
                "measured: tokens of all steps that count / elapsed time of all segments, "
                "start-up, checkpoints and lost steps included",
                tokens / elapsed,
                True,
            )
        )
        calendar = calendar_s(run)
        if calendar > elapsed:
            known.append(
                Rate(
                    "calendar",
                    "Actual, calendar",
                    "measured: the same tokens / time from the first job's submission (its start, "
                    "where that is not known) to the last one's end, queues between jobs included",
                    tokens / calendar,
                    True,
                )
            )
    return known


def calendar_s(run: Run) -> float:
    """Seconds from the first submission (or start) of a job of the run to the end of the last."""
    first = run.segments[0]
    begun = first.started if first.submitted is None else min(first.submitted, first.started)
    return max(segment.ended for segment in run.segments) - begun


def _model(run: Run, account: Account, found: Study | None) -> list[Rate]:
    """What the replay makes of the sampled steps, waits, messages and all."""
    if found is None or found.sample is None or found.causes is None:
        return []
    weight, played = found.sample.weight, found.causes.played["optimizer"]
    ratio = float(weight @ played) / float(weight @ found.sample.duration)
    took = float(np.median(account.step_s)) * ratio
    tokens = float(np.median(run.tokens(account.step)))
    return [
        Rate(
            "model",
            "Model, replay",
            f"the median step by the ratio of {len(found.sample)} sampled steps, played again on "
            "the schedule with their own passes, messages and waits for data, to their length",
            tokens / took,
            False,
        )
    ]


def _ideals(run: Run, account: Account, compute: float) -> list[Rate]:
    facts = run.facts
    p, m = facts.layout.pipeline, facts.micro_batches
    name = schedule_name(run).upper()
    busy = float(np.median(run.tokens(account.step))) / compute
    found = [
        Rate(
            "compute",
            "Ideal, compute only",
            f"every {facts.unit} busy all the time with this run's own forward and backward passes "
            "(mean over ranks, median over steps): no waiting, no communication, no optimizer",
            busy,
            False,
        )
    ]
    if p > 1:
        found.append(
            Rate(
                "schedule",
                f"Ideal, {name} schedule",
                f"the same with the bubble of {name}, {in_words(run, m)} of the time "
                f"(p = {p} stages, m = {m} micro-batches)",
                busy * (1 - account.bubble),
                False,
            )
        )
    return found


def idle_equivalents(ranks: int, actual: float, ideal: float) -> float:
    """Ranks that a run wastes against an ideal: N x (1 - actual / ideal).

    Args:
        ranks: number of ranks N.
        actual: measured rate.
        ideal: the baseline, in the same unit; name it wherever the result is shown.
    """
    return ranks * (1 - actual / ideal)


def model_flops_utilisation(
    run: Run, tokens_per_s: float, account: Account | None = None
) -> list[Utilisation]:
    """MFU by both definitions of model FLOPs, the run's own formula and 6 x parameters; HFU.

    MFU (Chowdhery et al. 2022, PaLM) counts the FLOPs that the model needs, not what recomputation
    adds: tokens/s x FLOPs a token / (ranks x peak FLOP/s of a rank). HFU counts recomputation too:
    MFU x (compute + recomputation) / compute, by their measured times, as both run the same kernels
    (full recomputation makes that 96/72, Narayanan et al. 2021).

    Args:
        run: the run.
        tokens_per_s: rate of its steps.
        account: says how long was computed and recomputed; None leaves HFU out.
    """
    facts = run.facts
    counts = []
    if facts.flops_per_token:
        counts.append((facts.flops_formula or "run.toml", facts.flops_per_token))
    if facts.parameters:
        counts.append(("6 x parameters (Kaplan et al. 2020)", 6.0 * facts.parameters))
    peak = facts.peak_flops_per_rank
    more = 0.0
    if account is not None and account.pieces["compute"]:
        more = account.pieces["recompute"] / account.pieces["compute"]
    found = []
    for name, flops in counts:
        share = tokens_per_s * flops / (facts.ranks * peak) if peak else None
        hardware = share * (1 + more) if share is not None and more else None
        found.append(Utilisation(name, flops, share, tokens_per_s * flops, hardware))
    return found
