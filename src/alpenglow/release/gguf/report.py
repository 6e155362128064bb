"""What a set of GGUF files is and how it compares with the original: a table and `gguf.json`.

`gguf.json` lies beside the files and is what a model card quotes. Used by
`alpenglow.release.gguf.command`.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gguf
import xxhash

from alpenglow.release.error import ReleaseError
from alpenglow.release.gguf.llama_check import Checked

REPORT = "gguf.json"
_CHUNK = 1 << 24


@dataclass(frozen=True)
class FileRow:
    """One file."""

    file: str
    type: str
    written_by: str
    """The package or the quantiser, with its version where it says one."""
    bytes: int
    xxh3_64: str
    tensors: dict[str, int]
    """Types of its matrices -> how many."""
    checked: Checked | None


@dataclass
class Report:
    """All files of one conversion."""

    model: str
    step: int | None
    dtype: str
    """Of the released weights."""
    llama_cpp: str | None
    """Version of llama-cpp-python that checked the files; None where nothing did."""
    original_bytes: int
    original_perplexity: float | None = None
    token_ids_compared: int | None = None
    text: dict[str, Any] | None = None
    """Name, hash, windows and scored tokens of the perplexity's text."""
    files: list[FileRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write gguf.json."""
        content = {"format": 1, "gguf": package_version(), **asdict(self)}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def table(self) -> str:
        """The files side by side, as Markdown."""
        head = ["file", "MB", "matrices", "largest logit difference", "allowed", "perplexity"]
        first = ["original, fp32 in transformers", _mb(self.original_bytes), self.dtype, "", ""]
        rows = [head, ["---"] * len(head), [*first, _number(self.original_perplexity, ".4f")]]
        for row in self.files:
            checked = row.checked or Checked(None, None)
            logits = checked.logits
            rows.append(
                [
                    row.file,
                    _mb(row.bytes),
                    ", ".join(f"{count} {kind}" for kind, count in row.tensors.items()),
                    _number(None if logits is None else logits.difference, ".2g"),
                    _number(None if logits is None else logits.tolerance, ".2g"),
                    _number(checked.perplexity, ".4f"),
                ]
            )
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def package_version() -> str:
    """Version of the `gguf` package."""
    return importlib.metadata.version("gguf")


def describe(path: Path, type_name: str, written_by: str, checked: Checked | None) -> FileRow:
    """Read a written file back: its size, hash and the types of its matrices.

    Raises:
        ReleaseError: it cannot be read.
    """
    try:
        reader = gguf.GGUFReader(path)
        kinds = Counter(t.tensor_type.name for t in reader.tensors if len(t.shape) > 1)
    except (OSError, ValueError, IndexError) as error:
        raise ReleaseError(f"{path}: it cannot be read back: {error}") from None
    digest = xxhash.xxh3_64()
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    size = path.stat().st_size
    counts = dict(kinds.most_common())
    return FileRow(path.name, type_name, written_by, size, digest.hexdigest(), counts, checked)


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
