"""A proposal for machines: its numbers by name, then the whole document with marks and sources."""

from __future__ import annotations

from typing import Any

from alpenglow_analysis.campaign_outcome import percentiles
from alpenglow_analysis.document import Document
from alpenglow_analysis.proposal import Proposal
from alpenglow_analysis.proposal_scaling import Series
from alpenglow_analysis.proposal_writing import as_json
from alpenglow_analysis.quantity import plain


def proposal_json(own: Proposal, document: Document) -> str:
    """All of it."""
    cost, outcome = own.chosen.cost, own.outcome
    more: dict[str, Any] = {
        "machine": own.machine.name,
        "model": own.chosen.run.name,
        "layout": own.chosen.words,
        "step_seconds": plain(cost.seconds),
        "step_error": plain(own.chosen.run.error),
        "mfu": plain(cost.mfu),
        "days": dict(zip(("p10", "p50", "p90"), percentiles(outcome.days), strict=True)),
        "request": {
            "rows": [
                {
                    "key": row.key,
                    "what": row.what,
                    "runs": round(row.runs.number or 0),
                    "nodes": round(row.nodes.number or 0),
                    "hours": row.hours.number,
                    "node_hours": row.node_hours,
                    "contingency": row.contingency,
                }
                for row in own.request.rows
            ],
            "base": own.request.base,
            "contingency": own.request.contingency,
            "total": own.request.total,
        },
        "study": None
        if own.study is None
        else {
            "name": own.study.name,
            "machine": own.study.machine,
            "model": own.study.model,
            "synthetic": own.study.synthetic,
        },
        "scaling": [_series(each) for each in own.series],
        "storage": {
            "bytes": plain(own.storage.total),
            "files": own.storage.files,
            "checkpoint_bytes": plain(own.storage.checkpoint),
        },
    }
    return as_json(document, more)


def _series(series: Series) -> dict[str, Any]:
    return {
        "kind": series.kind,
        "mark": series.mark,
        "source": series.source,
        "points": [
            {
                "nodes": point.nodes,
                "processes": point.processes,
                "seconds": plain(point.seconds),
                "ideal_seconds": plain(series.ideal(point)),
                "efficiency": plain(series.efficiency(point)),
                "micro_batches": point.micro_batches,
                "bubble": plain(point.bubble),
            }
            for point in series.points
        ],
    }
