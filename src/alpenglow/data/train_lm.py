"""`alpenglow data train-lm`: a language model from named seed text.

    alpenglow data train-lm wikipedia_de/ --language de --output models/de.h5 --cutoffs crawl_de/
    alpenglow data train-lm --output models/de.h5 --cutoffs other_crawl_de/

The second measures the cutoffs of a model that is there.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from alpenglow.data.document import DataError
from alpenglow.data.language_model import LanguageModel
from alpenglow.data.language_model_training import LanguageModelSettings, measure_cutoffs, train
from alpenglow.data.seed_text import Seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a model, or measure the cutoffs of one; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.seed and not options.language:
        parser.error("--language names the language of the seed text, such as --language de")
    if not options.seed and not options.cutoffs:
        parser.error("name seed text to train on, or --cutoffs SAMPLE for a model that is there")
    begin = time.perf_counter()
    try:
        if options.seed:
            settings = LanguageModelSettings(
                options.language, options.order, options.vocabulary, options.prune,
                round(options.megabytes * 1e6),
            )  # fmt: skip
            seed = Seed(options.seed)
            sample = Seed(options.cutoffs) if options.cutoffs else None
            model = train(seed, settings)
            if seed.skipped:
                sys.stderr.write(f"train-lm: {seed.skipped} files are no text of 50 MB or less\n")
        else:
            sample = Seed(options.cutoffs)
            model = LanguageModel.load(options.output)
        if sample is not None:
            measure_cutoffs(model, sample)
        model.save(options.output)
    except (DataError, ValueError) as error:
        sys.stderr.write(f"train-lm: {error}\n")
        return 1
    sys.stdout.write(describe(model, options.output) + "\n")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sys.stdout.write(f"{time.perf_counter() - begin:.1f} s, {memory:.2f} GB of memory at most\n")
    return 0


def describe(model: LanguageModel, path: Path) -> str:
    """What a model is, for people."""
    about = model.about
    size = sum(file["bytes"] for file in about["seed"])
    lines = [
        f"{path}: {model.language}, order {model.order}, {about['vocabulary']:,} subwords",
        f"  seed: {size / 1e6:.1f} MB in {len(about['seed'])} files, of it "
        f"{about['share']:.0%}: {about['lines']:,} lines, {about['tokens']:,} tokens",
        "  n-grams: " + ", ".join(f"{count:,}" for count in about["n_grams"]),
    ]
    if model.cutoffs is not None:
        lines.append(
            f"  cutoffs: head below {model.cutoffs[0]:.1f}, tail from {model.cutoffs[1]:.1f} "
            f"({about['sample']:,} documents)"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alpenglow data train-lm",
        description="Train an n-gram language model (interpolated modified Kneser-Ney) on seed "
        "text: .txt, .md, .jsonl, .jsonl.gz, document stores (.h5), or folders of them.",
    )
    parser.add_argument("seed", nargs="*", type=Path, help="files and folders to train on")
    parser.add_argument("--output", type=Path, required=True, help="the model's file")
    parser.add_argument("--language", help="name that is kept in the model, such as de")
    parser.add_argument("--order", type=int, default=5, help="longest n-gram; default 5 (cc_net)")
    parser.add_argument(
        "--vocabulary", type=int, default=32_000, help="subwords at most; default 32000"
    )
    parser.add_argument(
        "--prune", type=int, default=1, metavar="N",
        help="leave out n-grams of three tokens or more seen N times or less; 0 keeps all; "
        "default 1",
    )  # fmt: skip
    parser.add_argument(
        "--megabytes", type=float, default=100.0,
        help="of more seed text, a random part of its documents is taken; default 100; memory is "
        "40 times as much",
    )  # fmt: skip
    parser.add_argument(
        "--cutoffs", nargs="+", type=Path, metavar="SAMPLE",
        help="text of the crawl: its 30th and 60th percentile of perplexity part head, middle and "
        "tail; without seed text, they are measured for the model that --output names",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
