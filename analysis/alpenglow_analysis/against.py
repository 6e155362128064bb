"""Runs side by side: rates, and each piece of the account as a share of its own charge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alpenglow_analysis.bubble import schedule_name
from alpenglow_analysis.facts_table import node_hours
from alpenglow_analysis.page import Table
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import Rate, idle_equivalents
from alpenglow_analysis.units import amount, count, hours, percent, seconds
from alpenglow_analysis.utilisation import PIECES, Account

Known = tuple[Run, Account, Sequence[Rate]]


def against(own: Known, others: Sequence[Known]) -> Table:
    """One column a run, the report's own first; with two runs a third one for the difference."""
    runs = [own, *others]
    heads = ["", *_names([run for run, _, _ in runs])]
    rows = [
        ["nodes", *[f"{run.facts.nodes:,}" for run, _, _ in runs]],
        ["pipeline × tensor × data", *[_layout(run) for run, _, _ in runs]],
        ["schedule, micro-batches", *[_schedule(run) for run, _, _ in runs]],
        ["charged", *[f"{hours(node_hours(run))} node-h" for run, _, _ in runs]],
        ["median step", *[_step(account) for _, account, _ in runs]],
    ]
    for key, label in (("steps", "tokens/s, busy"), ("charged", "tokens/s, calendar")):
        found = [_rate(rates, key) for _, _, rates in runs]
        rows.append([label, *["" if rate is None else count(rate.tokens_per_s) for rate in found]])
    rows.append(["tokens/s a rank, busy", *[_a_rank(run, rates) for run, _, rates in runs]])
    rows.append(["idle, of all ranks", *[_idle(run, rates) for run, _, rates in runs]])
    two = len(runs) == 2
    if two:
        heads.append("difference")
        rows = [[*row, ""] for row in rows]
    for key in PIECES:
        shares = [account.share(key) if key in account.pieces else 0.0 for _, account, _ in runs]
        if not any(shares):
            continue
        row = [PIECES[key], *map(percent, shares)]
        rows.append([*row, _points(shares[0] - shares[1])] if two else row)
    return Table(heads, rows)


def _points(difference: float) -> str:
    """A difference of shares in points of percent: +4.5, −0.2, 0."""
    text = f"{100 * difference:+.1f}"
    return "0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _names(runs: Sequence[Run]) -> list[str]:
    names = [run.facts.name for run in runs]
    return names if len({*names}) == len(names) else [str(run.path) for run in runs]


def _layout(run: Run) -> str:
    shape = run.facts.layout
    return f"{shape.pipeline} × {shape.tensor} × {shape.data}"


def _schedule(run: Run) -> str:
    return f"{schedule_name(run).upper()}, {run.facts.micro_batches}"


def _step(account: Account) -> str:
    return seconds(float(np.median(account.step_s))) if len(account.step_s) else ""


def _rate(rates: Sequence[Rate], key: str) -> Rate | None:
    return next((rate for rate in rates if rate.key == key), None)


def _a_rank(run: Run, rates: Sequence[Rate]) -> str:
    rate = _rate(rates, "steps")
    return "" if rate is None else count(rate.tokens_per_s / run.facts.ranks)


def _idle(run: Run, rates: Sequence[Rate]) -> str:
    ideal, actual = _rate(rates, "compute"), _rate(rates, "charged")
    if ideal is None or actual is None:
        return ""
    lost = idle_equivalents(run.facts.ranks, actual.tokens_per_s, ideal.tokens_per_s)
    return f"{amount(lost)} of {run.facts.ranks:,}"
