r"""arXiv slice: LaTeX sources, comments stripped, a .tex file a document.

Sections, macros and joined papers are not handled yet; comments are, with `\%` kept, `%` after the
end of a row `\\` seen, and verbatim text and addresses in `\url{...}` left alone.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from alpenglow.data.document import DataError, Document, Unit, cap, pack
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices.source import Source, decode, up_to

NAME = "arxiv"
NEEDS = "it reads a folder of .tex files, or archives (.tar, .tar.gz) of them"
ENDINGS = (".tex", ".tar", ".tar.gz", ".tgz")

_BACKSLASHES = re.compile(r"\\+$")
_ADDRESS = re.compile(r"\\(?:url|href|path|nolinkurl)\s*\{[^{}]*\}")
_VERBATIM = re.compile(r"\\(begin|end)\{(verbatim\*?|lstlisting|Verbatim|minted|comment)\}")


def units(config: Source) -> list[Unit]:
    """List sources and archives, packed into units; see `slices` for the shape.

    Raises:
        InputAbsent: there is none.
    """
    inputs = cap(config.files(ENDINGS, NEEDS), config.recipe.max_bytes)
    return pack(NAME, inputs, config.unit_bytes)


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield each .tex file without its comments.

    Raises:
        DataError: an archive is cut or is none.
    """
    return up_to(_sources(unit), unit.limit)


def _sources(unit: Unit) -> Iterator[Document]:
    for item in unit.inputs:
        path = Path(item.path)
        if path.suffix == ".tex":
            yield _document(path.read_bytes(), item.source, item.licence)
            continue
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.name.endswith(".tex") else None
                    if content is not None:
                        name = f"{item.source}#{member.name}"
                        yield _document(content.read(), name, item.licence)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{path}: not a whole tar archive ({error}); {NEEDS}") from None


def _document(data: bytes, source: str, licence: str) -> Document:
    text = decode(data)
    if text is None:
        return Document("", NAME, source, licence, fault="binary", size=len(data))
    return Document(strip_comments(text), NAME, source, licence)


def strip_comments(text: str) -> str:
    """Remove LaTeX comments; a line that was only a comment goes as a whole."""
    kept: list[str] = []
    verbatim: str | None = None
    for line in text.split("\n"):
        if verbatim is None:
            stripped = _before_comment(line)
            if stripped is None:
                continue
        else:
            stripped = line
        for what, name in _VERBATIM.findall(stripped):
            if what == "begin" and verbatim is None:
                verbatim = name
            elif what == "end" and verbatim == name:
                verbatim = None
        kept.append(stripped)
    return "\n".join(kept)


def _before_comment(line: str) -> str | None:
    """Return the line up to its comment; None where nothing but a comment is on it."""
    addresses = [match.span() for match in _ADDRESS.finditer(line)]
    at = line.find("%")
    while at >= 0:
        backslashes = _BACKSLASHES.search(line[:at])
        escaped = backslashes is not None and len(backslashes.group()) % 2 == 1
        inside = any(begin <= at < end for begin, end in addresses)
        if not escaped and not inside:
            return line[:at].rstrip() if line[:at].strip() else None
        at = line.find("%", at + 1)
    return line
