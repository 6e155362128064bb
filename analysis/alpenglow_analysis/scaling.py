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


def rates(run: Run, account: Account) -> list[Rate]:
    """Ideal and actual tokens/s, the most ideal first; those that cannot be known are left out."""
    facts = run.facts
    unit = facts.unit
    found: list[Rate] = []
    if facts.peak_flops_per_rank and facts.flops_per_token:
        found.append(
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
            found += _ideals(run, account, compute)
        found.append(
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
        found.append(
            Rate(
                "charged",
                "Actual, charged time",
                "measured: tokens of all steps that count / elapsed time of all segments, "
                "start-up, checkpoints and lost steps included",
                tokens / elapsed,
                True,
            )
        )
    return found


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


def model_flops_utilisation(run: Run, tokens_per_s: float) -> list[Utilisation]:
    """MFU by both definitions of model FLOPs: the run's own formula, and 6 x parameters.

    MFU (Chowdhery et al. 2022, PaLM) counts the FLOPs that the model needs, not what recomputation
    adds: tokens/s x FLOPs a token / (ranks x peak FLOP/s of a rank).
    """
    facts = run.facts
    counts = []
    if facts.flops_per_token:
        counts.append((facts.flops_formula or "run.toml", facts.flops_per_token))
    if facts.parameters:
        counts.append(("6 x parameters (Kaplan et al. 2020)", 6.0 * facts.parameters))
    peak = facts.peak_flops_per_rank
    return [
        Utilisation(
            name,
            flops,
            tokens_per_s * flops / (facts.ranks * peak) if peak else None,
            tokens_per_s * flops,
        )
        for name, flops in counts
    ]
