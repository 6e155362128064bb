"""evaluation.json: what was measured of a released model, by which code, with which prompts.

Results of one task and implementation replace earlier ones of the same; others stay, as long as
they are of the same weights and the same versions of what computed them.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from alpenglow.evaluate.error import EvaluateError
from alpenglow.train.run_directory import utc_now

NAME = "evaluation.json"
FORMAT = 1
_HARNESS = "lm_eval"


@dataclass
class Evaluation:
    """The content of one evaluation.json."""

    model: dict[str, Any]
    """`step`, `dtype` and `weights`: xxh3-64 over the sorted hashes of the tensors, joined."""
    results: list[dict[str, Any]] = field(default_factory=list)
    perplexity: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, model: dict[str, Any]) -> Evaluation:
        """Go on with a file's results where they are of the same weights and versions.

        Raises:
            EvaluateError: a file that is there and is no evaluation; it is not replaced.
        """
        try:
            tables = json.loads(path.read_text(encoding="utf-8"))
            former, number = tables["model"], tables["format"]
            lists = [list(tables[key]) for key in ("results", "perplexity", "notes")]
            kept = cls(model, lists[0], lists[1], lists[2])
            made_by = tables["harness"]
            if not all({"task", "implementation"} <= result.keys() for result in kept.results):
                raise KeyError("task")
        except FileNotFoundError:
            return cls(model)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise EvaluateError(
                f"{path}: exists and is not an evaluation; move it away, or name another output"
            ) from None
        if number != FORMAT:
            raise EvaluateError(
                f"{path}: format {number}, this version writes {FORMAT}; move it away"
            )
        if former != model or made_by != harness() or model["weights"] is None:
            return cls(model)
        return kept

    def has(self, task: str, implementation: str, **wanted: Any) -> bool:
        """Whether a result with these fields is there."""
        return any(
            all(result.get(key) == value for key, value in wanted.items())
            for result in self._of(task, implementation)
        )

    def _of(self, task: str, implementation: str) -> list[dict[str, Any]]:
        key = (task, implementation)
        return [r for r in self.results if (r["task"], r["implementation"]) == key]

    def replace(
        self,
        task: str,
        implementation: str,
        results: Sequence[dict[str, Any]],
        notes: Sequence[str],
    ) -> None:
        """Put results in the place of earlier ones of the same task and implementation."""
        gone = self._of(task, implementation)
        self.results = [result for result in self.results if result not in gone] + list(results)
        self.say(f"{task}, {implementation}: ", notes)

    def say(self, opening: str, notes: Sequence[str]) -> None:
        """Put notes with an opening in the place of earlier ones with it."""
        self.notes = [note for note in self.notes if not note.startswith(opening)]
        self.notes += [opening + note for note in notes]

    def write(self, path: Path) -> None:
        """Write the whole file at once."""
        tables = {
            "format": FORMAT,
            "made": utc_now().replace("+00:00", "Z"),
            "model": self.model,
            "harness": harness(),
            "results": self.results,
            "perplexity": self.perplexity,
            "notes": self.notes,
        }
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(json.dumps(tables, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def table(self) -> str:
        """What a person reads at the end: task, implementation, metric, value, error, items."""
        rows = [("task", "implementation", "metric", "value", "items")]
        for result in self.results:
            error = result["stderr"]
            value = f"{result['value']:.4f}" + ("" if error is None else f" ± {error:.4f}")
            partial = f" of {result['of']}" if result["items"] < result["of"] else ""
            names = (result["task"], result["implementation"], result["metric"])
            rows.append((*names, value, f"{result['items']}{partial}"))
        for row in self.perplexity:
            kind = "held out" if row["held_out"] else "training text"
            bits = (
                "" if row["bits_per_byte"] is None else f", {row['bits_per_byte']:.4f} bits a byte"
            )
            value = f"{row['perplexity']:.4f}{bits}"
            rows.append(("perplexity", kind, row["slice"], value, f"{row['tokens']} tokens"))
        widths = [max(len(row[place]) for row in rows) for place in range(5)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)) for r in rows]
        return "\n".join(line.rstrip() for line in lines)


def model_facts(folder: Path) -> dict[str, Any]:
    """Which weights a folder has, as its conversion.json says; None what is unknown.

    Raises:
        EvaluateError: a conversion.json that cannot be read.
    """
    path = folder / "conversion.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        hashes = sorted(facts["xxh3_64"].values())
        dtype, step = facts["dtype"], facts["step"]
    except FileNotFoundError:
        return {"step": None, "dtype": _dtype(folder), "weights": None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluateError(
            f"{path}: cannot be read ({type(error).__name__}); convert again (jobs/convert.lsf)"
        ) from None
    weights = xxhash.xxh3_64_hexdigest("".join(hashes).encode())
    return {"step": step, "dtype": dtype, "weights": weights}


def _dtype(folder: Path) -> str | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        name = config.get("dtype") or config.get("torch_dtype")
    except (OSError, ValueError, AttributeError):
        return None
    return None if name is None else str(name)


def harness() -> dict[str, Any]:
    """Versions of what computed; the commit where the harness was installed from its repository."""
    commit = None
    direct = importlib.metadata.distribution(_HARNESS).read_text("direct_url.json")
    if direct is not None:  # PEP 610
        commit = json.loads(direct).get("vcs_info", {}).get("commit_id")
    return {
        "package": _HARNESS,
        "version": importlib.metadata.version(_HARNESS),
        "commit": commit,
        "transformers": importlib.metadata.version("transformers"),
        "torch": importlib.metadata.version("torch"),
    }
