"""alpenglow data report SHARDS [--output FOLDER]: what was read, dropped and kept, rule by rule.

Writes index.html (self-contained, opens offline), report.md, ledger.csv and figures/ into FOLDER;
if absent, beside the shards as SHARDS-report. Read are ledger.json, rejects.jsonl, catalogue.json
and the indexes of some shards; the shards are not touched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alpenglow.data.catalogue import Catalogue, CatalogueError
from alpenglow.data.document import DataError
from alpenglow.data.ledger import Ledger
from alpenglow_analysis.data_report_lengths import Lengths, lengths
from alpenglow_analysis.data_report_rejects import Rejects, rejects
from alpenglow_lsf.files import write_text

LEDGER = "ledger.json"


@dataclass
class Shards:
    """What the report is written from."""

    name: str
    ledger: Ledger
    rejects: Rejects
    catalogue: Catalogue | None = None
    lengths: dict[str, Lengths] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> Shards:
        """Read a folder of shards; only its ledger has to be there.

        Raises:
            DataError: no ledger, or one that does not add up.
            OSError: rejects that cannot be read.
        """
        if not (folder / LEDGER).exists():
            raise DataError(
                f"{folder}: no {LEDGER} here; name a folder of shards that "
                "`alpenglow data prepare` has finished"
            )
        ledger = Ledger.load(folder / LEDGER)
        if not ledger.slices:
            raise DataError(f"{folder / LEDGER}: holds no slice, so there is nothing to report")
        found = cls(folder.resolve().name, ledger, rejects(folder))
        try:
            found.catalogue = Catalogue.load(folder)
        except CatalogueError as error:
            found.missing.append(f"the lengths of documents: {error}")
        else:
            if found.ledger.facts.get("fingerprint") != found.catalogue.fingerprint:
                found.missing.append(
                    f"{LEDGER} was written for other shards than catalogue.json lists: the counts "
                    "are those of the ledger, the lengths of documents those of the shards"
                )
            found.lengths, missing = lengths(found.catalogue)
            found.missing += missing
        if not found.rejects.there:
            found.missing.append("samples of rejected documents: there is no rejects.jsonl")
        elif found.rejects.unreadable:
            found.missing.append(
                f"rejects.jsonl: {found.rejects.unreadable:,} of {found.rejects.lines:,} lines "
                "cannot be read, and are not shown"
            )
        return found


def build(folder: Path, output: Path | None = None) -> Path:
    """Write the report of a folder of shards; returns the path of index.html.

    Raises:
        DataError: no ledger there, or one that does not add up.
        OSError: the report cannot be written.
    """
    # matplotlib and jinja2 belong to the extra `report`: without them the sentence comes first.
    from alpenglow_analysis import rendering, style
    from alpenglow_analysis.data_report_contents import contents, pictures
    from alpenglow_analysis.data_report_csv import ledger_csv
    from alpenglow_analysis.plan_writing import draw

    found = Shards.load(folder)
    where = folder.resolve()
    output = where.with_name(f"{where.name}-report") if output is None else output
    output.mkdir(parents=True, exist_ok=True)
    with style.settings():
        drawn = {figure.name: figure for figure in draw(output, pictures(found))}
    page = contents(found, drawn)
    write_text(output / "ledger.csv", ledger_csv(found.ledger))
    write_text(output / "report.md", rendering.markdown(page))
    write_text(output / "index.html", rendering.html(page))
    return output / "index.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report and say where it is; 0, or 1 after one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="alpenglow data report",
        description="What was read, dropped and kept: by slice, stage and rule.",
    )
    parser.add_argument("shards", type=Path, help="a folder of shards")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: SHARDS-report")
    options = parser.parse_args(arguments)
    try:
        path = build(options.shards, options.output)
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "jinja2"):
            raise
        sys.stderr.write(
            f"alpenglow data report: {error.name} is not installed: pip install "
            "'alpenglow[report]'\n"
        )
        return 1
    except (DataError, OSError) as error:
        sys.stderr.write(f"alpenglow data report: {error}\n")
        return 1
    sys.stdout.write(f"report: {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
