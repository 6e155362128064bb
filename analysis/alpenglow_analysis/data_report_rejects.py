"""Rejected documents kept for reading: SHARDS/rejects.jsonl, safe to show.

Each line is an object with slice, stage, reason, source and the beginning of a text. The texts are
those of strangers, binary data among them: control characters become visible, characters that turn
the direction of writing are taken out, and lines that cannot be read are counted, never shown.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

NAME = "rejects.jsonl"
SHOWN = 6
"""Of each reason of a slice."""
CHARACTERS = 500
LONGEST_LINE = 1 << 20
"""Bytes of a line that is still read."""
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


@dataclass
class Rejects:
    """What a file of rejects holds."""

    there: bool = False
    lines: int = 0
    unreadable: int = 0
    count: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """(slice, stage, reason) -> samples in the file."""
    samples: dict[tuple[str, str, str], list[tuple[str, str]]] = field(default_factory=dict)
    """(slice, stage, reason) -> source and text of the first `SHOWN`."""


def rejects(folder: Path) -> Rejects:
    """Read the rejects of a folder of shards, in the order in which they were kept.

    Raises:
        OSError: the file is there and cannot be read.
    """
    found = Rejects()
    path = folder / NAME
    if not path.exists():
        return found
    found.there = True
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            whole = line.endswith(b"\n") or len(line) < LONGEST_LINE
            while not line.endswith(b"\n") and (rest := file.readline(LONGEST_LINE)):
                line = rest  # of a line that is too long, up to its end
            found.lines += 1
            row = _row(line) if whole else None
            if row is None:
                found.unreadable += 1
                continue
            key, sample = row
            found.count[key] = found.count.get(key, 0) + 1
            kept = found.samples.setdefault(key, [])
            if len(kept) < SHOWN:
                kept.append(sample)
    return found


def _row(line: bytes) -> tuple[tuple[str, str, str], tuple[str, str]] | None:
    try:
        row = json.loads(line)
        names = [visible(str(row[name])) for name in ("slice", "stage", "reason", "source")]
        text = str(row["text"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    slice_name, stage, reason, source = (" ".join(name.split()) for name in names)
    return (slice_name, stage, reason), (source, visible(text[:CHARACTERS]))


def visible(text: str) -> str:
    """A text that shows what it holds and can be written as UTF-8."""
    text = text.replace("\r\n", "\n").translate(_VISIBLE)
    return _TURNING.sub("\ufffd", text).encode("utf-8", "replace").decode("utf-8")
