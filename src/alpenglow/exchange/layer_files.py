"""Files of one pipeline slot and one tensor rank each, and whole tensors out of them.

DeepSpeed's pipeline writes `layer_LL-model_TT-model_states.pt`: slot LL's parameters as tensor rank
TT has them. A tensor of the whole model is the ranks' parts side by side, or one of their replicas,
or what their copies make together. Used by `alpenglow.exchange.neox` and
`alpenglow.exchange.deepspeed`; this module is imported, never started.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from alpenglow.exchange.error import ExchangeError
from alpenglow.exchange.saved_file import read
from alpenglow.model.config import Slice

NAME = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)

Rule = Literal[0, 1, "one", "mean", "sum"]
"""How tensor ranks' parts become one tensor: side by side along dimension 0 or 1, the first one's,
their mean, or their sum."""


def layer_file(folder: Path, slot: int, rank: int) -> Path:
    """The file of a pipeline slot and a tensor rank."""
    return folder / f"layer_{slot:02d}-model_{rank:02d}-model_states.pt"


def present(folder: Path) -> dict[int, set[int]]:
    """Tensor ranks that have a file, by slot, ascending."""
    found: dict[int, set[int]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := NAME.fullmatch(path.name):
            found.setdefault(int(match.group(1)), set()).add(int(match.group(2)))
    return dict(sorted(found.items()))


def tensors_of(path: Path, key: str = "") -> dict[str, torch.Tensor]:
    """Tensors of a file by name, mapped where the file allows it.

    Args:
        path: a file whose body is a dict.
        key: name in the body under which the dict of tensors lies; "" is the body itself.

    Raises:
        ExchangeError: as `saved_file.read`, or there is no such dict.
    """
    body = read(path)
    inner: Any = body.get(key) if key and isinstance(body, dict) else body
    if not isinstance(inner, dict):
        raise ExchangeError(f"{path}: not a file of named tensors")
    return {name: value for name, value in inner.items() if isinstance(value, torch.Tensor)}


@dataclass(frozen=True)
class Part:
    """One tensor rank's part of a tensor."""

    path: Path
    name: str
    """In the file."""
    key: str = ""
    """As for `tensors_of`."""

    def read(self) -> torch.Tensor:
        """The part.

        Raises:
            ExchangeError: the file is gone or another one than when it was first looked at.
        """
        found = tensors_of(self.path, self.key).get(self.name)
        if found is None:
            raise ExchangeError(f"{self.path}: {self.name} is missing")
        return found


@dataclass(frozen=True)
class Merged:
    """A tensor of the whole model as parts that tensor ranks hold."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    """Of what `tensor` gives; that of the parts, but float32 for a sum of several."""
    parts: tuple[Part, ...]
    rule: Rule

    def tensor(self, part: Slice | None = None) -> torch.Tensor:
        """The tensor or a box of it, in fresh memory; one rank's file is open at a time.

        Sums and means are taken in float64, so a mean of equal replicas is the replica.

        Raises:
            ExchangeError: a box outside the tensor, or as `Part.read`.
        """
        target = checked(self.name, self.shape, part)
        size = [stop - start for start, stop in target]
        out = torch.empty(size, dtype=self.dtype)
        if self.rule in ("mean", "sum") and len(self.parts) > 1:
            total = torch.zeros(size, dtype=torch.float64)
            for piece in self.parts:
                total += self._same(piece.read(), self.shape, piece)[_index(target, None)]
            if self.rule == "mean":
                total /= len(self.parts)
            return out.copy_(total)
        if not isinstance(self.rule, int):
            first = self.parts[0]
            return out.copy_(self._same(first.read(), self.shape, first)[_index(target, None)])
        width = self.shape[self.rule] // len(self.parts)
        local = tuple(width if i == self.rule else n for i, n in enumerate(self.shape))
        for rank, piece in enumerate(self.parts):
            begin, end = target[self.rule]
            low, high = max(begin, rank * width), min(end, (rank + 1) * width)
            if low >= high:
                continue
            here = _index(target, (self.rule, low - rank * width, high - rank * width))
            there: list[slice] = [slice(None)] * len(size)
            there[self.rule] = slice(low - begin, high - begin)
            out[tuple(there)] = self._same(piece.read(), local, piece)[here]
        return out

    def _same(self, found: torch.Tensor, shape: tuple[int, ...], piece: Part) -> torch.Tensor:
        if tuple(found.shape) != shape:
            raise ExchangeError(f"{piece.path}: {piece.name} has changed since it was opened")
        return found


def _index(target: Slice, other: tuple[int, int, int] | None) -> tuple[slice, ...]:
    ranges = [slice(start, stop) for start, stop in target]
    if other is not None:
        axis, start, stop = other
        ranges[axis] = slice(start, stop)
    return tuple(ranges)


def checked(name: str, shape: Sequence[int], part: Slice | None) -> Slice:
    """The box to read: all of the tensor without one.

    Raises:
        ExchangeError: the box is not inside the tensor.
    """
    if part is None:
        return tuple((0, n) for n in shape)
    inside = len(part) == len(shape) and all(
        0 <= start <= stop <= n for (start, stop), n in zip(part, shape, strict=True)
    )
    if not inside:
        raise ExchangeError(f"{name}: box {part} does not lie inside {list(shape)}")
    return part


def missing_files(folder: Path, slots: Sequence[int], ranks: int) -> Iterator[Path]:
    """Files that a model of these slots and tensor ranks lacks."""
    for slot in slots:
        for rank in range(ranks):
            if not (path := layer_file(folder, slot, rank)).is_file():
                yield path
