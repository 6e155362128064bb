"""The account as rows: each piece in percent, equivalents, node-hours, dollars and MWh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alpenglow_analysis.page import Table
from alpenglow_analysis.power import Power
from alpenglow_analysis.run import Run
from alpenglow_analysis.units import amount, percent, work
from alpenglow_analysis.utilisation import PIECES, Account


@dataclass(frozen=True)
class Entry:
    """One row of the account."""

    key: str
    label: str
    ns: float
    """Time of one rank or GPU."""
    share: float
    """Of the charge."""
    equivalents: float
    """Share of the charge x ranks or GPUs that the charged nodes hold."""
    node_hours: float
    dollars: float | None
    """None where the price of a node-hour is not known."""
    mwh: float | None
    """By the energy of each job and the piece's share of its time; None where none was sampled."""
    part: bool = False
    """A part of the row above, not a row of its own in the sum."""


def entries(
    run: Run, account: Account, price: float | None = None, power: Power | None = None
) -> list[Entry]:
    """Every piece that is not nothing in the order of the account, then the charge as their sum."""
    charged = max(1, account.charged_ns)
    node_hours = sum(segment.node_hours for segment in run.segments)
    compute = max(1, account.pieces["compute"])
    slots = charged / max(1, sum(segment.elapsed_ns for segment in run.segments))
    energy = None if power is None else account.energy(power.joules)

    def entry(key: str, label: str, ns: float, part: bool = False) -> Entry:
        share = ns / charged
        return Entry(
            key,
            label,
            ns,
            share,
            share * slots,
            share * node_hours,
            None if price is None else share * node_hours * price,
            None if energy is None else _mwh(key, energy, ns / compute),
            part,
        )

    found = [
        entry(key, PIECES.get(key, key), ns)
        for key, ns in account.pieces.items()
        if ns or key == "compute"
    ]
    at_peak = at_peak_ns(run, account)
    if at_peak is not None:
        useful = "of which at peak FLOP/s (model FLOPs / peak)"
        found.append(entry("useful", useful, at_peak, part=True))
        below = account.pieces["compute"] - at_peak
        found.append(entry("below_peak", "of which below peak", below, part=True))
    found.append(entry("charged", "Charged, the sum", account.charged_ns))
    return found


def _mwh(key: str, energy: Mapping[str, float], of_compute: float) -> float:
    """Energy of a row: a piece, the whole, or a part of compute."""
    if key == "charged":
        return sum(energy.values())
    return energy[key] if key in energy else energy["compute"] * of_compute


def at_peak_ns(run: Run, account: Account) -> float | None:
    """Time in ns of one rank that the model FLOPs of all steps that count take at peak."""
    facts = run.facts
    if not facts.peak_flops_per_rank or not facts.flops_per_token:
        return None
    tokens = float(run.tokens(account.step).sum())
    return 1e9 * tokens * facts.flops_per_token / facts.peak_flops_per_rank


def _dollars(value: float) -> str:
    text = f"{value:,.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def account_table(run: Run, rows: list[Entry], charged_ns: int) -> Table:
    """Lay the rows out; columns of which nothing is known are left out."""
    unit = run.facts.unit
    heads = ["piece", "share of the charge", f"{unit}-equivalents", f"{unit}-time", "node-time"]
    dollars = rows[-1].dollars is not None
    mwh = rows[-1].mwh is not None
    heads += ["dollars"] if dollars else []
    heads += ["MWh"] if mwh else []
    node_ns = rows[-1].node_hours * 3.6e12
    lines = []
    for row in rows:
        cells = [
            f"· {row.label}" if row.part else row.label,
            percent(row.share),
            amount(row.equivalents),
            work(row.ns, charged_ns, unit),
            work(row.node_hours * 3.6e12, node_ns, "node"),
        ]
        cells += (
            [f"{row.dollars + 0.0:,.2f}".replace("-0.00", "0.00").replace("-", "−")]
            if row.dollars is not None
            else []
        )
        cells += [amount(row.mwh)] if row.mwh is not None else []
        lines.append(cells)
    return Table(heads, lines, sum=True)
