"""The runs of an allocation added up: what each was charged, and what of it was useful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alpenglow_analysis.burn import Burn, burn
from alpenglow_analysis.run import Run
from alpenglow_analysis.segment import RunError, Segment
from alpenglow_analysis.utilisation import Account, account


@dataclass(frozen=True)
class Used:
    """What one run directory used."""

    path: Path
    name: str
    segments: tuple[Segment, ...]
    """Of every activity, in the order they started."""
    run: Run | None
    """None where the directory is not one of a training run: its jobs still count."""
    account: Account | None

    @property
    def tokens(self) -> float | None:
        """Tokens of all steps that count; None where nothing is known of them."""
        if self.run is None or not len(self.run.metrics):
            return None
        return float(self.run.tokens(self.run.metrics.step).sum())


@dataclass(frozen=True)
class Quarter:
    """All runs, and the period that the report is about."""

    used: tuple[Used, ...]
    begin_s: float
    """Unix time at which the period begins."""
    end_s: float
    missing: list[str] = field(default_factory=list)

    @property
    def segments(self) -> list[Segment]:
        """Every job, in the order they started."""
        found = [segment for used in self.used for segment in used.segments]
        return sorted(found, key=lambda segment: (segment.started, segment.name))

    def burn(self) -> Burn:
        """Use over time by all of them."""
        return burn(self.segments)

    def in_period(self, segments: Sequence[Segment]) -> float:
        """Node-hours of some jobs inside the period; a job across its border counts in part."""
        return sum(
            segment.nodes
            * max(0.0, min(segment.ended, self.end_s) - max(segment.started, self.begin_s))
            / 3600
            for segment in segments
        )

    def until_end(self, segments: Sequence[Segment]) -> float:
        """Node-hours of some jobs until the end of the period."""
        return sum(
            segment.nodes * max(0.0, min(segment.ended, self.end_s) - segment.started) / 3600
            for segment in segments
        )

    def pieces(self) -> dict[str, float]:
        """Node-hours of each piece of the account over all runs that have one."""
        found: dict[str, float] = {}
        for used in self.used:
            if used.account is None or used.run is None:
                continue
            hours = sum(segment.node_hours for segment in used.run.segments)
            for key in used.account.pieces:
                found[key] = found.get(key, 0.0) + used.account.share(key) * hours
        return found


def quarter(paths: Sequence[Path], begin_s: float, end_s: float) -> Quarter:
    """Read run directories.

    Args:
        paths: the run directories.
        begin_s: unix time at which the period begins.
        end_s: unix time at which it ends.

    Raises:
        RunError: a path is not a directory, is given twice, or no job was found in any.
    """
    seen: dict[Path, Path] = {}
    used, missing = [], []
    for path in paths:
        if not path.is_dir():
            raise RunError(f"{path}: no such run directory")
        real = path.resolve()
        if real in seen:
            raise RunError(f"{path}: is {seen[real]} once more, and would count twice")
        seen[real] = path
        found, said = _used(path)
        missing += said
        if found is not None:
            used.append(found)
    if not used:
        raise RunError("no job left a record in any of these directories: nothing to add up")
    return Quarter(tuple(used), begin_s, end_s, missing)


def _used(path: Path) -> tuple[Used | None, list[str]]:
    said: list[str] = []
    try:
        run = Run.load(path, write=False)
    except RunError as error:
        segments = _records(path, said)
        if not segments:
            return None, [*said, f"{error}; it is left out"]
        said.append(f"{error}; its jobs count, and nothing is known of what was useful")
        return Used(path, path.name, segments, None, None), said
    segments = tuple(sorted((*run.segments, *run.others), key=lambda s: (s.started, s.name)))
    said += [f"run {run.facts.name}: {damage}" for damage in run.damages]
    return Used(path, run.facts.name, segments, run, account(run)), said


def _records(path: Path, said: list[str]) -> tuple[Segment, ...]:
    found = []
    for record in sorted((path / "segments").glob("*.json")):
        if record.stem.endswith(".rank0"):
            continue
        try:
            found.append(Segment.load(record, ranks_per_node=1))
        except RunError as error:
            said.append(str(error))
    return tuple(sorted(found, key=lambda segment: (segment.started, segment.name)))
