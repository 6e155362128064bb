"""CommonCrawl slice: text of web pages, from what a crawl stored or from texts made of it.

Inputs, by the ending of their names:

- `.warc`, `.warc.gz`: pages as servers sent them; text is extracted (`page_text`)
- `.wet`, `.wet.gz` (`.warc.wet.gz`): texts as CommonCrawl publishes them, what RedPajama v1 read
- `.json`, `.jsonl`, each also `.gz`: records of cc_net, `raw_content` with its facts
- `.txt`, `.md`: ready texts, a page a file; taken as they are, no rule looks at them

or, with origin `installed`, the documentation of this Python's packages, also taken as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from alpenglow.data.document import Document, InputAbsent, Unit, cap, pack
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import commoncrawl_installed, json_lines
from alpenglow.data.slices import rules as rules_of
from alpenglow.data.slices.commoncrawl_pages import Pages
from alpenglow.data.slices.commoncrawl_rules import Rules
from alpenglow.data.slices.source import Source, up_to, whole_files

__all__ = ["NAME", "NEEDS", "Rules", "read", "units"]

NAME = "commoncrawl"
NEEDS = (
    "it reads a folder of .warc.gz, .wet.gz, .json.gz (cc_net) or page texts, .txt or .md (input), "
    "or the documentation of this Python's packages (origin = 'installed')"
)
WARC = (".wet", ".wet.gz", ".warc", ".warc.gz")
ARCHIVES = (*WARC, *json_lines.ENDINGS)
TEXTS = (".txt", ".md")


def units(config: Source) -> list[Unit]:
    """List pages and archives, packed into units; see `slices` for the shape.

    A cap is shared evenly by units that hold an archive: each stops when it has read its part.

    Raises:
        InputAbsent: there is no page.
    """
    most = config.recipe.max_bytes
    if config.recipe.origin == "installed":
        inputs = cap(commoncrawl_installed.inputs(), most)
        if not inputs:
            raise InputAbsent(f"{NAME}: this Python has no packages with documentation; {NEEDS}")
        return pack(NAME, inputs, config.unit_bytes)
    found = pack(NAME, cap(config.files((*ARCHIVES, *TEXTS), NEEDS), most), config.unit_bytes)
    if most is None:
        return found
    limit = max(1, most // len(found))
    return [
        dataclasses.replace(unit, limit=limit)
        if any(_is(item.path, ARCHIVES) for item in unit.inputs)
        else unit
        for unit in found
    ]


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield the pages of each input.

    Raises:
        DataError: an archive is cut or damaged.
        ConfigError: a rule that is none.
    """
    return up_to(_pages(unit, recipe), unit.limit)


def _pages(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    if recipe.origin == "installed":
        for item in unit.inputs:
            yield from commoncrawl_installed.pages(item)
        return
    pages = Pages(NAME, rules_of(NAME, recipe, Rules), recipe.mode)
    for item in unit.inputs:
        if _is(item.path, WARC):
            yield from pages.of_warc(item)
        elif _is(item.path, ARCHIVES):
            yield from pages.of_records(item)
        else:
            yield from whole_files(Unit(NAME, unit.name, (item,)))


def _is(path: str, endings: tuple[str, ...]) -> bool:
    return path.lower().endswith(endings)
