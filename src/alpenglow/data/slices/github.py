"""GitHub slice: source code, a file a document.

It reads folders of repositories, archives of them, and the JSON lines of BigQuery's dump. Without
any of these it reads what any machine has: the Python standard library and installed packages.

`faithful` is RedPajama v1 (data_prep/github of branch rp_v1): its endings, its header stripper with
the defects, licences by repository. `fixed` knows more spellings of endings, takes out only notices
of licences, and believes a file's own SPDX line. Rules on the length of lines and on letters are
presets of filters, not this reader's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from alpenglow.data.document import Document, Input, InputAbsent, Unit, cap, pack
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import github_archive, github_dump, installed, rules
from alpenglow.data.slices.github_endings import FIXED, INSTALLED, is_source
from alpenglow.data.slices.github_file import NAME, Maker, Rules, SourceFile
from alpenglow.data.slices.github_folder import FolderLicences, is_repository, place
from alpenglow.data.slices.source import LARGEST, Source, up_to

__all__ = ["NAME", "NEEDS", "Rules", "read", "units"]

NEEDS = (
    "it reads a folder of repositories, archives of them (.tar, .tar.gz, .zip), JSON lines of the "
    "BigQuery dump (.jsonl.gz), or this Python's own packages (origin = 'installed')"
)
_CONTAINERS = (*github_archive.ENDINGS, *github_dump.ENDINGS)


def units(config: Source) -> list[Unit]:
    """List source files, packed into units, then archives and dumps, a unit each.

    Raises:
        InputAbsent: there is no source file, archive or dump.
    """
    most = config.recipe.max_bytes
    if config.recipe.origin == "installed":
        inputs = cap(_installed(), most)
        if not inputs:
            raise InputAbsent(f"{NAME}: this Python has no source files beside it; {NEEDS}")
        return pack(NAME, inputs, config.unit_bytes)
    layout = rules(NAME, config.recipe, Rules).layout
    listed = config.files((*FIXED, *_CONTAINERS), NEEDS)
    containers = [item for item in listed if _is_container(config.root, item.source, layout)]
    apart = {item.source for item in containers}
    sources = (i for i in listed if i.source not in apart and is_source(i.source, "fixed"))
    licences = FolderLicences(config.root)
    inputs = [
        replace(item, licence=licences.of(os.path.dirname(item.path)) or item.licence)  # noqa: PTH120
        for item in cap(sources, most)
    ]
    if not inputs and not containers:
        raise InputAbsent(
            f"{NAME}: {config.root} holds no file with ending of source text; {NEEDS}"
        )
    found = pack(NAME, inputs, config.unit_bytes)
    left = None if most is None else most - sum(item.size for item in inputs)
    if left is None or left > 0:
        limit = None if left is None else max(1, left // max(1, len(containers)))
        for item in containers:
            found.append(Unit(NAME, f"{NAME}-{len(found):05d}", (item,), limit))
    return found


def _is_container(root: Path, source: str, layout: str) -> bool:
    """Whether a file is an archive or dump of repositories, not a file of a repository."""
    name = source.lower()
    if not name.endswith(_CONTAINERS) or (root.is_dir() and is_repository(str(root))):
        return False
    depth = source.count("/")
    return depth == 0 or (
        depth == 1 and layout == "owner/repository" and name.endswith(github_archive.ENDINGS)
    )


def _installed() -> Iterator[Input]:
    for item in installed.files():
        found = item.input() if item.path.endswith(INSTALLED) else None
        if found is not None:
            yield found


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield each file.

    Raises:
        DataError: an archive or dump is cut, or unpacks to far more than source text can.
    """
    return up_to(_documents(unit, recipe), unit.limit)


def _documents(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    maker = Maker(recipe)
    settings = rules(NAME, recipe, Rules)
    for item in unit.inputs:
        for file in _files(item, recipe, settings.layout):
            # What v1 does not know by its ending is no input of a folder, as it is none of v1's.
            yield maker.document(file)


def _files(item: Input, recipe: SliceRecipe, layout: str) -> Iterator[SourceFile]:
    name = item.path.lower()
    if recipe.origin == "installed":
        package, _, path = item.source.partition("/")
        yield _whole(item, path, package)
    elif is_source(item.source, "fixed"):
        root = Path(item.path.removesuffix(item.source) or ".")
        repository, path = place(root, item.source, layout)
        if is_source(item.source, recipe.mode):
            yield _whole(item, path, repository)
    elif name.endswith(github_archive.ENDINGS):
        yield from github_archive.files(item, recipe.mode, layout)
    else:
        yield from github_dump.files(item)


def _whole(item: Input, path: str, repository: str) -> SourceFile:
    try:
        with Path(item.path).open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError:
        return SourceFile(
            item.source, path, repository, item.licence, b"", item.size, "cannot be opened"
        )
    whole = data if len(data) <= LARGEST else None
    return SourceFile(item.source, path, repository, item.licence, whole, item.size)
