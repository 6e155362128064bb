"""A curve of a machine: what was measured, and under what; one file of JSON lines each.

The first line is the header (what, where, when, with which libraries, what was left out), every
other line a point. Torch-free.

    Curve("copies", {"device": "Tesla V100", ...}, points).write(folder)
    curve = Curve.read(folder / "copies.jsonl")
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
SUFFIX = ".jsonl"
Point = dict[str, Any]
"""`seconds` is the median over repeats, and over ranks where several measured; `worst` and `least`
are of the slowest and of the fastest rank or repeat; the other keys say what was timed."""


class CurveError(RuntimeError):
    """A curve that cannot be measured or read; the message is one sentence."""


@dataclass(frozen=True)
class Curve:
    """Points of one kind."""

    name: str
    header: Mapping[str, Any]
    points: Sequence[Point]

    def write(self, folder: Path) -> Path:
        """Write the file whole, or not at all.

        Raises:
            OSError: the folder takes no file.
        """
        path = folder / f"{self.name}{SUFFIX}"
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        lines = [{"format": FORMAT, "curve": self.name, **self.header}, *self.points]
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    @classmethod
    def read(cls, path: Path) -> Curve:
        """Read a file.

        Raises:
            CurveError: it is no curve.
        """
        try:
            header, *points = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            if header.pop("format") != FORMAT:
                raise CurveError(f"{path}: a curve of another format than {FORMAT}")
            name = header.pop("curve")
            for point in points:
                if not float(point["seconds"]) > 0:
                    raise CurveError(f"{path}: a point takes {point['seconds']} s")
        except OSError as error:
            raise CurveError(f"{path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CurveError(f"{path} holds no curve: measure it again") from None
        return cls(name, header, points)


def newest(run: Path) -> Path:
    """Folder of a run's curves: the run itself where they lie in it, else its newest segment's.

    Raises:
        CurveError: nothing was measured there.
    """
    if any(run.glob(f"*{SUFFIX}")):
        return run
    found = [path.parent for path in (run / "curves").glob(f"*/*{SUFFIX}")]
    if not found:
        raise CurveError(
            f"{run} holds no curves: bsub jobs/calibrate.lsf measures them into RUN/curves/SEGMENT"
        )
    return max(found, key=lambda folder: (folder.stat().st_mtime_ns, folder.name))
