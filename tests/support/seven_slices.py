"""All seven slices from real inputs, through every step, to a report.

    nox -s seven                                    or, what it calls:
    python tests/support/seven_slices.py FOLDER     needs apt-get and dpkg-deb, pip, a network

Pages are the HTML of Debian's documentation packages, put into WARC and WET files here (their
responses' headers are ours); code is Linux and this Python's library; books are Debian's; the
sample of Wikipedia is gensim's; StackExchange and LaTeX are those of ALPENGLOW_TEST_DATA. A model
of the language is trained on Wikipedia, a classifier on it against pages. Nothing is installed.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import tomli_w

PACKAGES = ("linux-source-6.1", "python3.11-doc", "anarchism", "debian-reference-en",
            "dict-gcide", "postgresql-doc-15")  # fmt: skip
LINUX = ("kernel/", "mm/", "lib/", "COPYING", "LICENSES/")
"""Parts of the Linux source that are taken: about 30 MB."""
WHEEL = {
    "origin": "wheel",
    "wheel": "gensim==4.4.0",
    "member": "gensim/test/test_data/"
    "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
}


def unpack(folder: Path) -> Path:
    """Fetch and unpack the packages, without installing them."""
    packages, unpacked = folder / "packages", folder / "unpacked"
    packages.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        if not list(packages.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", "--quiet", name], cwd=packages, check=True)
        (path,) = packages.glob(f"{name}_*.deb")
        subprocess.run(["dpkg-deb", "--extract", str(path), str(unpacked)], check=True)
    return unpacked


def warc_record(kind: str, url: str, body: bytes, content_type: str) -> bytes:
    """One record, a gzip member as crawls have it (WARC 1.1, ISO 28500)."""
    lines = (
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"WARC-Target-URI: {url}",
        "WARC-Date: 2024-01-01T00:00:00Z",
        f"WARC-Record-ID: <urn:example:{kind}:{url}>",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
    )
    head = "\r\n".join(lines).encode()
    return gzip.compress(head + b"\r\n\r\n" + body + b"\r\n\r\n", 6, mtime=0)


def write_warc(path: Path, pages: Iterable[tuple[str, bytes]]) -> None:
    """Responses with HTML."""
    with path.open("wb") as file:
        for url, html in pages:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(html)}"
            body = head.encode() + b"\r\n\r\n" + html
            file.write(warc_record("response", url, body, "application/http; msgtype=response"))


def write_wet(path: Path, pages: Iterable[tuple[str, bytes]]) -> None:
    """Texts of pages, all of each page as crawls keep it."""
    from resiliparse.extract.html2text import extract_plain_text

    with path.open("wb") as file:
        for url, html in pages:
            text = extract_plain_text(html.decode("utf-8", "replace"), main_content=False)
            file.write(warc_record("conversion", url, text.encode(), "text/plain"))


def pages(root: Path) -> Iterator[tuple[str, bytes]]:
    """HTML files of the packages, in the order of their names."""
    for path in sorted((root / "usr" / "share" / "doc").rglob("*.html")):
        if path.is_file():
            yield f"https://pages.example/{path.relative_to(root)}", path.read_bytes()


def write_raw(folder: Path, test_data: Path) -> Path:
    """Lay out `raw/SLICE` for all slices but Wikipedia, which pip fetches."""
    unpacked, raw = unpack(folder), folder / "raw"
    for name in ("commoncrawl", "c4", "github", "books", "arxiv", "stackexchange"):
        (raw / name).mkdir(parents=True, exist_ok=True)
    every = list(pages(unpacked))
    half = len(every) // 2
    for number in range(4):
        part = every[:half][number::4]
        write_warc(raw / "commoncrawl" / f"pages-{number}.warc.gz", part)
    for path in (test_data / "warc").glob("*.warc.gz"):
        shutil.copy(path, raw / "commoncrawl")
    for number in range(2):
        write_wet(raw / "c4" / f"pages-{number}.wet.gz", every[half:][number::2])
    write_linux(unpacked, raw / "github" / "linux-6.1.tar")
    write_library(raw / "github" / "cpython")
    write_books(unpacked, raw / "books")
    for path in (test_data / "latex").glob("*.tar.gz"):
        shutil.copy(path, raw / "arxiv")
    for path in (test_data / "stackexchange").glob("*.xml"):
        shutil.copy(path, raw / "stackexchange")
    return raw


def write_books(unpacked: Path, folder: Path) -> None:
    """Debian's reference, and a dictionary of 1913 in volumes."""
    with gzip.open(next(unpacked.rglob("debian-reference.en.txt.gz"))) as book:
        (folder / "debian-reference.txt").write_bytes(book.read())
    with gzip.open(next(unpacked.rglob("gcide.dict.dz")), "rt", errors="replace") as book:
        for volume in range(10):
            (folder / f"gcide-{volume}.txt").write_text(book.read(1_500_000), encoding="utf-8")


