"""RUN/units.json: which files of documents, columns and tokens a run's shards were made of.

Written once every unit is prepared; a budget reads columns by it, and the end of a job removes what
it does not name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alpenglow.data.annotate import Annotated
from alpenglow.data.document import DataError
from alpenglow.data.selection import Prepared
from alpenglow_lsf.files import write_json

NAME = "units.json"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One unit and its files."""

    unit: str
    slice: str
    files: Prepared


def write(run: Path, folder: Path, entries: Iterable[Entry]) -> None:
    """Write the inventory; `folder` is where all the files lie."""
    rows = [
        {
            "unit": entry.unit,
            "slice": entry.slice,
            "store": entry.files.store.name,
            "raw": entry.files.raw.name,
            "columns": [path.name for path in entry.files.annotated.files],
            "tokens": entry.files.tokens.name,
        }
        for entry in entries
    ]
    write_json(run / NAME, {"format": FORMAT, "folder": str(folder), "units": rows})


def load(run: Path) -> Sequence[Entry]:
    """Read the inventory of a run directory.

    Raises:
        DataError: there is none, or it is cut.
    """
    path = run / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise DataError(f"{path}: format {found['format']}, this reads {FORMAT}")
        folder = Path(found["folder"])
        return [
            Entry(
                row["unit"],
                row["slice"],
                Prepared(
                    folder / row["store"],
                    folder / row["raw"],
                    Annotated(tuple(folder / name for name in row["columns"])),
                    folder / row["tokens"],
                ),
            )
            for row in found["units"]
        ]
    except FileNotFoundError:
        raise DataError(
            f"{path} is not there: name the run directory of a job that prepared data, such as "
            "runs/prepare_data"
        ) from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: cut, or no inventory of units ({error})") from None
