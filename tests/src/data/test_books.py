"""Books slice: PG-19's splits and metadata, Project Gutenberg's frame, books3 refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from slice_input import documents, units

from alpenglow.config import ConfigError
from alpenglow.data.document import DataError, InputAbsent
from alpenglow.data.slices import gutenberg
from alpenglow.data.slices import source as slice_source
from alpenglow.data.slices.source import decode

HEAD = "The Project Gutenberg EBook of Emma\n\nTitle: Emma\n\nAuthor: Jane Austen\n\n"
START = "*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***"
END = "*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***"
BOOK = "\n\nEMMA\n\nEmma Woodhouse, handsome.\n\n\n"
TAIL = "\n\nSection 1. General Terms of Use\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("text", "faithful", "fixed"),
    [
        (HEAD + START + BOOK + END + TAIL, None, BOOK.strip("\n") + "\n"),
        (START.replace("THE", "THIS") + BOOK + END, None, BOOK.strip("\n") + "\n"),
        ("*** START OF THE PROJECT GUTENBERG EBOOK A LONG\nTITLE ***" + BOOK, None,
         BOOK.strip("\n") + "\n"),
        ("x\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n" + BOOK
         + "End of the Project Gutenberg Etext of Emma\n", None, BOOK.strip("\n") + "\n"),
        (BOOK + "\n\n" + END + TAIL, None, BOOK.strip("\n") + "\n"),
        (BOOK, None, BOOK),
        ("He was at the START OF THE PROJECT GUTENBERG.\n", None,
         "He was at the START OF THE PROJECT GUTENBERG.\n"),
        ("", None, ""),
    ],
)  # fmt: skip
def test_what_gutenberg_put_around(text: str, faithful: None, fixed: str, tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": text})
    (found,) = documents("books", tmp_path, mode="faithful")
    assert (found.text, dict(found.trimmed)) == (text, {})
    (found,) = documents("books", tmp_path)
    assert found.text == fixed
    assert found.read_bytes == len(text)
    assert sum(found.trimmed.values()) == len(text) - len(fixed)
    assert ("Emma" in found.metadata.get("title", "")) == ("Title:" in text)


@pytest.mark.parametrize(
    "piece", ["\n", " ", "*", "** ", "*END", "*** START OF THE PROJECT GUTENBERG "]
)
def test_time_grows_with_the_length(piece: str) -> None:
    text = piece * 300_000
    assert len(gutenberg.strip(text)[0]) <= len(text) + 1


def test_an_end_in_the_middle_of_a_book_is_none() -> None:
    long = "x\n" + END + "\n" + "word " * 20_000
    assert gutenberg.strip(long)[0] == long


PG19: dict[str, Any] = {
    "train/10.txt": "ten\n", "train/11.txt": "eleven\n", "validation/12.txt": "twelve\n",
    "test/13.txt": "thirteen\n",
    "metadata.csv": '10,"The, First",1850,http://www.gutenberg.org/ebooks/10\n'
    "11,Second,1925?,http://www.gutenberg.org/ebooks/11\n13,Fourth,1900,x\n",
}  # fmt: skip


def test_pg19(tmp_path: Path) -> None:
    write(tmp_path, PG19)
    first, second = documents("books", tmp_path, licence="as the catalogue says")
    assert (first.source, first.text) == ("train/10.txt", "ten\n")
    assert first.metadata == {"title": "The, First", "year": "1850"}
    assert first.licence == "Public domain in the USA"
    assert (first.url, first.timestamp) == ("http://www.gutenberg.org/ebooks/10", "1850")
    # Nobody says that a book of 1925 is in the public domain.
    assert (second.licence, second.timestamp) == ("as the catalogue says", "1925")
    # v1 read the benchmark's validation and test books too.
    assert len(documents("books", tmp_path, mode="faithful")) == 4
    chosen = documents("books", tmp_path, rules={"splits": ["test"]})
    assert [book.source for book in chosen] == ["test/13.txt"]
    with pytest.raises(ConfigError, match="'dev' is none of train, validation, test"):
        units("books", tmp_path, rules={"splits": ["dev"]})


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, {"train/1.txt": "x"})
    with pytest.raises(InputAbsent, match=r"has no test/; it reads"):
        units("books", tmp_path, rules={"splits": ["test"]})


def test_a_table_with_names(tmp_path: Path) -> None:
    table = "Title,id,rights,author\nA,a,Public domain in the USA.,B\nC,c,CC0-1.0,\n"
    write(tmp_path, {"a.txt": "a", "c.txt": "c", "d.txt": "d", "metadata.csv": table})
    found = documents("books", tmp_path, licence="x")
    assert [book.licence for book in found] == ["Public domain", "CC0-1.0", "x"]
    assert found[0].metadata == {"title": "A", "author": "B"}
    (before,) = units("books", tmp_path)
    os.utime(tmp_path / "metadata.csv", ns=(2**62, 2**62))
    (after,) = units("books", tmp_path)
    assert before.key != after.key
    (tmp_path / "metadata.csv").write_bytes(b"id,title\n1,\xff\n")
    with pytest.raises(DataError, match=r"metadata\.csv: not a table of books"):
        documents("books", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "books3/a.txt",
        "raw/Books3.tar.gz",
        "the_pile_books3/train/a.txt",
        "BOOKS-3.txt",
        "b/books_3",
    ],
)
def test_withdrawn_books_are_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path / "in", {"a.txt": "x", name: "x"})
    sentence = "was withdrawn for reasons of copyright and is never read"
    # Whatever is asked of it: also where the slice may be absent, also under another name.
    for changes in ({}, {"optional": True}, {"mode": "faithful"}):
        with pytest.raises(DataError, match=sentence) as caught:
            units("books", tmp_path / "in", **changes)
        assert not isinstance(caught.value, InputAbsent)
    with pytest.raises(DataError, match=sentence):
        units("books", tmp_path / "in" / name)
    if name == "books3/a.txt":
        (tmp_path / "other").symlink_to(tmp_path / "in" / "books3")
        with pytest.raises(DataError, match=sentence):
            units("books", tmp_path / "other")


def test_other_books_are_not_refused(tmp_path: Path) -> None:
    write(tmp_path, {"notebooks3/a.txt": "x", "books30/b.txt": "x", "books/3.txt": "x"})
    assert len(documents("books", tmp_path)) == 3


def test_encodings_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.txt").write_bytes("Größe\r\n".encode("latin-1"))
    (tmp_path / "a.txt").write_bytes("\ufeffNaïve\n".encode())
    (tmp_path / "c.txt").write_bytes(b"\x00\x01")
    (tmp_path / ".hidden.txt").write_text("no")
    found = documents("books", tmp_path, licence="CC0-1.0")
    assert [(d.source, d.text, d.fault) for d in found] == [
        ("a.txt", "Naïve\n", ""),
        ("b.txt", "Größe\n", ""),
        ("c.txt", "", "binary"),
    ]
    assert found[0].licence == "CC0-1.0"
    assert found[2].bytes == 2
    assert decode(b"\xff\x00") is None
    monkeypatch.setattr(slice_source.read_up_to, "__defaults__", (5,))
    faults = [book.fault for book in documents("books", tmp_path)]
    assert faults == ["larger than 50 MB", "larger than 50 MB", "binary"]
