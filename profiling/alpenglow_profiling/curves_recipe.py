"""What curves to measure: jobs/calibrate.toml as data. Needs no torch.

A table named after a machine (`[laptop]`) is laid over the rest where ALPENGLOW_MACHINE names it,
as in every recipe.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from alpenglow_profiling.curve import CurveError

DTYPES = ("auto", "fp32", "fp16", "bf16")


@dataclass(frozen=True)
class ProductsRecipe:
    """Matrix products: those of transformer layers, and a spread around them."""

    budget_s: float = 180.0
    repeats: int = 7
    hidden: tuple[int, ...] = (2560, 4096)
    """Hidden sizes; the MLP has four times as much."""
    tensor: tuple[int, ...] = (1, 2)
    """Tensor-parallel degrees: the rank's share of each product."""
    tokens: tuple[int, ...] = (2048, 4096)
    """Of a micro-batch."""
    vocab: int = 50432
    head: int = 128
    """Size of an attention head."""
    sequence: int = 2048
    spread: tuple[int, ...] = (512, 1760, 2560, 4096, 7680)
    """Sides of products that no model has: fat ones, and with `skinny` and `odd` sides."""
    skinny: tuple[int, ...] = (16, 32, 64, 128)
    odd: tuple[int, ...] = (35, 700, 5124)


@dataclass(frozen=True)
class CopiesRecipe:
    """Streaming kernels, by bytes."""

    budget_s: float = 60.0
    repeats: int = 11
    smallest_bytes: int = 4096
    largest_bytes: int = 1 << 31
    factor: int = 2


@dataclass(frozen=True)
class AttentionRecipe:
    """Fused attention."""

    budget_s: float = 60.0
    repeats: int = 7
    sequences: tuple[int, ...] = (1024, 2048, 4096)
    heads: int = 16
    head: int = 128


@dataclass(frozen=True)
class NetworkRecipe:
    """Collectives and messages, by bytes and group."""

    budget_s: float = 420.0
    repeats: int = 9
    socket: int = 0
    """Ranks of a socket; 0 means that a node has one."""
    smallest_bytes: int = 1024
    largest_bytes: int = 1 << 28
    factor: int = 4


@dataclass(frozen=True)
class CurvesRecipe:
    """The whole recipe."""

    dtype: str = "auto"
    """Of products, copies and messages; `auto` is fp16 on a GPU and fp32 on a CPU."""
    together: bool = True
    """All ranks time products and copies at once, as in a job; else one rank, the others idle."""
    limit_s: float = 1500.0
    """The program ends by then, with what it has."""
    products: ProductsRecipe = field(default_factory=ProductsRecipe)
    copies: CopiesRecipe = field(default_factory=CopiesRecipe)
    attention: AttentionRecipe = field(default_factory=AttentionRecipe)
    network: NetworkRecipe = field(default_factory=NetworkRecipe)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype = {self.dtype!r}; choose from {', '.join(DTYPES)}")
        if not self.limit_s > 0:
            raise ValueError(f"limit_s = {self.limit_s} should be above 0")
        for name in ("products", "copies", "attention", "network"):
            table = getattr(self, name)
            if table.budget_s < 0 or table.repeats < 1:
                raise ValueError(f"{name}: budget_s is at least 0 and repeats at least 1")
        for name in ("copies", "network"):
            table = getattr(self, name)
            if not (1 <= table.smallest_bytes <= table.largest_bytes and table.factor >= 2):
                raise ValueError(
                    f"{name}: smallest_bytes = {table.smallest_bytes} to largest_bytes = "
                    f"{table.largest_bytes} by factor = {table.factor} is no range"
                )

    @classmethod
    def read(
        cls, path: Path, machine: str | None = None, overrides: Sequence[str] = ()
    ) -> CurvesRecipe:
        """Read a recipe.

        Args:
            path: the TOML file.
            machine: the table of this name is laid over the rest.
            overrides: `table.key=value` in TOML.

        Raises:
            CurveError: no such file, an unknown key, or a value that makes no sense.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CurveError(f"{path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise CurveError(f"{path}: not valid TOML: {error}") from None
        overlay = tables.pop(machine, {}) if machine else {}
        known = {spec.name for spec in fields(cls)}
        for name in [*tables]:
            # Another machine's overlay: a table of our tables.
            if (
                name not in known
                and isinstance(tables[name], dict)
                and known.issuperset(tables[name])
            ):
                del tables[name]
        above = [overlay, *map(_override, overrides)]
        for table in above:
            tables = _laid_over(tables, table)
        recipe: CurvesRecipe = _build(cls, tables, str(path), "")
        return recipe


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    if not key or not equals:
        raise CurveError(f"{text!r}: write an override as table.key=value")
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    return dict(parsed)


def _laid_over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    laid = dict(base)
    for key, value in top.items():
        below = laid.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        laid[key] = _laid_over(below, value) if both else value  # type: ignore[arg-type]
    return laid


def _build(schema: Any, tables: Any, where: str, prefix: str) -> Any:
    if not isinstance(tables, dict):
        raise CurveError(f"{where}: {prefix.rstrip('.')} should be a table")
    defaults = schema()
    values: dict[str, Any] = {}
    for key, value in tables.items():
        if not hasattr(defaults, key):
            near = difflib.get_close_matches(key, vars(defaults), n=1, cutoff=0.4)
            cure = (
                f"did you mean {prefix}{near[0]}?"
                if near
                else f"known: {', '.join(vars(defaults))}"
            )
            raise CurveError(f"{where}: unknown key {prefix}{key}; {cure}")
        default = getattr(defaults, key)
        if hasattr(default, "budget_s"):
            values[key] = _build(type(default), value, where, f"{prefix}{key}.")
        elif isinstance(default, tuple):
            if not isinstance(value, list) or not all(type(v) is int and v > 0 for v in value):
                raise CurveError(f"{where}: {prefix}{key} = {value!r} should be a list of counts")
            values[key] = tuple(value)
        elif type(value) is type(default):
            values[key] = value
        elif isinstance(default, float) and type(value) is int:
            values[key] = float(value)
        else:
            wanted = type(default).__name__
            raise CurveError(f"{where}: {prefix}{key} = {value!r} should be of type {wanted}")
    try:
        return schema(**values)
    except ValueError as error:
        raise CurveError(f"{where}: {prefix}{error}") from None
