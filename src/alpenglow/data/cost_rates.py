"""How fast each stage is on one core: measured by `bench_stages`, or the table that comes along."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from alpenglow.data.document import DataError

TABLE = "published/stage_rates.csv"
FORMAT, VERSION = "alpenglow-data-stages", 1


@dataclass(frozen=True)
class Rate:
    """MB of text a CPU-second, and where the number is from."""

    value: float
    source: str
    own: bool
    """Of this slice and of the file that was named; else of other slices, or of the table."""


@dataclass(frozen=True)
class Rates:
    """Stage -> slice -> MB of text a CPU-second."""

    measured: Mapping[str, Mapping[str, float]]
    source: str
    hardware: str = ""
    tabled: Mapping[str, Mapping[str, tuple[float, str]]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None = None) -> Rates:
        """Read a file that bench_stages wrote; without one, the table alone.

        Raises:
            DataError: missing, cut, or no such file.
        """
        table = _table()
        if path is None:
            return cls({}, TABLE, "", table)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if (found["format"], found["version"]) != (FORMAT, VERSION):
                raise DataError(
                    f"{path}: format {found['format']} {found['version']}, this reads {FORMAT} "
                    f"{VERSION}"
                )
            measured = {
                str(stage): {str(name): float(each["median"]) for name, each in slices.items()}
                for stage, slices in found["rates"].items()
            }
            hardware = str(found["hardware"])
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: cut, or not written by bench_stages --write ({error!r})"
            ) from None
        wrong = [f"{s} of {n}" for s, by in measured.items() for n, v in by.items() if not v > 0]
        if wrong:
            raise DataError(f"{path}: {wrong[0]} has no rate above 0")
        return cls(measured, str(path), hardware, table)

    def of(self, stage: str, name: str) -> Rate:
        """Return a stage's rate on a slice.

        The slice's own measurement goes first, then the median of the slices measured, then the
        table's row of the slice, then its row for all.

        Raises:
            DataError: neither the file nor the table knows the stage.
        """
        found = self.measured.get(stage, {})
        if name in found:
            return Rate(found[name], self.source, True)
        # A reader of one slice says nothing about another's.
        if found and stage != "read":
            middle = statistics.median(found.values())
            return Rate(middle, f"{self.source}: median of {', '.join(found)}", False)
        rows = self.tabled.get(stage, {})
        row = rows.get(name) or rows.get("")
        if row is None:
            raise DataError(
                f"no rate of {stage} for {name}: measure it with "
                "`python -m alpenglow.data.bench_stages`"
            )
        return Rate(row[0], row[1], False)


def _table() -> dict[str, dict[str, tuple[float, str]]]:
    text = (resources.files("alpenglow.data") / TABLE).read_text(encoding="utf-8")
    found: dict[str, dict[str, tuple[float, str]]] = {}
    for row in csv.DictReader(text.splitlines()):
        cell = (float(row["mb_per_cpu_second"]), row["source"])
        found.setdefault(row["stage"], {})[row["slice"]] = cell
    return found
