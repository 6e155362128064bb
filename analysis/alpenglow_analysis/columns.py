"""A table in columns of text, for a terminal."""

from __future__ import annotations

from alpenglow_analysis.page import Table


def laid(table: Table) -> str:
    """A table in columns; text to the left, numbers to the right."""
    rows = [table.heads, *table.rows]
    last = len(table.heads) - 1
    widths = [max(len(row[i]) for row in rows) for i in range(last + 1)]
    left = {0, *table.text}
    lines = [
        "  ".join(
            cell if i == last and i in left else cell.ljust(w) if i in left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines).replace("\u00a0", " ")
