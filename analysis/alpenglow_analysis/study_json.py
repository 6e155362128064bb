"""What was found out about the steps of a run, as JSON; the keys stand in `report_json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from alpenglow_analysis.contents import Material
from alpenglow_analysis.quantity import plain, quantity
from alpenglow_analysis.study_sections import clock_sentences


def studied(material: Material) -> dict[str, Any]:
    """Slow spells, stragglers, what-if, efficiencies and clocks, those that are known."""
    found, unit = material.study, material.run.facts.unit
    known: dict[str, Any] = {"notes": list(material.account.notes)}
    if found.heat is not None:
        known["slow"] = [
            {
                "where": one.where,
                "node": one.node,
                "ranks": list(one.ranks),
                "first_step": one.first_step,
                "last_step": one.last_step,
                "factor": quantity(one.factor, "x", f"compute over {found.heat.against}"),
            }
            for one in found.episodes
        ]
    if material.straggling is not None:
        known["stragglers"] = _stragglers(material)
    if material.changes:
        known["what_if"] = [
            {
                "key": change.key,
                "label": change.label,
                "step": quantity(change.step_s, "s", "measured step x share of the replay's"),
                "gain": quantity(change.gain, "share", "the same replay, unchanged"),
                "equivalents": quantity(change.equivalents, f"{unit}s", "all ranks x gain"),
                "assumes": change.assumes,
            }
            for change in material.changes
        ]
    if material.efficiencies is not None:
        known["efficiencies"] = {
            name: {key: plain(value) for key, value in asdict(part).items()}
            for name, part in (
                ("pop", material.efficiencies.pop),
                ("talp", material.efficiencies.talp),
            )
        } | {"unit": "share", "baseline": "within steps that count"}
    clocks = clock_sentences(found.sample)
    if clocks:
        known["clocks"] = clocks
    return known


def _stragglers(material: Material) -> dict[str, Any]:
    found = material.straggling
    assert found is not None
    ideal = "sampled steps with passes at the mean and transfers at the median of their kind"
    excess = "of the slowdown beyond 1, it alone as it was"
    return {
        "slowdown": quantity(found.slowdown, "x", ideal),
        "wasted": quantity(found.wasted, "share", "time of the sampled steps"),
        "by_stage": [quantity(share, "share", excess) for share in found.by_stage],
        "transfers": quantity(found.transfers, "share", excess),
        "blame": [
            {
                "where": one.where,
                "ranks": list(one.ranks),
                "factor": quantity(one.factor, "x", "compute of the ranks of the same stage"),
                "slowdown": quantity(one.slowdown, "x", ideal),
                "share": quantity(one.share, "share", excess),
            }
            for one in found.nodes
        ],
    }
