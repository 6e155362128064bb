"""The cost of a step beside published measurements: `python -m alpenglow.parallel.validation`.

Torch-free. `--markdown` prints a page, `--csv` a line for each row. One set of constants a machine
(env/machines), one set of choices a framework (alpenglow.parallel.framework). What set what:

- V100: fitted to DeepBench's products, nothing else.
- A100: data sheets, the V100's ratios, and `sustained` by the best measured products. Between 0.90,
  their mean, and 0.875, where the best shapes give the best product, Table 5 of Korthikanti et al.
  spoke for the latter (mean error 3.0 or 1.8 %).
- `efficiency` of Megatron-LM of 2021 by the mean over Narayanan's Table 1, of DeepSpeed's engine by
  the mean over Smith et al. and BLOOM. No constant by a single row.

All other tables set nothing: "held out". Their steps together say how far a prediction from a
machine file alone is off (`held_out`), which alpenglow_analysis.calibration takes as its interval.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence

from alpenglow.parallel.comparison import Row, Table, percentile
from alpenglow.parallel.published_parts import layers, megatron_2019, products
from alpenglow.parallel.published_runs import FOLDER, SOURCES, bloom, records, steps

__all__ = [
    "FOLDER",
    "SOURCES",
    "Row",
    "Table",
    "bloom",
    "held_out",
    "layers",
    "main",
    "megatron_2019",
    "products",
    "records",
    "steps",
    "tables",
]


def tables() -> list[Table]:
    """Every table."""
    found = [steps(name) for name in SOURCES]
    return [*found, bloom(), layers(), *megatron_2019(), *products()]


def held_out(found: Sequence[Table]) -> list[Table]:
    """Tables of whole steps that set no constant."""
    return [table for table in found if table.step and not table.sets]


def spread(found: Sequence[Table]) -> str:
    """How far held-out steps are off, in one sentence."""
    kept = held_out(found)
    errors = [abs(row.error) for table in kept for row in table.rows]
    slower = [share for table in kept for share in table.slower]
    low, middle, high = (percentile(slower, share) for share in (0.05, 0.5, 0.95))
    return (
        f"{len(errors)} steps that set no constant: mean error "
        f"{sum(errors) / len(errors):.1%}, nine in ten within {percentile(errors, 0.9):.1%}; "
        f"they took {low:+.1%} (5 %), {middle:+.1%} (median), {high:+.1%} (95 %) of the predicted "
        "time more"
    )


def text(found: Sequence[Table]) -> str:
    """Every row, the products only in sum, and all sums."""
    parts = [str(table) for table in found if not table.title.startswith("DeepBench")]
    parts.append("columns: published, predicted, error")
    parts.append("\n".join(f"{t.title}, {t.role}: {t.summary()}" for t in found))
    parts += [spread(found)] if held_out(found) else []
    return "\n\n".join(parts) + "\n"


def markdown(found: Sequence[Table]) -> str:
    """A page: a line a table, then each table's rows."""
    lines = [
        "# Predicted beside published steps",
        "",
        "Errors are predicted over published, less one: + is too fast for rates, too slow for "
        "times.",
        "",
        "| table | set by it | unit | points | mean | worst | signed |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {t.title} | {t.sets or 'nothing: held out'} | {t.unit} | {len(t.rows)} | {t.mean:.1%} "
        f"| {t.worst.error:+.1%} ({t.worst.name}) | {t.bias:+.1%} |"
        for t in found
    ]
    if held_out(found):
        lines += ["", f"{spread(found)}."]
    for table in found:
        lines += ["", f"## {table.title}", "", f"In {table.unit}; {table.role}.", ""]
        lines += ["| row | published | predicted | error |", "|---|---|---|---|"]
        lines += [
            f"| {row.name} | {row.published:.5g} | {row.predicted:.5g} | {row.error:+.1%} |"
            for row in table.rows
        ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None, found: Sequence[Table] | None = None) -> None:
    """Print all tables in the form that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.parallel.validation")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="a page")
    form.add_argument("--csv", action="store_true", help="a line for each row")
    given = parser.parse_args(argv)
    every = list(tables() if found is None else found)
    if given.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["table", "set by it", "unit", "row", "published", "predicted", "error"])
        for table in every:
            for row in table.rows:
                writer.writerow(
                    [
                        table.title,
                        table.sets,
                        table.unit,
                        row.name,
                        row.published,
                        f"{row.predicted:.6g}",
                        f"{row.error:.4f}",
                    ]
                )
    else:
        sys.stdout.write(markdown(every) if given.markdown else text(every))


if __name__ == "__main__":
    main()
