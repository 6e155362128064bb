r"""How fast trained models score, on real text, in one process.

    python -m alpenglow.data.bench_models TEXT... --language-model FILE --classifier FILE \
        --importance FILE

TEXT is seed text as for `train-lm`. Time is the process's CPU time; each model reads the documents
in batches, as the pipeline does, for several rounds in turn. The first round learns the words; the
later ones show what a long unit costs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alpenglow.data.bench import hardware
from alpenglow.data.classifier import Classifier
from alpenglow.data.collect import BATCH_BYTES
from alpenglow.data.document import DataError
from alpenglow.data.importance import Importance
from alpenglow.data.language_model import LanguageModel
from alpenglow.data.seed_text import Seed

Score = Callable[[Sequence[str]], Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print MB a CPU-second of each model; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.data.bench_models")
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--language-model", type=Path)
    parser.add_argument("--classifier", type=Path)
    parser.add_argument("--importance", type=Path)
    parser.add_argument("--megabytes", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args(arguments)
    loaders: dict[str, tuple[Path | None, Callable[[Path], Score]]] = {
        "perplexity": (options.language_model, lambda path: LanguageModel.load(path).perplexity),
        "classifier": (options.classifier, lambda path: Classifier.load(path).scores),
        "importance": (options.importance, lambda path: Importance.load(path).weights),
    }
    try:
        models = {name: load(path) for name, (path, load) in loaders.items() if path is not None}
        batches, size = _batches(Seed(options.texts), round(options.megabytes * 1e6))
    except DataError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    rates: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(options.rounds):
        for name, score in models.items():
            begin = time.process_time()
            for batch in batches:
                score(batch)
            rates[name].append(size / 1e6 / (time.process_time() - begin))
    print(hardware())
    print(f"{size / 1e6:.1f} MB in {sum(map(len, batches)):,} documents")
    for name, found in rates.items():
        later = f", later rounds {statistics.median(found[1:]):.1f}" if len(found) > 1 else ""
        print(f"{name}: first round {found[0]:.1f} MB a CPU-second{later}")
    return 0


def _batches(seed: Seed, limit: int) -> tuple[list[list[str]], int]:
    batches: list[list[str]] = [[]]
    total = held = 0
    for text in seed.texts():
        batches[-1].append(text)
        size = len(text.encode("utf-8", "surrogatepass"))
        total, held = total + size, held + size
        if total >= limit:
            break
        if held >= BATCH_BYTES:
            batches.append([])
            held = 0
    return batches, total


if __name__ == "__main__":
    sys.exit(main())
