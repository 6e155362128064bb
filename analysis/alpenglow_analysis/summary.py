"""The first screen: what was charged, what of it was useful, what idled, and the largest losses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alpenglow_analysis.facts_table import node_hours
from alpenglow_analysis.findings import cure
from alpenglow_analysis.page import Card, Loss
from alpenglow_analysis.power import Power
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import Rate, idle_equivalents
from alpenglow_analysis.study import Study
from alpenglow_analysis.units import amount, count, hours, percent, seconds
from alpenglow_analysis.utilisation import PIECES, Account
from alpenglow_analysis.whatif import Scenario

MOST_LOSSES = 3


def cards(
    run: Run, account: Account, rates: list[Rate], price: float | None, power: Power | None
) -> list[Card]:
    """The numbers of the first screen, each with its baseline."""
    facts, by_key = run.facts, {rate.key: rate for rate in rates}
    charged = [f"{hours(account.charged_ns / 3.6e12)} {facts.unit}-hours"]
    if price is not None:
        charged.append(f"${node_hours(run) * price:,.2f}")
    if power is not None:
        charged.append(f"{power.mwh:.3g} MWh")
    found = [
        Card("Charged", f"{hours(node_hours(run))} node-h", ", ".join(charged)),
        Card(
            "Useful",
            percent(account.share("compute")),
            f"of charged {facts.unit}-hours: forward and backward of steps that count",
        ),
    ]
    if "compute" in by_key and "charged" in by_key:
        ideal, actual = by_key["compute"], by_key["charged"]
        idle = idle_equivalents(facts.ranks, actual.tokens_per_s, ideal.tokens_per_s)
        found.append(
            Card(
                f"Idle {facts.unit}s",
                f"{amount(idle)} of {facts.ranks:,}",
                f"{facts.unit}-equivalents over the charged time, against '{ideal.label.lower()}'",
            )
        )
    if "steps" in by_key:
        found.append(
            Card(
                "Throughput",
                f"{count(by_key['steps'].tokens_per_s)} tokens/s",
                f"at the median step of {seconds(float(np.median(account.step_s)))}",
            )
        )
    if len(run.metrics):
        loss = run.metrics["loss"]
        found.append(
            Card("Loss", f"{loss[0]:.2f} → {loss[-1]:.2f}", "first and last step, nats a token")
        )
    return found


def losses(
    run: Run, account: Account, found: Study, changes: Sequence[Scenario] = ()
) -> list[Loss]:
    """The largest pieces of the charge that are not useful, each with its cure."""
    charged = max(1, account.charged_ns)
    slots = charged / max(1, sum(segment.elapsed_ns for segment in run.segments))
    return [
        Loss(
            key,
            PIECES.get(key, key),
            percent(ns / charged),
            f"{amount(slots * ns / charged)} {run.facts.unit}-equivalents",
            cure(run, account, key, found, changes),
        )
        for key, ns in account.losses[:MOST_LOSSES]
        if ns > 0
    ]
