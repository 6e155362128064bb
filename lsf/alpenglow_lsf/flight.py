"""What a segment's pre-flight decided: RUN/preflight/SEGMENT, written by the ranks.

alpenglow_profiling.preflight measures and writes verdict.json there, and, where nodes were silent,
a file a node in ended/ with a line `RANK CODE` for each of its ranks that has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from alpenglow_lsf.files import read_json

MORE_TO_DO = 85
NAMED = 4
"""Lines of a verdict that a record repeats."""


@dataclass(frozen=True)
class Flight:
    """A verdict, as far as the parent of a step needs it."""

    folder: Path
    exit_code: int
    """What the ranks ended with where nothing was started."""
    hosts: tuple[str, ...]
    """Nodes in use, in the order of their ranks."""
    left_out: tuple[str, ...]
    """Nodes that are not: spare, bad or silent."""
    missing: tuple[str, ...]
    """Those of them that did not report; their ranks may hang."""
    ranks: int
    """How many ranks go on."""
    text: tuple[str, ...]
    """What is wrong, a line each, then how many nodes were measured."""

    @property
    def words(self) -> str:
        """The first lines in one sentence, for a record."""
        return "; ".join(self.text[:NAMED]) + ("; ..." if self.text[NAMED:] else "")

    @classmethod
    def read(cls, run: Path, segment: str) -> Flight | None:
        """Read the verdict on a segment's nodes; None where there is none (yet)."""
        folder = run / "preflight" / segment
        told = read_json(folder / "verdict.json")
        if told is None:
            return None
        with suppress(KeyError, TypeError, ValueError):
            missing = tuple(str(host) for host in told["missing"])
            return cls(
                folder,
                int(told["exit_code"]),
                tuple(str(host) for host in told["hosts"]),
                (*(str(host) for host in told["left_out"]), *missing),
                missing,
                len(told["ranks"]),
                tuple(str(line) for line in told["text"]),
            )
        return None

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> Flight | None:
        """Read the verdict on the segment that this process belongs to."""
        run, segment = environ.get("ALPENGLOW_RUN"), environ.get("ALPENGLOW_SEGMENT")
        return cls.read(Path(run), segment) if run and segment else None

    def over(self) -> int | None:
        """Exit code of the step once every rank in use has ended, for one that cannot end itself.

        None where silent nodes were not gone over, or ranks still run.
        """
        if not self.missing or self.exit_code:
            return None
        codes = []
        for path in (self.folder / "ended").glob("*"):
            # A line that is being written has no end yet.
            whole = path.read_text(encoding="ascii").rpartition("\n")[0].splitlines()
            codes += [int(line.split()[1]) for line in whole]
        if len(codes) < self.ranks:
            return None
        failed = [code for code in codes if code not in (0, MORE_TO_DO)]
        return next(iter(failed), MORE_TO_DO if MORE_TO_DO in codes else 0)
