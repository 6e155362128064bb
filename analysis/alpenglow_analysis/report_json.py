"""The report as JSON: every number with its unit and its baseline; the keys are a promise.

    format            "alpenglow-report"
    version           of the keys; it grows when one changes its meaning or goes
    made              when, ISO 8601, UTC
    run               what it was: name, activity, machine, nodes, ranks, unit, layout, batch
    summary           charged, useful, idle_equivalents, step, tokens_per_s ...; what is not known
                      is not there
    account           baseline; columns (unit and meaning of each); rows, in the order of the
                      account: key, label, part, then the columns; the last row is the charge
    rates             key, label, baseline, measured, tokens_per_s, flops_per_s,
                      idle_equivalents (against each rate above it, by key)
    slow              ranks and nodes that were slow for a while: where, node, ranks, first_step,
                      last_step, factor
    stragglers        slowdown, wasted, by_stage, transfers, and blame: where, ranks, factor,
                      slowdown, share
    what_if           key, label, step, gain, equivalents, assumes
    efficiencies      pop and talp, each a product of its parts
    notes, clocks     sentences
    segments          job, started, ended, estimated, nodes, node_hours, first_step, reason
    missing           sentences
    compared          the same `summary` and `account` of each other run

A quantity is an object: value, unit, baseline.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np

from alpenglow_analysis.account_table import Entry, entries
from alpenglow_analysis.bubble import schedule_name
from alpenglow_analysis.contents import Material
from alpenglow_analysis.facts_table import charge_rule, node_hours
from alpenglow_analysis.missing import missing, unknown
from alpenglow_analysis.power import Power
from alpenglow_analysis.quantity import plain, quantity
from alpenglow_analysis.run import Run
from alpenglow_analysis.scaling import Rate, idle_equivalents, model_flops_utilisation
from alpenglow_analysis.study_json import studied
from alpenglow_analysis.utilisation import Account

FORMAT, VERSION = "alpenglow-report", 1


def report_json(material: Material) -> str:
    """The whole report as JSON text, indented by one."""
    run = material.run
    made = datetime.datetime.now(tz=datetime.UTC)
    known: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "made": f"{made:%Y-%m-%dT%H:%M:%SZ}",
        "run": _run(run),
        **_numbers(
            run, material.account, material.rates, material.entries, material.price, material.power
        ),
        "segments": _segments(run),
        "missing": missing(run, material.account, material.price, material.power)
        + unknown(run, material.price, material.power),
    }
    known |= studied(material)
    if material.others:
        known["compared"] = [
            {
                "run": _run(other),
                **_numbers(other, account, rates, entries(other, account), None, None),
            }
            for other, account, rates in material.others
        ]
    return json.dumps(known, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _run(run: Run) -> dict[str, Any]:
    facts, shape = run.facts, run.facts.layout
    return {
        "name": facts.name,
        "activity": facts.activity,
        "code_version": facts.code_version,
        "machine": facts.machine,
        "nodes": facts.nodes,
        "ranks": facts.ranks,
        "unit": facts.unit,
        "parameters": facts.parameters,
        "layout": {
            "pipeline": shape.pipeline,
            "tensor": shape.tensor,
            "data": shape.data,
            "schedule": schedule_name(run),
        },
        "batch": {
            "micro_batches": facts.micro_batches,
            "micro_batch_size": facts.micro_batch_size,
            "sequence_length": facts.sequence_length,
            "tokens_per_step": facts.tokens_per_step,
        },
    }


def _numbers(
    run: Run,
    account: Account,
    rates: list[Rate],
    rows: list[Entry],
    price: float | None,
    power: Power | None,
) -> dict[str, Any]:
    return {
        "summary": _summary(run, account, rates, price, power),
        "account": _account(run, rows),
        "rates": [_rate(run, rates, i) for i in range(len(rates))],
    }


def _summary(
    run: Run, account: Account, rates: list[Rate], price: float | None, power: Power | None
) -> dict[str, Any]:
    facts, rule = run.facts, charge_rule(run)
    found = {
        "charged": quantity(node_hours(run), "node-hours", rule),
        "charged_time": quantity(account.charged_ns / 3.6e12, f"{facts.unit}-hours", rule),
        "useful": quantity(
            account.share("compute"), "share", "charged time: compute of steps that count"
        ),
        "lost_steps": quantity(account.lost_steps, "steps", "steps trained again after a restart"),
    }
    if price is not None:
        found["charged_dollars"] = quantity(
            node_hours(run) * price, "dollars", f"${price:g} a node-hour"
        )
    if power is not None:
        found["energy"] = quantity(
            power.mwh,
            "MWh",
            f"all jobs that were sampled; measured: {power.covered:.4f} of the charged node-hours",
        )
    by_key = {rate.key: rate for rate in rates}
    if "compute" in by_key and "charged" in by_key:
        ideal = by_key["compute"]
        idle = idle_equivalents(facts.ranks, by_key["charged"].tokens_per_s, ideal.tokens_per_s)
        found["idle_equivalents"] = quantity(idle, f"{facts.unit}s", ideal.baseline)
    if len(account.step_s):
        found["step"] = quantity(
            float(np.median(account.step_s)), "s", f"median of {len(account.step_s)} steps"
        )
        found["schedule_bubble"] = quantity(
            account.bubble, "share", "a step with equal stages and free messages"
        )
    if "steps" in by_key:
        found["tokens_per_s"] = quantity(
            by_key["steps"].tokens_per_s, "tokens/s", by_key["steps"].baseline
        )
        uses = model_flops_utilisation(run, by_key["steps"].tokens_per_s, account)
        for i, use in enumerate(uses):
            if use.fraction is not None:
                name = "mfu" if i == 0 else f"mfu_{i + 1}"
                found[name] = quantity(use.fraction, "share", f"peak FLOP/s; {use.formula}")
            if use.hardware_fraction is not None:
                name = "hfu" if i == 0 else f"hfu_{i + 1}"
                found[name] = quantity(
                    use.hardware_fraction, "share", f"peak FLOP/s; {use.formula}, recomputation"
                )
    return found


def _account(run: Run, rows: list[Entry]) -> dict[str, Any]:
    unit = run.facts.unit
    columns = {
        "ns": {"unit": "ns", "baseline": f"time of one {unit}"},
        "share": {"unit": "share", "baseline": "charged time"},
        "equivalents": {"unit": f"{unit}s", "baseline": f"share of the charge x {unit}s charged"},
        "node_hours": {"unit": "node-hours", "baseline": "share of the charge x node-hours"},
        "dollars": {"unit": "dollars", "baseline": "node-hours x price of one"},
        "mwh": {
            "unit": "MWh",
            "baseline": "energy of each job x share of its time; unsampled nodes at the mean",
        },
    }
    columns = {k: v for k, v in columns.items() if getattr(rows[-1], k) is not None}
    return {
        "baseline": charge_rule(run),
        "columns": columns,
        "rows": [
            {
                "key": row.key,
                "label": row.label,
                "part": row.part,
                **{name: plain(getattr(row, name)) for name in columns},
            }
            for row in rows
        ],
    }


def _rate(run: Run, rates: list[Rate], i: int) -> dict[str, Any]:
    rate, facts = rates[i], run.facts
    known: dict[str, Any] = {
        "key": rate.key,
        "label": rate.label,
        "measured": rate.measured,
        "baseline": rate.baseline,
        "tokens_per_s": plain(rate.tokens_per_s),
        "idle_equivalents": {
            above.key: plain(idle_equivalents(facts.ranks, rate.tokens_per_s, above.tokens_per_s))
            for above in rates[:i]
        },
    }
    if facts.flops_per_token:
        known["flops_per_s"] = plain(rate.tokens_per_s * facts.flops_per_token)
    return known


def _segments(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "job": segment.name,
            "started": segment.started,
            "ended": segment.ended,
            "estimated": segment.estimated,
            "nodes": segment.nodes,
            "node_hours": segment.node_hours,
            "first_step": run.first_step(segment),
            "reason": segment.reason,
        }
        for segment in run.segments
    ]
