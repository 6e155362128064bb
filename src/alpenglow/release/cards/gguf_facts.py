"""What a model's card says of its GGUF files: `gguf.json` of the folder beside the release.

Called by `card`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alpenglow.release.cards.markdown import known, line, section, size, table
from alpenglow_lsf.files import read_json

REPORT = "gguf.json"


def gguf_beside(folder: Path, step: int | None) -> dict[str, Any]:
    """The report on the files made from a release, empty where there is none of this step."""
    found = read_json(folder.parent / "gguf" / REPORT) or {}
    return found if found.get("files") and found.get("step") == step else {}


def gguf_section(report: Mapping[str, Any]) -> str:
    """Files side by side with the original; empty where there are none."""
    if not report:
        return ""
    original = known(report.get("original_perplexity"), "{:,.4f}")
    rows = [("the release", size(report.get("original_bytes")), "", "", original)]
    for file in report["files"]:
        checked = file.get("checked") or {}
        logits = checked.get("logits") or {}
        allowed = known(logits.get("tolerance"), "{:.2g}")
        rows.append(
            (
                f"`{file.get('file')}`",
                size(file.get("bytes")),
                known(logits.get("difference"), "{:.2g}"),
                "any" if logits and logits.get("tolerance") is None else allowed,
                known(checked.get("perplexity"), "{:,.4f}"),
            )
        )
    by = report.get("llama_cpp")
    how = f"Compared by llama.cpp ({by})." if by else "Not compared: llama.cpp was not at hand."
    notes = [f"- {line(str(note))}" for note in report.get("notes") or []]
    head = ("file", ">size", ">largest logit difference", ">allowed", ">perplexity")
    return section("GGUF", table(head, rows), how, "\n".join(notes))