def write_linux(unpacked: Path, path: Path) -> None:
    """Some of Linux as an archive of one repository."""
    (source,) = (unpacked / "usr" / "src").glob("linux-source-*.tar.xz")
    with tarfile.open(source) as archive, tarfile.open(path, "w") as made:
        for member in archive:
            inner = member.name.partition("/")[2]
            content = archive.extractfile(member) if inner.startswith(LINUX) else None
            if content is not None and member.isfile():
                data = content.read()
                member.size = len(data)
                made.addfile(member, io.BytesIO(data))


def write_library(folder: Path) -> None:
    """This Python's own library as a repository with its licence."""
    root = Path(os.__file__).parent
    for path in sorted(root.rglob("*.py")):
        inner = path.relative_to(root)
        if {"site-packages", "test", "tests"} & set(inner.parts):
            continue
        (folder / inner).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / inner)
    licence = "SPDX-License-Identifier: PSF-2.0\n"
    (folder / "LICENSE").write_text(licence)


def write_recipe(
    folder: Path, raw: Path, *, mode: str, models: bool, tokenizer: Path | None
) -> Path:
    """A recipe over all seven; with models, pages are cut at perplexity and classifier too."""
    web = ["basic", "prose", "gopher", "fineweb"]
    tables = {
        "output": str(folder / f"shards-{mode}"),
        "run": str(folder / f"run-{mode}"),
        "shard_tokens": 5_000_000,
        "unit_bytes": 8_000_000,
        "slices": {
            "commoncrawl": {"input": str(raw / "commoncrawl"), "presets": web,
                            "mask": ["email", "ip"]},
            "c4": {"input": str(raw / "c4"), "presets": ["basic", "c4"]},
            "github": {"input": str(raw / "github"),
                       "rules": {"licences": ["mit", "bsd", "apache", "psf", "gpl"]}},
            "books": {"input": str(raw / "books")},
            "arxiv": {"input": str(raw / "arxiv"), "licence": "GFDL-1.2"},
            "wikipedia": {"input": str(raw), "licence": "CC BY-SA 3.0", **WHEEL},
            "stackexchange": {"input": str(raw / "stackexchange")},
        },
        "cluster": {"protocol": "tls", "workers": 2},
    }  # fmt: skip
    if mode == "faithful":
        for table in tables["slices"].values():  # type: ignore[attr-defined]
            table["mode"] = "faithful"
            table.pop("presets", None)
            table.pop("mask", None)
    if models:
        tables["models"] = {
            "language_model": str(folder / "lm.h5"),
            "classifiers": {"wikiref": str(folder / "wikiref.h5")},
        }
    if tokenizer is not None:
        tables["tokenizer"] = {"origin": "file", "file": str(tokenizer)}
    path = folder / f"prepare-{mode}{'' if models else '-first'}.toml"
    path.write_text(tomli_w.dumps(tables))
    return path


def run(*words: str) -> None:
    """Run a sub-command of `alpenglow data`, showing it."""
    print(f"$ alpenglow data {' '.join(words)}", flush=True)  # noqa: T201
    subprocess.run([sys.executable, "-m", "alpenglow.data.command", *words], check=True)


def main() -> int:
    """Do it all."""
    parser = argparse.ArgumentParser(description="Seven slices from real inputs, to a report.")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    given = os.environ.get("ALPENGLOW_TEST_DATA")
    if not given:
        print("ALPENGLOW_TEST_DATA is not set: no StackExchange and LaTeX to read")  # noqa: T201
        return 1
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        print("no apt-get and dpkg-deb here: the packages cannot be fetched")  # noqa: T201
        return 1
    folder, test_data = options.folder.absolute(), Path(given)
    raw = write_raw(folder, test_data)
    tokenizer = test_data / "tokenizer" / "20B_tokenizer.json"
    first = write_recipe(folder, raw, mode="fixed", models=False, tokenizer=tokenizer)
    run("prepare", str(first))
    documents = folder / "run-fixed" / "documents"
    stores = {
        name: [
            str(path)
            for path in sorted(documents.glob(f"{name}-*.h5"))
            if path.name.count(".") == 1
        ]
        for name in ("wikipedia", "commoncrawl")
    }
    run("train-lm", *stores["wikipedia"], "--language", "en", "--output", str(folder / "lm.h5"),
        "--cutoffs", *stores["commoncrawl"])  # fmt: skip
    run("train-classifier", "--name", "wikiref", "--positives", *stores["wikipedia"],
        "--negatives", *stores["commoncrawl"], "--output", str(folder / "wikiref.h5"))  # fmt: skip
    for mode in ("fixed", "faithful"):
        recipe = write_recipe(folder, raw, mode=mode, models=True, tokenizer=tokenizer)
        run("prepare", str(recipe))
        run("verify", str(folder / f"shards-{mode}"))
        run("report", str(folder / f"shards-{mode}"), "--output", str(folder / f"report-{mode}"))
    run("budget", str(folder / "run-fixed"), "--target", "llama", "--total", "20e6")
    return 0


if __name__ == "__main__":
    sys.exit(main())
