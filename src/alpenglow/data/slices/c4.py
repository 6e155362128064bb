"""C4 slice: JSON lines as allenai/c4 publishes them, `{"text", "url", "timestamp"}`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from alpenglow.data.document import DataError, Document, Unit, one_each
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices.source import Source, up_to

NAME = "c4"
NEEDS = "it reads the published files c4-train.*.json.gz (or .json, .jsonl), a JSON object a line"
ENDINGS = (".json.gz", ".jsonl.gz", ".json", ".jsonl")


def units(config: Source) -> list[Unit]:
    """Make a unit of every file; see `slices` for the shape.

    Raises:
        InputAbsent: there is no such file.
    """
    return one_each(NAME, config.files(ENDINGS, NEEDS), config.recipe.max_bytes)


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield each line's text.

    Raises:
        DataError: a line is no JSON object with a text, or the file is cut.
    """
    return up_to(_lines(unit), unit.limit)


def _lines(unit: Unit) -> Iterator[Document]:
    (item,) = unit.inputs
    number = 0
    try:
        with _open(Path(item.path)) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                text, url = record["text"], str(record.get("url") or f"{item.source}#{number}")
                if not isinstance(text, str):
                    raise TypeError("text is no string")
                when = str(record.get("timestamp", ""))
                yield Document(text, NAME, url, item.licence, {"timestamp": when})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{item.path}, line {number}: not a JSON object with a text ({error}); {NEEDS}"
        ) from None
    except (OSError, EOFError) as error:
        raise DataError(
            f"{item.path}: cannot be read after line {number} ({error}); fetch the file again"
        ) from None


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
