"""The cards of a release, written again from what is recorded now.

    alpenglow release card runs/pretrain_7b/release/huggingface --license apache-2.0
    alpenglow release card --data shards

The first rewrites the folder's README.md, after an evaluation or a report, say; what a person wrote
between <!-- yours --> and <!-- /yours --> stays, and so do licence, authors and languages that an
earlier call gave. The second writes a data card into a folder of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alpenglow.release.cards.data_card import write_data_card
from alpenglow.release.cards.front_matter import Publication
from alpenglow.release.cards.gguf_facts import gguf_beside
from alpenglow.release.cards.loss_curve import draw_loss
from alpenglow.release.cards.model_card import Beside, model_card
from alpenglow.release.cards.own_text import CARD, former_card
from alpenglow.release.error import ReleaseError
from alpenglow.release.record import RunRecord
from alpenglow.release.released import Released
from alpenglow_lsf.files import write_text


def main(arguments: Sequence[str]) -> int:
    """Write a card; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.folder is None) == (options.data is None):
        parser.error("name a release folder, or --data with shards or a run")
    if options.output is not None and options.data is None:
        parser.error("--output goes with --data; a model's card stays in its folder")
    try:
        said = publication(options)
        if options.data is not None:
            path = write_data_card(options.data, options.run, options.output, said)
        else:
            path = rewrite(options.folder, options.run, said)
    except (ReleaseError, OSError) as error:
        sys.stderr.write(f"alpenglow release card: {error}\n")
        return 1
    sys.stdout.write(f"written: {path}\n")
    return 0


def rewrite(folder: Path, run: Path | None, said: Publication) -> Path:
    """Write a release folder's README.md from what is recorded now; returns its path.

    Args:
        folder: the release.
        run: its run; by default the folder that `release/` lies in.
        said: what whoever publishes says; the former card fills what it leaves open.

    Raises:
        ReleaseError: no release, or a README.md that a person wrote.
    """
    released = Released.load(folder)
    record = record_of(folder, run)
    path = folder / CARD
    former = former_card(folder)
    text = model_card(
        record,
        released.described(record),
        released.config,
        released.dtype,
        released.verification,
        publication=said,
        beside=Beside(
            released.evaluation,
            released.conversion.vocabulary,
            gguf_beside(folder, released.step),
            draw_loss(record, released.step, folder),
        ),
        former=former,
    )
    write_text(path, text)
    return path


def record_of(folder: Path, run: Path | None) -> RunRecord:
    """The run that a release is of; an empty record where nothing says which.

    Raises:
        ReleaseError: the named run is none.
    """
    if run is not None:
        return RunRecord.load(run)
    for above in folder.absolute().parents:
        if above.name == "release" and (above.parent / "run.toml").is_file():
            return RunRecord.load(above.parent)
    return RunRecord.unknown(folder.absolute().name)


def publication(options: argparse.Namespace) -> Publication:
    """What the options of a command say about publishing."""
    return Publication(
        name=options.name,
        licence=options.license,
        licence_link=options.license_link,
        authors=tuple(options.author),
        languages=tuple(options.language),
        datasets=tuple(options.dataset_name),
    )


def add_publication(parser: argparse.ArgumentParser) -> None:
    """The options that `publication` reads."""
    parser.add_argument("--name", help="of the model or data, instead of the run's and its step")
    parser.add_argument("--license", metavar="ID", help="such as apache-2.0; default: unknown")
    parser.add_argument("--license-link", metavar="URL", help="where its text is")
    parser.add_argument("--author", action="append", default=[], help="may be given again")
    parser.add_argument(
        "--language", action="append", default=[], metavar="CODE", help="such as en; again for more"
    )
    parser.add_argument(
        "--dataset-name", action="append", default=[], metavar="ORG/NAME", help="data on the Hub"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alpenglow release card", description="Write a model card or a data card."
    )
    parser.add_argument("folder", type=Path, nargs="?", help="a release folder")
    parser.add_argument("--run", type=Path, help="the run; default: where the folder lies")
    parser.add_argument(
        "--data", type=Path, metavar="SHARDS_OR_RUN", help="write a data card of this instead"
    )
    parser.add_argument("--output", type=Path, help="folder of the data card")
    add_publication(parser)
    return parser
