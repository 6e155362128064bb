"""Pages of the web, stage by stage, on real HTML, in one process.

    python -m alpenglow.data.bench_pages [--megabytes 40] FOLDER ...

The .html files of the folders become a WARC file and, as text, a WET file, both gzip, a member a
record as CommonCrawl writes them. All stages run in turn, three times; the figures are medians of
the process's CPU time. The reader of records stands beside FastWARC's, which does less: it passes
over damage; the hashes of lines beside the same done a line at a time, as cc_net does it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alpenglow.data import paragraphs
from alpenglow.data.bench import hardware
from alpenglow.data.document import DataError, Document, Input, Unit
from alpenglow.data.language_id import Identifier
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import c4, commoncrawl, page_text
from alpenglow.data.slices.c4_cleaning import Cleaner, Rules
from alpenglow.data.slices.warc import records

MEGABYTE = 1_000_000
ROUNDS = 3


@dataclass(frozen=True)
class Corpus:
    """The same pages in every form."""

    html: list[bytes]
    texts: list[str]
    warc: Path
    wet: Path

    @property
    def html_bytes(self) -> int:
        """Bytes of HTML."""
        return sum(map(len, self.html))

    @property
    def text_bytes(self) -> int:
        """Bytes of the text in it."""
        return sum(len(text.encode()) for text in self.texts)


def corpus(folders: Sequence[Path], megabytes: float, scratch: Path) -> Corpus:
    """Read HTML from folders and write it as a crawl would.

    Raises:
        DataError: there is none, or Resiliparse is not installed.
    """
    html: list[bytes] = []
    texts: list[str] = []
    size = 0
    for path in sorted(path for folder in folders for path in folder.rglob("*.html")):
        body = path.read_bytes()
        try:
            text = page_text.page_text(page_text.decoded(body))
        except page_text.Refused:
            continue
        html.append(body)
        texts.append(text)
        size += len(body)
        if size >= megabytes * MEGABYTE:
            break
    if not html:
        raise DataError("the folders hold no .html with text: name others")
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    warc = _write(scratch / "a.warc.gz", "response", (answer + body for body in html))
    wet = _write(scratch / "a.warc.wet.gz", "conversion", (text.encode() for text in texts))
    return Corpus(html, texts, warc, wet)


def _write(path: Path, kind: str, contents: Iterator[bytes]) -> Path:
    with path.open("wb") as file:
        for number, content in enumerate(contents):
            head = (
                f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
                f"WARC-Target-URI: http://localhost/{number}\r\nContent-Length: {len(content)}\r\n"
            )
            file.write(gzip.compress(head.encode() + b"\r\n" + content + b"\r\n\r\n", 6))
    return path


def stages(pages: Corpus) -> dict[str, tuple[Callable[[], object], int, str]]:
    """Name -> what to run, bytes that it reads, and of what."""
    html, text = pages.html_bytes, pages.text_bytes
    decoded = [page_text.decoded(body) for body in pages.html]
    identifier, cleaner = Identifier(), Cleaner(Rules())
    found: dict[str, tuple[Callable[[], object], int, str]] = {
        "records of a WARC": (
            lambda: [r.size for r in records(pages.warc, {"response"})], html, "HTML"
        ),
        "decoding": (lambda: [page_text.decoded(body) for body in pages.html], html, "HTML"),
        "extraction": (lambda: [page_text.page_text(page) for page in decoded], html, "HTML"),
        "language": (lambda: identifier.identify(pages.texts), text, "text"),
        "C4 cleaning": (
            lambda: [cleaner.clean(page, len(page)) for page in pages.texts], text, "text"
        ),
        "hashes of lines": (
            lambda: [paragraphs.line_hashes(page) for page in pages.texts], text, "text"
        ),
        "the same by line": (lambda: [_by_line(page) for page in pages.texts], text, "text"),
        "repeated lines": (
            lambda: paragraphs.without_repeated(pages.texts, [], set()), text, "text"
        ),
        "commoncrawl, WARC": (lambda: _read(commoncrawl, pages.warc), html, "HTML"),
        "commoncrawl, WET": (lambda: _read(commoncrawl, pages.wet), text, "text"),
        "c4, WET": (lambda: _read(c4, pages.wet), text, "text"),
    }  # fmt: skip
    try:
        peer = importlib.import_module("fastwarc.warc")
    except ImportError:
        return found
    found["records, FastWARC"] = (lambda: _peer(peer, pages.warc), html, "HTML")
    return found


def _peer(peer: object, path: Path) -> list[int]:
    with path.open("rb") as file:
        iterator = peer.ArchiveIterator(file, parse_http=False)  # type: ignore[attr-defined]
        return [len(record.reader.read()) for record in iterator]


def _by_line(text: str) -> list[bytes]:
    gone = re.compile(f"[{paragraphs.PUNCTUATION}{re.escape(paragraphs.CONTROL)}]")
    digit = re.compile(r"\d")
    heads = []
    for line in text.split("\n"):
        bare = gone.sub("", digit.sub("0", line.strip().lower()))
        heads.append(hashlib.sha1(bare.encode(), usedforsecurity=False).digest()[:8])
    return heads


def _read(module: object, path: Path) -> list[Document]:
    item = Input(str(path), path.name, "", path.stat().st_size)
    return list(module.read(Unit("", "", (item,)), SliceRecipe()))  # type: ignore[attr-defined]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.data.bench_pages")
    parser.add_argument("folders", type=Path, nargs="+", help="folders of .html files")
    parser.add_argument("--megabytes", type=float, default=40.0, help="HTML to take at most")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            pages = corpus(options.folders, options.megabytes, Path(scratch))
        except DataError as error:
            sys.stderr.write(f"bench_pages: {error}\n")
            return 1
        runs = stages(pages)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, (run, _, _) in runs.items():
                begin = time.process_time()
                run()
                times[name].append(time.process_time() - begin)
    print(hardware())
    print(
        f"{len(pages.html)} pages, {pages.html_bytes / MEGABYTE:.1f} MB of HTML, "
        f"{pages.text_bytes / MEGABYTE:.1f} MB of text"
    )
    for name, (_, size, of) in runs.items():
        spent = statistics.median(times[name])
        print(
            f"  {name:20s}{size / MEGABYTE / spent:8.1f} MB of {of} a CPU-second"
            f"{len(pages.html) / spent:10.0f} pages a CPU-second"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
