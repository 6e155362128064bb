"""Recipes: a TOML file becomes a frozen dataclass, or one sentence says why not.

A recipe is one TOML file beside the batch script of the same name. A top-level table named after a
machine (`[laptop]`) is an overlay: on that machine it is laid over the rest, on any other it is
ignored. Named layouts lie between: `layout = "published"` lays the tables of `[layouts.published]`
over the rest, under the machine's. Dotted overrides (`train.steps=20`, `layout=published`) come
last. Every key must belong to the dataclass; an unknown one is refused with the nearest name that
exists.

    recipe = load(Path("jobs/pretrain_7b.toml"), PretrainRecipe, machine="laptop", machines=names)
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

T = TypeVar("T")
_LAYOUT_KEYS = ("layout", "layouts")


class ConfigError(ValueError):
    """A recipe that cannot be used; the message is one sentence for the user."""


def load(
    path: Path,
    schema: type[T],
    *,
    machine: str | None = None,
    machines: Collection[str] = (),
    overrides: Sequence[str] = (),
) -> T:
    """Read a recipe.

    Args:
        path: the TOML file.
        schema: a (nested) frozen dataclass; its fields are the lawful keys.
        machine: name of this machine, whose overlay table is applied.
        machines: every known machine name: these top-level tables are overlays.
        overrides: `dotted.key=value`, value in TOML syntax (a bare word is taken as a string).

    Raises:
        ConfigError: no such file, not TOML, an unknown or missing key, a wrong type, or a
            combination that the dataclass itself refuses.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    overlays = {name: tables.pop(name) for name in [*tables] if name in machines}
    above = [overlays[machine]] if machine is not None and machine in overlays else []
    above += [_parse_override(override) for override in overrides]
    if any(key in table for table in (tables, *above) for key in _LAYOUT_KEYS):
        tables, above = _lay_out(tables, above, str(path))
    for table in above:
        tables = _merge(tables, table)
    return parse(schema, tables, str(path))


def _lay_out(
    tables: dict[str, Any], above: Sequence[Mapping[str, Any]], where: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Lay the named layout over `tables`; what is returned speaks of layouts no more."""
    asked: dict[str, Any] = {}
    rest = []
    for table in (tables, *above):
        asked = _merge(asked, {key: table[key] for key in _LAYOUT_KEYS if key in table})
        rest.append({key: item for key, item in table.items() if key not in _LAYOUT_KEYS})
    name, layouts = asked.get("layout"), asked.get("layouts")
    if not isinstance(layouts, Mapping) or not layouts:
        raise ConfigError(f"{where}: layout = {name!r}, but there is no table [layouts.{name}]")
    if name not in layouts:
        near = difflib.get_close_matches(str(name), layouts, n=1, cutoff=0.4)
        cure = f"did you mean {near[0]}?" if near else f"choose from {', '.join(layouts)}"
        given = "layout is missing" if name is None else f"layout = {name!r} is not in [layouts]"
        raise ConfigError(f"{where}: {given}; {cure}")
    if not isinstance(layouts[name], Mapping):
        raise ConfigError(f"{where}: layouts.{name} must be a table")
    return _merge(rest[0], layouts[name]), rest[1:]


def parse(schema: type[T], tables: Mapping[str, Any], where: str) -> T:
    """Build `schema` from plain tables; `where` names their origin in errors (see `load`)."""
    return typing.cast(T, _build(schema, tables, where, ""))


def to_tables(config: Any) -> dict[str, Any]:
    """Turn a recipe into plain tables that TOML can hold; `None` means the key is absent."""
    return typing.cast(dict[str, Any], _plain(config))


def to_toml(config: Any) -> str:
    """Write a recipe as TOML text; `parse` reads the same recipe back."""
    return tomli_w.dumps(to_tables(config))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {name: item for name, item in fields.items() if item is not None}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"override {text!r}: write it as section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    nested: Any = parsed
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return typing.cast(dict[str, Any], nested)


def _build(schema: Any, tables: Any, where: str, prefix: str) -> Any:
    if not isinstance(tables, Mapping):
        raise ConfigError(f"{where}: {prefix.rstrip('.') or 'recipe'} must be a table")
    hints = typing.get_type_hints(schema)
    fields = {f.name: f for f in dataclasses.fields(schema) if f.init}
    for key in tables:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.4)
            known = ", ".join(fields) or "none"
            cure = f"did you mean {prefix}{near[0]}?" if near else f"known: {known}"
            raise ConfigError(f"{where}: unknown key {prefix}{key}; {cure}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in tables:
            values[name] = _convert(hints[name], tables[name], where, f"{prefix}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: {prefix}{name} is missing")
    try:
        return schema(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {prefix.rstrip('.') or 'recipe'}: {error}") from None


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:  # noqa: PLR0911
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where, f"{key}.")
    if origin in (typing.Union, types.UnionType):
        kinds = [a for a in arguments if a is not type(None)]
        words = [w for kind in kinds[1:] for w in typing.get_args(kind)]
        if value in words or (str in kinds[1:] and isinstance(value, str)):
            return value
        try:
            return _convert(kinds[0], value, where, key)
        except ConfigError as error:
            raise ConfigError(" or ".join([str(error), *map(repr, words)])) from None
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: {key} = {value!r}; choose from {list(arguments)}")
        return value
    if origin in (tuple, list) and isinstance(value, list):
        items = [_convert(arguments[0], v, where, f"{key}[{i}]") for i, v in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if isinstance(value, Mapping):
            return {k: _convert(arguments[1], v, where, f"{key}.{k}") for k, v in value.items()}
    elif hint is Any:
        return value
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    wanted = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{where}: {key} = {value!r} should be of type {wanted}")
