r"""arXiv slice: LaTeX sources, a paper a document.

What is read, and from which archives, is in `arxiv_papers`; how a paper becomes a text, in `latex`
(mode `fixed`) and `latex_v1` (mode `faithful`).

Which documents a folder or archive holds:

- named after an arXiv identifier: one document, that of its main file (the one that reads in the
  most text); what it does not read in is counted as `other files`;
- any other with several files that have a `\begin{document}`: a book in parts, each of which can be
  typeset alone, or a paper and its supplement; each part is a document, with its files read in;
- .tex files side by side in the folder of papers: each that no other reads in.

Mode `faithful` joins the .tex files of a paper, whichever they are, in the order of the archive.

Where a file `arxiv-metadata*.json` (or .json.gz, arXiv's snapshot) lies beside the papers, a
paper's licence, title and date come from there; the licence is the recipe's otherwise, and the date
the month that is in the identifier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from alpenglow.data.document import Document, Input, Unit, cap, pack
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import latex_v1
from alpenglow.data.slices.arxiv_identity import (
    About,
    Identity,
    identity,
    read_metadata,
    snapshots,
)
from alpenglow.data.slices.arxiv_papers import ARCHIVES, TEX, Found, grouped, names, papers
from alpenglow.data.slices.latex import Cleaned, Paper
from alpenglow.data.slices.source import Source, decode, up_to

NAME = "arxiv"
NEEDS = (
    "it reads a folder of papers (a folder of .tex files each), or archives of them "
    "(.tar, .tar.gz, .gz, arXiv's bulk .tar)"
)
ENDINGS = (*TEX, *ARCHIVES)
METADATA = "metadata of arXiv"
"""Source of an input that holds no papers."""


def units(config: Source) -> list[Unit]:
    """List papers and archives, packed into units; see `slices` for the shape.

    Raises:
        InputAbsent: there is none.
    """
    files = config.files(ENDINGS, NEEDS)
    inputs = cap(grouped(config.root, files), config.recipe.max_bytes)
    folder = config.root if config.root.is_dir() else config.root.parent
    about = tuple(
        Input(str(path), f"{METADATA}/{path.name}", "", 0, path.stat().st_mtime_ns)
        for path in snapshots(folder)
    )
    return [
        dataclasses.replace(unit, inputs=(*about, *unit.inputs))
        for unit in pack(NAME, inputs, config.unit_bytes)
    ]


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield each paper.

    Raises:
        DataError: an archive, or the metadata, is cut or none.
    """
    return up_to(_documents(unit, recipe.mode == "faithful"), unit.limit)


def _documents(unit: Unit, faithful: bool) -> Iterator[Document]:
    items = [item for item in unit.inputs if not item.source.startswith(METADATA)]
    about = _metadata(unit, items)
    for item in items:
        for found in papers(item):
            identified = identity(found.name)
            draft = Document(
                "", NAME, found.source, item.licence,
                metadata={f"archive {name}": str(n) for name, n in sorted(found.counts.items())},
                url=identified.url if identified else "",
                timestamp=identified.month if identified else "",
            )  # fmt: skip
            if identified:
                draft = _described(draft, identified, about.get(identified.id))
            if found.fault:
                yield dataclasses.replace(draft, fault=found.fault, size=found.size)
            elif faithful and found.loose:
                for name, data in found.files.items():
                    yield _as_v1({name: data}, dataclasses.replace(draft, source=name), None)
            elif faithful:
                yield _as_v1(found.files, draft, found.changed)
            else:
                yield from _fixed(found, draft, identified is not None)


def _metadata(unit: Unit, items: list[Input]) -> Mapping[str, About]:
    files = [item for item in unit.inputs if item.source.startswith(METADATA)]
    if not files:
        return {}
    wanted = {one.id for item in items for name in names(item) if (one := identity(name))}
    found: dict[str, About] = {}
    for file in files:
        found.update(read_metadata(Path(file.path), wanted))
    return found


def _described(draft: Document, identified: Identity, about: About | None) -> Document:
    metadata = {**draft.metadata, "id": identified.id}
    if about is None:
        return dataclasses.replace(draft, metadata=metadata)
    if about.title:
        metadata["title"] = about.title
    return dataclasses.replace(
        draft,
        metadata=metadata,
        licence=about.licence or draft.licence,
        timestamp=about.updated or draft.timestamp,
    )


def _fixed(found: Found, draft: Document, single: bool) -> Iterator[Document]:
    texts: dict[str, str] = {}
    metadata = dict(draft.metadata)
    for name, data in found.files.items():
        text = decode(data)
        if text is None:
            metadata["binary files"] = str(int(metadata.get("binary files", "0")) + 1)
        else:
            texts[name] = text
    found.files.clear()
    if not texts:
        yield dataclasses.replace(draft, fault="binary", size=found.size)
        return
    paper = Paper(texts)
    parts = [paper.main()] if single else paper.roots() if found.loose else paper.documents()
    unused = paper.unused(parts)
    for number, part in enumerate(parts):
        cleaned = paper.clean(part)
        trimmed = dict(cleaned.trimmed)
        if number == 0 and unused:
            trimmed["other files"] = unused
        yield _document(draft, metadata, cleaned, trimmed, part, len(parts) > 1 or found.loose)


def _document(
    draft: Document,
    metadata: Mapping[str, str],
    cleaned: Cleaned,
    trimmed: dict[str, int],
    part: str,
    several: bool,
) -> Document:
    metadata = {**metadata, "main": part}
    if cleaned.title and "title" not in metadata:
        metadata["title"] = cleaned.title
    metadata.update((name, str(number)) for name, number in cleaned.counts.items())
    source, identified = draft.source, None
    if several:
        source = f"{source}#{part}" if source else part
        identified = identity(part)
    draft = dataclasses.replace(
        draft,
        source=source,
        metadata=metadata,
        url=identified.url if identified else draft.url,
        timestamp=identified.month if identified else draft.timestamp,
    )
    if not cleaned.text:
        return dataclasses.replace(draft, fault="no text", size=sum(trimmed.values()))
    return dataclasses.replace(draft, text=cleaned.text, trimmed=trimmed)


def _as_v1(files: Mapping[str, bytes], draft: Document, changed: float | None) -> Document:
    if changed is not None:
        moment = datetime.fromtimestamp(changed, UTC)
        draft = dataclasses.replace(draft, timestamp=moment.strftime("%Y-%m-%dT%H:%M:%S"))
    wanted = [data for name, data in files.items() if name.endswith(".tex")]
    fault = ""
    try:
        cleaned = latex_v1.clean([data.decode("utf-8") for data in wanted])
        fault = "" if cleaned.text else "no section header"
    except UnicodeDecodeError:
        fault = "not UTF-8"
    except latex_v1.Refused as reason:
        fault = str(reason)
    if fault:
        size = sum(len(data) for data in wanted)
        return dataclasses.replace(draft, fault=fault, size=size)
    return dataclasses.replace(draft, text=cleaned.text, trimmed=cleaned.trimmed)
