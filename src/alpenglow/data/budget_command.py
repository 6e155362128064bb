"""`alpenglow data budget`: thresholds that give each slice the tokens of a published data set.

alpenglow data budget runs/prepare_data --target llama
alpenglow data budget runs/prepare_data --target redpajama --total 20e9 --output budget.toml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from alpenglow.data.budget import (
    PUBLISHED,
    QUALITY,
    Cut,
    SliceBudget,
    SliceColumns,
    Target,
    fit,
    natural_cut,
    scaled,
    targets,
)
from alpenglow.data.document import DataError
from alpenglow.data.recipe import SLICES
from alpenglow.data.stored_columns import read_columns
from alpenglow_lsf.files import write_text

MUCH = 1.02
"""A slice within 2 % above its target needs no word."""

Read = Callable[[Path, Mapping[str, Cut | None]], Mapping[str, SliceColumns]]


def main(arguments: Sequence[str] | None = None, read: Read = read_columns) -> int:
    """Find thresholds; returns the exit code.

    Args:
        arguments: of the command line.
        read: gives the columns of a run; the run's stored signals by default.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.total is not None and not options.total > 0:
        parser.error("--total should be a number of tokens above 0")
    try:
        named = dict(_signal(text) for text in options.signal)
    except ValueError as error:
        parser.error(str(error))
    try:
        wanted = targets(options.target)
        slices = read(options.run, named)
        aims, scale, scarcest = scaled(wanted, slices, options.scale, options.total)
        found = [
            fit(name, slices[name], aims[name], _cut(name, slices[name], named))
            for name in SLICES
            if name in aims
        ]
        left_out = [name for name in wanted if name not in aims]
        fragment = toml(found, options.target, scale)
        if options.output is not None:
            write_text(options.output, fragment)
    except DataError as error:
        sys.stderr.write(f"budget: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"budget: {options.output}: cannot be written ({error.strerror})\n")
        return 1
    chosen = options.scale is None and options.total is None
    why = f", at which {scarcest} is used whole and nothing is repeated" if chosen else ""
    sys.stdout.write(f"target {options.target} x {scale:.4g}{why}\n\n")
    sys.stdout.write(table(found) + "\n\n")
    sys.stdout.write("".join(f"{line}\n" for line in sentences(found, wanted, left_out)))
    where = f"written to {options.output}" if options.output else "for the recipe"
    sys.stdout.write(f"\n# {where}\n{fragment}")
    return 0


def table(found: Sequence[SliceBudget]) -> str:
    """Target, tokens, bound and quality of each slice, as text."""
    rows = [
        ("slice", "target", "there", "chosen", "documents", "cut at", "percentile", "epochs",
         "published")
    ]  # fmt: skip
    for each in found:
        cut = "-"
        percentile = "-"
        if each.cut is not None and each.value is not None and each.percentile is not None:
            sign = ">=" if each.cut.side == "least" else "<="
            cut = f"{each.cut.signal} {sign} {each.value:g}"
            percentile = f"{each.percentile:.1f}"
        rows.append(
            (
                each.slice, _short(each.target.tokens), _short(each.available),
                _short(each.tokens), f"{each.within:,}", cut, percentile, f"{each.epochs:.2f}",
                f"{each.target.epochs:.2f}",
            )
        )  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in (0, 5) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def sentences(
    found: Sequence[SliceBudget], wanted: Mapping[str, Target], left_out: Sequence[str]
) -> list[str]:
    """What the table means, slice by slice where there is something to say."""
    said = []
    for each in found:
        if not each.reached:
            said.append(
                f"{each.slice}: {_short(each.tokens)} of {_short(each.target.tokens)} tokens: not "
                f"to be reached without reading each {each.target.tokens / each.tokens:.2f} times"
            )
        elif each.cut is not None:
            said.append(
                f"{each.slice}: cut at {each.cut.signal} = {each.value:g}; of the documents that "
                f"the other rules keep, {each.within / each.documents:.1%} stay "
                f"(the worst of them was {each.worst:.4g})"
            )
        elif each.tokens > MUCH * each.target.tokens:
            said.append(
                f"{each.slice}: {each.tokens / each.target.tokens:.2f} times the target, and no "
                "signal to cut it by: give it a smaller weight in the mixture"
            )
    for name in left_out:
        size = _short(wanted[name].tokens)
        said.append(f"{name}: nothing is kept of it; the target has {size} tokens of it")
    return said


def toml(found: Sequence[SliceBudget], target: str, scale: float) -> str:
    """The bounds as tables of the recipe."""
    parts = [f"# Token budget: {target} x {scale:.6g}.\n"]
    for each in found:
        if each.cut is not None:
            parts.append(
                f"\n[slices.{each.slice}.thresholds]\n"
                f"{each.cut.signal} = {{ {each.cut.side} = {each.value!r} }}"
                f"  # {_short(each.tokens)} tokens, percentile {each.percentile:.1f}\n"
            )
    if len(parts) == 1:
        parts.append("# No slice has to be cut.\n")
    return "".join(parts)


def _cut(name: str, columns: SliceColumns, named: Mapping[str, Cut | None]) -> Cut | None:
    return named[name] if name in named else natural_cut(columns.columns)


def _signal(text: str) -> tuple[str, Cut | None]:
    name, _, signal = text.partition("=")
    signal, _, side = signal.partition(":")
    if name not in SLICES or not signal:
        shapes = "SLICE=COLUMN, SLICE=COLUMN:most or SLICE=none"
        raise ValueError(f"--signal {text}: should be {shapes}")
    if signal == "none":
        return name, None
    if not side:
        side = "most" if signal.endswith("perplexity") else "least"
    if side == "least":
        return name, Cut(signal, "least")
    if side == "most":
        return name, Cut(signal, "most")
    raise ValueError(f"--signal {text}: after the colon stands least or most")


def _short(tokens: float) -> str:
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"


def _scale(text: str) -> float | None:
    if text == "auto":
        return None
    value = float(text)
    if not value > 0:
        raise ValueError(text)
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alpenglow data budget",
        description="Find, slice by slice, the quality at which to cut so that the target's tokens "
        "are left: from stored signals and token counts, without reading any text.",
    )
    parser.add_argument("run", type=Path, help="run directory or shards of a prepare_data job")
    parser.add_argument(
        "--target", required=True, metavar="|".join([*PUBLISHED, "FILE"]),
        help="llama: the tokens that LLaMA had of each slice; redpajama: RedPajama v1's; or a TOML "
        "file with a table [tokens] such as commoncrawl = 878e9",
    )  # fmt: skip
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--scale", type=_scale, default=None, metavar="auto|N",
        help="multiply the target by N (1: as published); auto, the default, takes the largest "
        "factor at which no slice has to be repeated: the scarcest slice is then used whole and "
        "the others are cut to the target's shares",
    )  # fmt: skip
    size.add_argument(
        "--total", type=float, metavar="TOKENS",
        help="multiply the target so that the slices which are there sum to this",
    )  # fmt: skip
    parser.add_argument(
        "--signal", action="append", default=[], metavar="SLICE=COLUMN[:least|most]",
        help="cut a slice by this column; by default by the score of a classifier with a name that "
        f"begins with {', '.join(QUALITY)}, else by ccnet_perplexity; SLICE=none leaves it whole",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="write the recipe's tables here too (TOML)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
