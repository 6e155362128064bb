r"""`alpenglow data train-classifier`: a quality classifier from named positives and negatives.

    alpenglow data train-classifier --name wikiref --positives references/ --negatives crawl/ \
        --output models/wikiref.h5

Any pair of texts will do: pages that people marked as toxic, and others.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from alpenglow.data.classifier import Classifier
from alpenglow.data.classifier_training import ClassifierSettings, train
from alpenglow.data.document import DataError
from alpenglow.data.seed_text import Seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a classifier; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="alpenglow data train-classifier",
        description="Train a classifier of texts: .txt, .md, .jsonl, .jsonl.gz, document stores "
        "(.h5), or folders of them. Both sides are random samples without copies, cut to the "
        "same lengths; a tenth is held out and says how good it is.",
    )
    parser.add_argument("--name", required=True, help="NAME of the column rps_doc_ml_NAME_score")
    parser.add_argument("--positives", nargs="+", type=Path, required=True, metavar="SEED")
    parser.add_argument("--negatives", nargs="+", type=Path, required=True, metavar="SEED")
    parser.add_argument("--output", type=Path, required=True, help="the model's file")
    parser.add_argument("--pages", type=int, default=50_000, help="of each side; default 50000")
    parser.add_argument("--key", type=int, default=0, help="another draws other samples")
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    try:
        settings = ClassifierSettings(options.name, options.pages, options.key)
        classifier = train(Seed(options.positives), Seed(options.negatives), settings)
        classifier.save(options.output)
    except (DataError, ValueError) as error:
        sys.stderr.write(f"train-classifier: {error}\n")
        return 1
    sys.stdout.write(describe(classifier, options.output) + "\n")
    sys.stdout.write(f"{time.perf_counter() - begin:.1f} s\n")
    return 0


def describe(classifier: Classifier, path: Path) -> str:
    """What a classifier is, for people."""
    about = classifier.about
    return "\n".join(
        [
            f"{path}: {classifier.name}, {about['pages']:,} pages of each side, {about['words']:,} "
            f"words each ({about['on_both_sides']} texts on both sides left out)",
            f"  length alone would tell them apart with area {about['area_by_length_before']:.3f}; "
            f"cut to the same lengths, with {about['area_by_length']:.3f}",
            f"  held out ({about['held_out']:,} pages of each side): accuracy "
            f"{about['accuracy']:.3f}, area under the ROC curve {about['area']:.3f}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
