"""How fast each stage of the data room is, on real input: MB of text a CPU-second.

    python -m alpenglow.data.bench_stages raw --tokenizer tokenizer.json [--write stages.json]

The folder holds raw input by slice, as a recipe's defaults do: raw/github, raw/books ... One
process; in every round each stage of each slice runs once, in an order that changes, and starts
with nothing remembered. Time is the process's CPU time, all threads counted. What is written is
what `python -m alpenglow.data.cost --stages stages.json` reads.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow.data import slices
from alpenglow.data.bench import hardware
from alpenglow.data.document import DataError, Document, Unit
from alpenglow.data.recipe import SLICES, SliceRecipe
from alpenglow.data.slices.source import Source
from alpenglow.data.stage_functions import PEERS, STAGES, Absent, Sample, Stage
from alpenglow.data.tokenizer import Tokenizer
from alpenglow_lsf.files import write_json

FORMAT, VERSION = "alpenglow-data-stages", 1
MEGABYTE = 1_000_000
UNIT_BYTES = 256_000_000


@dataclass(frozen=True)
class Rate:
    """A stage on a slice, MB of text a CPU-second."""

    stage: str
    slice: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.rounds)


def sample(
    name: str,
    folder: Path,
    megabytes: float,
    tokenizer: Tokenizer,
    scratch: Path,
    models: Mapping[str, Any],
) -> Sample:
    """Read about so much text of a slice.

    Raises:
        InputAbsent: the folder holds none of it.
        DataError: it cannot be read, or holds no text.
    """
    rules = {"licences": [], "unknown_licence": "keep"} if name == "github" else {}
    recipe = SliceRecipe(input=folder, rules=rules)
    units = slices.of_name(name).units(Source.of(name, recipe, UNIT_BYTES))
    wanted = int(megabytes * MEGABYTE)
    documents: list[Document] = []
    total = 0
    for document in read(units, recipe, wanted):
        total += document.read_bytes
        if not document.fault:
            documents.append(document)
    if not documents:
        raise DataError(f"{folder}: {name} made no text of it; name a folder with its raw input")
    return Sample(
        name, documents, tokenizer, scratch, total, lambda: read(units, recipe, wanted), models
    )


def read(units: Sequence[Unit], recipe: SliceRecipe, wanted: int) -> Iterator[Document]:
    """Yield documents of units until their text makes up `wanted` bytes."""
    total = 0
    for unit in units:
        for document in slices.of_name(unit.slice).read(unit, recipe):
            yield document
            total += document.read_bytes
            if total >= wanted:
                return


def measure(
    samples: Sequence[Sample], stages: Mapping[str, Stage], rounds: int
) -> tuple[list[Rate], dict[str, str]]:
    """Time all stages on all samples.

    Args:
        samples: of each slice one.
        stages: by name.
        rounds: of all of them, interleaved.

    Returns:
        Rates, and for each stage that is not measured the sentence that says why.
    """
    found: dict[tuple[str, str], list[float]] = {}
    absent: dict[str, str] = {}
    for number in range(rounds):
        pairs = [(name, each) for each in samples for name in stages if name not in absent]
        turn = number % max(1, len(pairs))
        for name, each in pairs[turn:] + pairs[:turn]:
            if name in absent:
                continue
            try:
                run, size = stages[name](each)
            except Absent as error:
                absent[name] = str(error)
                continue
            begin = time.process_time()
            run()
            spent = max(time.process_time() - begin, 1e-9)
            found.setdefault((name, each.slice), []).append(size / MEGABYTE / spent)
    return [Rate(*key, tuple(values)) for key, values in found.items()], absent


def tables(rates: Sequence[Rate], samples: Sequence[Sample]) -> dict[str, Any]:
    """What `--write` writes: rates by stage and slice."""
    by_stage: dict[str, dict[str, Any]] = {}
    for rate in rates:
        by_stage.setdefault(rate.stage, {})[rate.slice] = {
            "median": round(rate.median, 4),
            "least": round(min(rate.rounds), 4),
            "most": round(max(rate.rounds), 4),
        }
    return {
        "format": FORMAT,
        "version": VERSION,
        "unit": "MB of text a CPU-second",
        "hardware": hardware(),
        "rounds": len(rates[0].rounds) if rates else 0,
        "input": {
            each.slice: {"documents": len(each.documents), "bytes": each.read_bytes}
            for each in samples
        },
        "rates": by_stage,
    }


def report(rates: Sequence[Rate], samples: Sequence[Sample], absent: Mapping[str, str]) -> str:
    """Describe what was measured, as lines: a row a stage, a column a slice."""
    names = [each.slice for each in samples]
    sizes = ", ".join(
        f"{each.slice} {each.read_bytes / MEGABYTE:.1f} MB in {len(each.documents):,} documents"
        for each in samples
    )
    lines = [
        hardware(), sizes,
        f"MB of text a CPU-second, medians of {len(rates[0].rounds)} interleaved rounds "
        "(from least to most)",
        " " * 32 + "".join(f"{name:>24s}" for name in names),
    ]  # fmt: skip
    of = {(rate.stage, rate.slice): rate for rate in rates}
    for stage in dict.fromkeys(rate.stage for rate in rates):
        cells = []
        for name in names:
            rate = of.get((stage, name))
            spread = f"({min(rate.rounds):.3g} to {max(rate.rounds):.3g})" if rate else ""
            cells.append(f"{rate.median:8.2f} {spread:>15s}" if rate else f"{'-':>24s}")
        lines.append(f"  {stage:30s}" + "".join(cells))
    lines += [f"  {stage}: not measured: {why}" for stage, why in absent.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write if asked to; 0, or 1 after one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow.data.bench_stages",
        description="MB of text a CPU-second of each stage, on real input.",
    )
    parser.add_argument("folder", type=Path, help="raw input by slice: FOLDER/github ...")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizers JSON file")
    parser.add_argument("--megabytes", type=float, default=8.0, help="of each slice; default 8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stages", help="some of them, comma between; default all")
    parser.add_argument("--language-model", type=Path, metavar="FILE", help="of train-lm")
    parser.add_argument("--classifier", type=Path, metavar="FILE", help="of train-classifier")
    parser.add_argument("--no-peers", action="store_true", help="leave other tools out")
    parser.add_argument("--write", type=Path, metavar="FILE.json")
    options = parser.parse_args(arguments)
    table = STAGES if options.no_peers else {**STAGES, **PEERS}
    chosen = options.stages.split(",") if options.stages else list(table)
    unknown = [name for name in chosen if name not in table]
    if unknown:
        parser.error(f"unknown stage {unknown[0]}; known: {', '.join(table)}")
    if options.rounds < 1 or options.megabytes <= 0:
        parser.error("--rounds and --megabytes must be above 0")
    there = [name for name in SLICES if (options.folder / name).exists()]
    try:
        if not there:
            raise DataError(
                f"{options.folder}: holds no folder with the name of a slice; make some of "
                f"{', '.join(SLICES)} in it, each with raw input"
            )
        tokenizer = Tokenizer.load(options.tokenizer)
        models: dict[str, Any] = {}
        if options.language_model is not None:
            models["language_model"] = options.language_model
        if options.classifier is not None:
            models["classifiers"] = {"quality": options.classifier}
        with tempfile.TemporaryDirectory(prefix="bench-stages-") as scratch:
            samples = [
                sample(
                    name, options.folder / name, options.megabytes, tokenizer, Path(scratch), models
                )
                for name in there
            ]
            rates, absent = measure(samples, {name: table[name] for name in chosen}, options.rounds)
        if not rates:
            raise DataError("no stage was measured: " + "; ".join(absent.values()))
        print(report(rates, samples, absent))
        if options.write is not None:
            write_json(options.write, tables(rates, samples))
    except (DataError, OSError) as error:
        sys.stderr.write(f"bench_stages: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
