"""What is not there, and what that does to the numbers of a report."""

from __future__ import annotations

from alpenglow_analysis.power import Power
from alpenglow_analysis.run import Run
from alpenglow_analysis.units import percent
from alpenglow_analysis.utilisation import Account

POWER_WHOLE = 0.98
"""Above this share of the charge the samples count as whole."""


def missing(run: Run, account: Account, price: float | None, power: Power | None) -> list[str]:
    """A sentence each, damages of the record first."""
    said = [damage[0].upper() + damage[1:] + "." for damage in run.damages]
    if any(run.damages) and account.pieces.get("unrecorded"):
        said.append(
            f"{percent(account.share('unrecorded'))} of the charge lies with ranks that left no "
            "events: it is in the sum and in no other row, so every other share is rather too low."
        )
    if not len(account.step):
        said.append(
            "No whole step that counts was recorded: throughput, ideals, and what a step is made "
            "of are not known and left out."
        )
    return said


def unknown(run: Run, price: float | None, power: Power | None) -> list[str]:
    """What is not known of this run by its nature, and which numbers are left out for it."""
    said = []
    if run.facts.peak_flops_per_rank is None:
        said.append("The peak FLOP/s of this machine is unknown: no MFU, and no 'below peak'.")
    elif run.facts.flops_per_token is None:
        said.append("The FLOPs a token of this model are unknown: no MFU, and no FLOP/s.")
    if price is None:
        said.append(
            "No price of a node-hour is known (price_per_node_hour in the machine file or the "
            "recipe): no dollars."
        )
    if power is None:
        said.append("Power was not sampled: no MWh, and no curve of power.")
    else:
        said += [note[0].upper() + note[1:] + "." for note in power.notes]
        if power.covered < POWER_WHOLE:
            said.append(
                f"Samples cover {percent(power.covered)} of the charged node-hours: the rest of a "
                "sampled job is taken at its mean power."
            )
    return said
