"""Pages as a crawl stores them, and what the CommonCrawl slice makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import warc_files

from alpenglow.data.document import Document, Unit
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import commoncrawl
from alpenglow.data.slices.source import Source

PROSE = (
    "The glow on the summits comes after the sun has set, when light from beyond the horizon "
    "reaches the highest rocks. Painters and travellers have described it for centuries, and "
    "in clear weather it lasts for some minutes. The colours run from a pale rose to a deep red. "
    "Whoever stands in the valley sees the last of it on the tallest peaks of the range."
)
GERMAN = (
    "Das Leuchten der Gipfel beginnt, wenn die Sonne schon untergegangen ist und ihr Licht von "
    "jenseits des Horizonts noch die höchsten Felsen erreicht. Maler und Reisende haben es seit "
    "Jahrhunderten beschrieben, und bei klarem Wetter dauert es einige Minuten. Die Farben reichen "
    "von einem blassen Rosa bis zu einem tiefen Rot über den Gletschern."
)
PAGE = f"""<!DOCTYPE html><html><head><title>Glow</title></head><body><nav><a href="/">Home</a>
</nav><article><h1>Glow</h1><p>{PROSE}</p></article><footer>All rights</footer></body></html>"""
SMALL = {"min_characters": 1}


def units(root: Path, **changes: Any) -> list[Unit]:
    return commoncrawl.units(Source.of("commoncrawl", SliceRecipe(input=root, **changes), 1 << 20))


def read(root: Path, **changes: Any) -> list[Document]:
    recipe = SliceRecipe(input=root, **changes)
    return [d for unit in units(root, **changes) for d in commoncrawl.read(unit, recipe)]


def of_records(folder: Path, parts: Sequence[bytes], name: str = "a.warc", **rules: Any) -> Any:
    warc_files.write(folder / name, parts)
    return read(folder, rules=rules)


def page(folder: Path, content: bytes, **rules: Any) -> Document:
    (found,) = of_records(folder, [warc_files.record("response", content)], **rules)
    return found  # type: ignore[no-any-return]


def long(text: str) -> bytes:
    return f"<html><body><p>{text}</p></body></html>".encode()
