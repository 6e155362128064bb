"""What a run directory says about itself, as far as a release needs it.

`run.toml`, segment records, metrics and the data's catalogue and ledger are read as they are; what
is absent or unreadable stays unknown (None), and only what a release cannot do without is an error.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from alpenglow.release.error import ReleaseError
from alpenglow.train.run_directory import find_named


@dataclass(frozen=True)
class RunRecord:
    """One run."""

    path: Path
    facts: dict[str, Any]
    """run.toml."""
    segments: list[dict[str, Any]]
    """Records of the run's own activity (not of its reports and conversions), by start."""
    steps: list[dict[str, Any]]
    """The last metrics line of each step, ascending: a step may repeat after a restart."""
    catalogue: Path
    """The catalogue of the run's token shards."""

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read a run directory.

        Raises:
            ReleaseError: no such run, or its run.toml cannot be read.
        """
        if not path.is_dir():
            raise ReleaseError(f"{path}: no such run; name one with run=runs/NAME")
        try:
            facts = tomllib.loads((path / "run.toml").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ReleaseError(f"{path}: it has no run.toml, so no training began here") from None
        except (OSError, ValueError) as error:
            raise ReleaseError(f"{path / 'run.toml'}: {error}") from None
        named = Path(_at(facts, "data", "catalogue") or "shards/catalogue.json")
        activity = _at(facts, "run", "activity")
        return cls(path, facts, _segments(path, activity), _steps(path), find_named(path, named))

    @classmethod
    def unknown(cls, name: str) -> RunRecord:
        """The record of a model that no run of ours made, or none that is at hand."""
        return cls(Path(name), {}, [], [], Path(name) / "catalogue.json")

    def without_data(self) -> RunRecord:
        """The same run where the catalogue at hand is another one's: nothing is read beside it."""
        return dataclasses.replace(self, catalogue=self.path / "absent" / "catalogue.json")

    def fact(self, *keys: str) -> Any:
        """Value of a dotted key of run.toml, None where it is absent."""
        return _at(self.facts, *keys)

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.fact("run", "name") or self.path.name)

    @property
    def tokenizer(self) -> Path:
        """Where the run's tokenizer lies: beside its catalogue."""
        return self.catalogue.parent / "tokenizer.json"

    def data_file(self, name: str) -> dict[str, Any]:
        """A JSON file beside the catalogue, empty where it is absent or unreadable."""
        return _json(self.catalogue.parent / name)

    def node_hours(self) -> float | None:
        """Charged node-hours of all segments; None where no record says them."""
        hours = [segment_hours(segment) for segment in self.segments]
        known = [value for value in hours if value is not None]
        return sum(known) if known else None

    def at(self, step: int | None) -> Mapping[str, Any]:
        """The metrics of a step, empty where there are none."""
        return {} if step is None else self._by_step.get(step, {})

    @cached_property
    def _by_step(self) -> dict[int, dict[str, Any]]:
        return {line["step"]: line for line in self.steps}

    def loss_at(self, step: int) -> float | None:
        """Training loss of a step."""
        return self.at(step).get("loss")

    def validation_at(self, step: int | None) -> tuple[int, float] | None:
        """The last evaluation not after a step: (its step, loss in nats); None without one."""
        found = [
            (line["step"], line["val_loss"])
            for line in self.steps
            if line.get("val_loss") is not None and step is not None and line["step"] <= step
        ]
        return found[-1] if found else None

    @cached_property
    def report(self) -> Mapping[str, Any]:
        """The run's report as `alpenglow report` wrote it (report.json), empty without one."""
        found = _json(self.path / "report" / "report.json")
        return found if found.get("format") == "alpenglow-report" else {}

    @cached_property
    def imported(self) -> Any:
        """What an import wrote of its weights into the run's step 0, None where it is not there."""
        manifest = _json(self.path / "checkpoints" / "step-00000000" / "manifest.json")
        return _at(manifest, "state", "imported")

    @cached_property
    def skips(self) -> list[dict[str, Any]]:
        """Ranges of samples that the run decided to pass over (skips.jsonl)."""
        return list(_lines(self.path / "skips.jsonl"))

    @cached_property
    def repeated(self) -> int:
        """Steps that were trained again, after a restart or a spike."""
        return sum(1 for line in _lines(self.path / "metrics.jsonl") if "step" in line) - len(
            self.steps
        )


def _at(table: Any, *keys: str) -> Any:
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _segments(run: Path, activity: str | None) -> list[dict[str, Any]]:
    found = []
    for path in sorted((run / "segments").glob("*.json")):
        if path.name.endswith(".rank0.json"):
            continue
        # Rank 0's part stands in where the parent could not close the record.
        side = _json(path.with_name(f"{path.stem}.rank0.json"))
        record = side | {key: value for key, value in _json(path).items() if value is not None}
        if activity is None or record.get("activity", activity) == activity:
            found.append(record)
    return sorted(found, key=lambda record: record.get("started") or 0.0)


def segment_hours(segment: Mapping[str, Any]) -> float | None:
    """Nodes charged times elapsed time; an open record ends at its last heartbeat."""
    nodes, started = segment.get("nodes_charged"), segment.get("started")
    ended = segment.get("ended") or segment.get("heartbeat")
    if nodes is None or started is None or ended is None:
        return None
    return float(nodes) * (float(ended) - float(started)) / 3600.0


def _steps(run: Path) -> list[dict[str, Any]]:
    last: dict[int, dict[str, Any]] = {}
    for fields in _lines(run / "metrics.jsonl"):
        if isinstance(fields.get("step"), int):
            last[fields["step"]] = fields
    return [last[step] for step in sorted(last)]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines; a line that a kill cut is passed over."""
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except OSError:
        return
    with file:
        for line in file:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found
