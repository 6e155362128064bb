"""conversion.json: where a release says which checkpoint it is, and the hash of every tensor."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import xxhash

from alpenglow.release.error import ReleaseError

CONVERSION = "conversion.json"
"""Its presence marks a folder as ours to replace."""
FORMAT = 2


class Origin(TypedDict):
    """The checkpoint that was converted."""

    form: str
    """One of `alpenglow.exchange.source.FORMS`."""
    path: str
    """In its run; as it was named where it lies in none."""


class Vocabulary(TypedDict):
    """Rows of the vocabulary's matrices."""

    model: int
    """In the checkpoint."""
    released: int
    """In the folder; fewer where padding was cut."""
    tokenizer: int
    """Ids that the tokenizer uses: its largest, and one."""


class Compared(TypedDict):
    """How the release compared with its checkpoint before it was put in place."""

    tensors: int
    positions: int
    difference: float
    """Largest difference of two logits."""
    largest: float | None
    """Largest logit, beside which the difference is to be seen; None where it is not finite."""
    tolerance: float
    dtype: str
    """That the logits were computed in."""
    text: str
    """What the logits were computed on."""


@dataclass(frozen=True)
class Conversion:
    """What conversion.json says."""

    step: int | None
    """Optimizer steps done; None where the checkpoint does not say."""
    source: Origin
    dtype: str
    """Of the released weights, as torch names it: "float16"."""
    vocabulary: Vocabulary
    verification: Compared | None
    """None where nothing was compared."""
    xxh3_64: dict[str, str]
    """Tensor name in the file -> xxh3-64 of its bytes, 16 hex digits."""

    @classmethod
    def load(cls, folder: Path) -> Conversion:
        """Read it from a release.

        Raises:
            ReleaseError: absent, not JSON, of another format, or without a field.
        """
        path = folder / CONVERSION
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ReleaseError(f"{folder}: not a release: it has no {CONVERSION}") from None
        except (OSError, ValueError) as error:
            raise ReleaseError(f"{path}: {error}") from None
        found = table.get("format") if isinstance(table, dict) else None
        if found != FORMAT:
            raise ReleaseError(
                f"{path}: format {found!r}, this code reads {FORMAT}; convert the checkpoint again"
            )
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in table]:
            raise ReleaseError(f"{path}: {missing[0]} is missing; convert the checkpoint again")
        values = {name: table[name] for name in names}
        _check(path, values)
        return cls(**values)

    @property
    def weights(self) -> str:
        """xxh3-64 over the sorted hashes of the tensors, joined: names the weights in one word."""
        return xxhash.xxh3_64_hexdigest("".join(sorted(self.xxh3_64.values())).encode())

    def write(self, folder: Path) -> None:
        """Write it into a folder (which `put_in_place` gave, or where it lies already)."""
        table = {"format": FORMAT, **dataclasses.asdict(self)}
        temporary = folder / f"{CONVERSION}.tmp"
        temporary.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / CONVERSION)


def _check(path: Path, values: Mapping[str, Any]) -> None:
    step, compared = values["step"], values["verification"]
    lawful = {
        "step": step is None or isinstance(step, int),
        "source": _has(values["source"], Origin, (str,)),
        "dtype": values["dtype"] in ("float32", "float16", "bfloat16"),
        "vocabulary": _has(values["vocabulary"], Vocabulary, (int,)),
        "verification": compared is None or _has(compared, Compared, (int, float, str, type(None))),
        "xxh3_64": isinstance(values["xxh3_64"], dict),
    }
    if wrong := [name for name, right in lawful.items() if not right]:
        raise ReleaseError(f"{path}: {wrong[0]} is not what a conversion writes there")


def _has(table: Any, kind: Any, types: tuple[type, ...]) -> bool:
    return isinstance(table, dict) and all(
        isinstance(table.get(name), types) for name in kind.__annotations__
    )
