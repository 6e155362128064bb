"""What the nodes of a step tell each other, through files: FOLDER/HOST.json, verdict.json, ended/.

Nodes have no other connection during a pre-flight, so a bad one cannot hang the rest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow_profiling.rates import UNITS, Metrics
from alpenglow_profiling.verdict import FORMAT

POLL_S = 0.05
VERDICT = "verdict.json"


@dataclass(frozen=True)
class Report:
    """What a node tells of itself."""

    host: str
    address: str
    """Where other nodes reach it."""
    ranks: tuple[int, ...]
    """Its ranks in the step, in the order of their local ranks."""
    device: str
    rates: Metrics
    error: str | None = None
    """Why it could not be measured; its ranks and rates are then empty."""

    def write(self, folder: Path) -> None:
        """Leave the report; of several errors of one node the first stays."""
        told = {
            "format": FORMAT,
            "host": self.host,
            "address": self.address,
            "ranks": list(self.ranks),
            "device": self.device,
            "time": time.time(),
            "units": UNITS,
            "rates": self.rates,
            "error": self.error,
        }
        write_first(folder / f"{self.host}.json", told)

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read what `write` wrote."""
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            told["host"],
            told["address"],
            tuple(told["ranks"]),
            told["device"],
            told["rates"],
            told["error"],
        )


def read_reports(folder: Path, known: Mapping[str, Report] | None = None) -> dict[str, Report]:
    """Read the reports that are there, by host; those in `known` are not read again."""
    found = dict(known or {})
    for path in sorted(folder.glob("*.json")):
        if path.stem not in found and path.name != VERDICT:
            found[path.stem] = Report.read(path)
    return found


def collect(
    folder: Path, nodes: int, expected: Sequence[str], wait_s: float
) -> tuple[dict[str, Report], list[str]]:
    """Wait for the nodes' reports.

    Args:
        folder: where they come.
        nodes: how many are due.
        expected: hosts of the job, in its order.
        wait_s: seconds to wait for the last.

    Returns:
        Reports by host, in the order of their ranks, and names of the missing nodes.
    """
    end = time.monotonic() + wait_s
    found: dict[str, Report] = {}
    while True:
        found = read_reports(folder, found)
        if len(found) >= nodes or time.monotonic() > end:
            break
        time.sleep(POLL_S)
    order = {host: place for place, host in enumerate(expected)}

    def key(report: Report) -> tuple[int, int, str]:
        return min(report.ranks, default=0), order.get(report.host, len(order)), report.host

    found = {report.host: report for report in sorted(found.values(), key=key)}
    missing = [host for host in expected if host not in found][: max(0, nodes - len(found))]
    nameless = nodes - len(found) - len(missing)
    return found, missing + [f"unnamed node {i + 1}" for i in range(nameless)]


def write_first(path: Path, value: Mapping[str, Any]) -> bool:
    """Write a file whole or not at all; False where somebody else was first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
            return True
        return False
    finally:
        temporary.unlink(missing_ok=True)


def tell_end(folder: Path, host: str, rank: int, code: int) -> None:
    """Note that a rank has ended, for the parent of a step in which silent ranks may linger."""
    path = folder / "ended" / host
    path.parent.mkdir(exist_ok=True)
    # Ranks of one node share the file: appending a short line is atomic there.
    with path.open("a", encoding="ascii") as file:
        file.write(f"{rank} {code}\n")
