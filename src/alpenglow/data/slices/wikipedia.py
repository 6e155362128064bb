"""Wikipedia slice: articles of a pages-articles XML dump, redirects and other name spaces left out.

The dump is streamed (`wikipedia_dump`): memory is about one page. A long bzip2 dump is cut into
parts (`wikipedia_parts`). Language, names of spaces and
addresses come from the dump's head, its language else from the file's name (`dewiki-...`). Mode
`fixed` cleans markup with `wikitext`, `faithful` as RedPajama v1 did (`wikipedia_v1`).

With origin `wheel` the dump is a file inside a wheel that pip downloads and nothing installs (the
sample dump in gensim's).
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, cast
from urllib.parse import quote

from alpenglow.data.document import DataError, Document, InputAbsent, Unit, one_each
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import (
    wikipedia_languages,
    wikipedia_parts,
    wikipedia_v1,
    wikitext,
)
from alpenglow.data.slices.source import Source, up_to
from alpenglow.data.slices.wikipedia_dump import Dump, NotADump, Page, Site
from alpenglow.data.slices.wikipedia_wheel import in_wheel

NAME = "wikipedia"
NEEDS = (
    "it reads dumps *-pages-articles*.xml.bz2 (or .xml, .xml.gz) in a folder, "
    "or one inside a wheel (origin = 'wheel')"
)
ENDINGS = (".xml", ".gz", ".bz2")
"""Large wikis come in parts: `enwiki-20230320-pages-articles1.xml-p1p41242.bz2`."""


def units(config: Source) -> list[Unit]:
    """Make a unit of every dump, or of each part of a long one; see `slices` for the shape.

    Raises:
        InputAbsent: there is no dump, or the wheel cannot be had.
    """
    if config.recipe.origin == "wheel":
        inputs = [in_wheel(config, NEEDS)]
    else:
        found = config.files(ENDINGS, NEEDS)
        inputs = [item for item in found if ".xml" in item.source.rpartition("/")[2].lower()]
        if not inputs:
            raise InputAbsent(f"{NAME}: {config.root} holds no file with .xml in its name; {NEEDS}")
    parts = [part for item in inputs for part in wikipedia_parts.split(item, config.unit_bytes)]
    return one_each(NAME, parts, config.recipe.max_bytes)


def read(unit: Unit, recipe: SliceRecipe) -> Iterator[Document]:
    """Yield each article.

    Raises:
        DataError: the dump is cut or no XML.
    """
    return up_to(_articles(unit, recipe.mode == "faithful"), unit.limit)


def _articles(unit: Unit, faithful: bool) -> Iterator[Document]:
    (item,) = unit.inputs
    path, _ = wikipedia_parts.whole(item.path)
    source, _ = wikipedia_parts.whole(item.source)
    dump: Dump | None = None
    last = ""
    try:
        with _open(item.path) as stream:
            dump = Dump(stream, Path(path.partition(wikipedia_parts.WHEEL)[2] or path).name)
            cleaner: _Cleaner | None = None
            for page in dump.pages():
                last = page.title[:100]
                if page.space != "0":
                    continue
                if cleaner is None:
                    cleaner = _Cleaner(dump.site, faithful)
                if page.fault or not cleaner.is_redirect(page):
                    draft = Document("", NAME, f"{source}#{page.id or page.title}", item.licence)
                    yield cleaner.document(page, draft)
    except (NotADump, OSError, EOFError, zlib.error, zipfile.BadZipFile, KeyError) as error:
        place = f" after the page {last!r}" if last else ""
        raise DataError(f"{path}: not a whole dump{place} ({error}); fetch it again") from None


class _Cleaner:
    """Makes documents of pages.

    Args:
        site: what the dump's head says.
        faithful: as RedPajama v1.
    """

    def __init__(self, site: Site, faithful: bool) -> None:
        own = wikipedia_languages.of(site.language)
        self._site = site
        self._faithful = faithful
        if faithful:
            self._media = (*wikipedia_languages.MEDIA, *own.media)
            self._category = (*wikipedia_languages.CATEGORY, *own.category)
        else:
            self._media = (*wikipedia_languages.MEDIA, *own.media, *site.media)
            self._category = (*wikipedia_languages.CATEGORY, *own.category, *site.category)
        self._redirect = (*wikipedia_languages.REDIRECT, *own.redirect)
        self._markup = wikitext.Cleaner(self._media, self._category)

    def is_redirect(self, page: Page) -> bool:
        """Whether a page only names another; v1 goes by the dump's tag alone."""
        if page.redirect:
            return True
        if self._faithful:
            return page.text is None
        return (page.text or "").lstrip()[:40].lower().startswith(self._redirect)

    def document(self, page: Page, draft: Document) -> Document:
        """Return a page as a document."""
        title = page.title.replace(" ", "_")
        url = self._site.base and self._site.base + quote(title, safe=";@$!*(),/~:")
        if self._faithful and self._site.language:
            url = f"https://{self._site.language}.wikipedia.org/wiki/{quote(page.title)}"
        metadata = {"title": page.title, "page": page.id, "language": self._site.language}
        if page.revision:
            metadata["revision"] = page.revision
        draft = replace(draft, url=url, timestamp=page.timestamp, metadata=metadata)
        if page.fault or page.text is None:
            return replace(draft, fault=page.fault or "no text", size=page.size)
        if self._faithful:
            return self._as_v1(page.text, page.size, draft)
        text, trimmed = self._markup.clean(page.text)
        if not text:
            return replace(draft, fault="no text", size=page.size)
        return replace(draft, text=f"{page.title}\n\n{text}", trimmed=trimmed)

    def _as_v1(self, markup: str, size: int, draft: Document) -> Document:
        try:
            text = wikipedia_v1.clean(markup, self._media, self._category)
        except wikipedia_v1.NotParsed:
            return replace(draft, fault="not parsed", size=size)
        if not text:
            return replace(draft, fault="no text", size=size)
        taken = size - len(text.encode("utf-8", "surrogatepass"))
        return replace(draft, text=text, trimmed={"markup": taken} if taken > 0 else {})


@contextlib.contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    archive, inside, member = path.partition(wikipedia_parts.WHEEL)
    with contextlib.ExitStack() as stack:
        raw: IO[bytes]
        file, part = wikipedia_parts.whole(path)
        if part:
            raw = stack.enter_context(Path(file).open("rb"))
            yield cast(IO[bytes], wikipedia_parts.Part(raw, *part))
            return
        if inside:
            holder = stack.enter_context(zipfile.ZipFile(f"{archive}.whl"))
            raw = stack.enter_context(holder.open(member))
        else:
            raw = stack.enter_context(Path(path).open("rb"))
        name = member or path
        if name.endswith(".bz2"):
            raw = cast(IO[bytes], stack.enter_context(bz2.open(raw)))
        elif name.endswith(".gz"):
            raw = cast(IO[bytes], stack.enter_context(gzip.open(raw)))
        yield raw
