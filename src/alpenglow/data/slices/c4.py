"""C4 slice: JSON lines as allenai/c4 publishes them, or WET texts cleaned by C4's rules.

- `.json`, `.jsonl`, each also `.gz`: `{"text", "url", "timestamp"}` a line, text taken as it is
- `.wet`, `.wet.gz`: CommonCrawl's texts, cleaned here (`c4_cleaning`)

RedPajama v1 took the published lines and changed nothing: `faithful` and `fixed` are the same text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from alpenglow.data.document import Document, Input, Unit, one_each
from alpenglow.data.language_id import Identifier
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import json_lines, page_text
from alpenglow.data.slices import rules as rules_of
from alpenglow.data.slices.c4_cleaning import Cleaner, Rules
from alpenglow.data.slices.source import TOO_LARGE, Source, up_to
from alpenglow.data.slices.warc import records

__all__ = ["NAME", "NEEDS", "Rules", "read", "units"]

NAME = "c4"
NEEDS = (
    "it reads the published files c4-train.*.json.gz (or .json, .jsonl), a JSON object a line, "
    "or texts of CommonCrawl, .wet.gz"
)
WET = (".wet.gz", ".wet")
NO_TEXT_FIELD = "no text in the JSON object"
UNSURE = "language unsure"
OTHER_LANGUAGE = "another language"


def units(config: Source) -> list[Unit]:
    """Make a unit of every file; see `slices` for the shape.

    Raises:
        InputAbsent: there is no such file.
    """
    inputs = config.files((*json_lines.ENDINGS, *WET), NEEDS)
    return one_each(NAME, inputs, config.recipe.max_bytes)


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield each line's, or each page's, text.

    Raises:
        DataError: the file is cut or damaged, or the list of bad words cannot be read.
        ConfigError: a rule that is none.
    """
    (item,) = unit.inputs
    rules = rules_of(NAME, recipe, Rules)
    found = _cleaned(item, rules) if item.path.lower().endswith(WET) else _published(item)
    return up_to(found, unit.limit)


def _published(item: Input) -> Iterator[Document]:
    for line in json_lines.json_lines(Path(item.path)):
        text, record = line.record.get("text"), line.record
        good = isinstance(text, str)
        yield Document(
            str(text) if good else line.beginning,
            NAME,
            f"{item.source}#{line.number}",
            item.licence,
            url=str(record.get("url") or ""),
            timestamp=str(record.get("timestamp") or ""),
            fault="" if good else line.fault or NO_TEXT_FIELD,
            size=None if good else line.size,
        )


def _cleaned(item: Input, rules: Rules) -> Iterator[Document]:
    cleaner, identifier = Cleaner(rules), Identifier()
    for record in records(Path(item.path), {"conversion"}):
        text, fault, facts = "", "", {"record": record.name}
        trimmed: Mapping[str, int] = {}
        try:
            if record.content is None:
                raise page_text.Refused(TOO_LARGE)
            page = page_text.decoded(record.content, html=False)
            cleaned = cleaner.clean(page, record.size)
            text, fault, trimmed = cleaned.text, cleaned.fault, cleaned.trimmed
            if not fault:
                language, score = identifier.identify([text])[0]
                facts["language"], facts["language_score"] = language, f"{score:.4f}"
                if score < rules.language_score:
                    fault = UNSURE
                elif language != rules.language:
                    fault = OTHER_LANGUAGE
        except page_text.Refused as error:
            fault = str(error)
        yield Document(
            text, NAME, f"{item.source}#{record.name}", item.licence, facts,
            url=record.headers.get("warc-target-uri", "").strip("<>"),
            timestamp=record.headers.get("warc-date", ""),
            fault=fault, size=record.size if fault else None,
            trimmed={} if fault else trimmed,
        )  # fmt: skip
