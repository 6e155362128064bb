"""The ledger as a table for other programs: one line a rule, numbers in full."""

from __future__ import annotations

import csv
import io

from alpenglow.data.ledger import UNITS, Count, Ledger, Passage

HEADS = (
    "slice", "stage", "what", "name",
    *(f"{unit}_in" for unit in UNITS), *UNITS, *(f"{unit}_out" for unit in UNITS),
)  # fmt: skip
"""`what`: `stage` (in, lost, out), `dropped` (a rule, in order), `trimmed` (a rule; no order, so
without in and out), `licence` (of what was kept). The numbers between are what was lost, or held.
Tokens are empty in a stage that was not tokenised.
"""


def ledger_csv(ledger: Ledger) -> str:
    """All lines, with heads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADS)
    for name, account in ledger.slices.items():
        for stage in account.stages:
            counted = bool(stage.read.tokens)
            lost = stage.read.less(stage.kept)
            row = Passage(stage.name, stage.read, lost, stage.kept)
            writer.writerow([name, stage.name, "stage", *_passage(row, counted)])
            for passage in stage.passages():
                writer.writerow([name, stage.name, "dropped", *_passage(passage, counted)])
            for rule, taken in sorted(stage.trimmed.items()):
                writer.writerow([name, stage.name, "trimmed", *_alone(rule, taken)])
        for licence, held in sorted(account.licences.items()):
            writer.writerow([name, "", "licence", *_alone(licence, held)])
    return text.getvalue()


def _passage(row: Passage, counted: bool) -> list[str | int]:
    sides = (row.read, row.dropped, row.kept)
    return [_cell(row.rule), *(cell for side in sides for cell in _three(side, counted))]


def _alone(name: str, found: Count) -> list[str | int]:
    return [_cell(name), "", "", "", *_three(found, bool(found.tokens)), "", "", ""]


def _three(found: Count, counted: bool) -> list[str | int]:
    return [found.documents, found.bytes, found.tokens if counted else ""]


def _cell(name: str) -> str:
    """A name that no spreadsheet takes for a formula: licences are texts of strangers."""
    return f"'{name}" if name[:1] in "=+-@\t\r" else name
