"""Records of WARC files: all of them, whole, and every damage named."""

from __future__ import annotations

import gzip
import itertools
import os
import tracemalloc
from pathlib import Path

import pytest
import warc_files

from alpenglow.data.document import DataError
from alpenglow.data.slices.warc import LONGEST_HEADER, Record, records

ALL = {"warcinfo", "request", "response", "conversion", "revisit"}


def three() -> list[bytes]:
    return [
        warc_files.record("warcinfo", b"software: by hand\r\n", 1),
        warc_files.record("response", b"HTTP/1.1 200 OK\r\n\r\n" + bytes(range(256)) * 3, 2),
        warc_files.record("conversion", "Zürich\n\n\n".encode(), 3),
    ]


def plain(found: list[Record]) -> list[tuple[str, bytes | None, int]]:
    return [(record.kind, record.content, record.number) for record in found]


def as_far_as(path: Path) -> tuple[list[Record], str]:
    """What is given out, and the sentence at which it ends."""
    found: list[Record] = []
    try:
        found.extend(records(path, ALL))
    except DataError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "one_member.warc.gz"])
def test_all_records_of_each_wrapping(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.startswith("one"):
        path.write_bytes(gzip.compress(b"".join(three())))
    else:
        warc_files.write(path, three())
    found = list(records(path, ALL))
    assert [(r.kind, r.number, r.name) for r in found] == [
        ("warcinfo", 1, "1"), ("response", 2, "2"), ("conversion", 3, "3"),
    ]  # fmt: skip
    assert found[1].content == b"HTTP/1.1 200 OK\r\n\r\n" + bytes(range(256)) * 3
    assert found[1].headers["warc-target-uri"] == "http://example.org/2"
    assert found[2].content == "Zürich\n\n\n".encode()
    assert [r.number for r in records(path, {"conversion"})] == [3]
    (small,) = records(path, {"response"}, largest=100)
    assert (small.content, small.size) == (None, 19 + 768)


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_a_file_cut_at_any_byte(name: str, tmp_path: Path) -> None:
    whole = warc_files.write(tmp_path / name, three())
    data, given = whole.read_bytes(), plain(list(records(whole, ALL)))
    parts = [gzip.compress(part, mtime=0) if name.endswith("gz") else part for part in three()]
    borders = set(itertools.accumulate(len(part) for part in parts))
    path = tmp_path / f"cut_{name}"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        found, sentence = as_far_as(path)
        # What is given out is whole, and between two records alone a cut cannot be seen.
        assert plain(found) == given[: len(found)]
        assert bool(sentence) == (length not in borders), length
        assert not sentence or ("fetch the file again" in sentence and str(path) in sentence)


def test_a_flipped_bit_anywhere(tmp_path: Path) -> None:
    data = bytearray(warc_files.write(tmp_path / "a.warc.gz", three()).read_bytes())
    given = plain(list(records(tmp_path / "a.warc.gz", ALL)))
    path = tmp_path / "flipped.warc.gz"
    seen = 0
    for at in range(len(data)):
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        data[at] ^= 1 << at % 8
        found, sentence = as_far_as(path)
        assert plain(found) == given[: len(found)]
        # Time, system and level in a member's header are not in its checksum, and change nothing.
        assert sentence or plain(found) == given
        seen += bool(sentence)
    assert seen > 0.9 * len(data)


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        (warc_files.record("response", b"abc", Content_Length="9999"),
         r"record 2, byte \d+: the file ends \d+ bytes before the record does"),
        (warc_files.record("response", b"abcdefgh", Content_Length="3"),
         r"record 2, byte \d+: the content is not 3 bytes long, as its header says"),
        (warc_files.record("response", b"abc", Content_Length="-3"),
         r"record 2, byte \d+: Content-Length is '-3'"),
        (warc_files.record("response", b"abc", Content_Length=""),
         r"record 2, byte \d+: Content-Length is ''"),
        (b"<html>\r\n\r\n", r"record 2, byte \d+: no WARC record begins here"),
        (b"WARC/1.0\r\n" + b"x" * 2 * LONGEST_HEADER, r"record 2, byte \d+: a header without end"),
        (b"WARC/1.0\r\nWARC-Type: response\r\n",
         r"record 2, byte \d+: the file ends inside a header"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_damage_is_named(name: str, second: bytes, sentence: str, tmp_path: Path) -> None:
    path = warc_files.write(tmp_path / name, [three()[1], second])
    with pytest.raises(DataError, match=sentence):
        list(records(path, ALL))


def test_what_is_no_warc_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.warc.gz"
    empty.touch()
    with pytest.raises(DataError, match="before record 1, byte 0: there is no record in it"):
        list(records(empty, ALL))
    other = warc_files.write(tmp_path / "a.warc.gz", three())
    other.write_bytes(other.read_bytes() + b"<html>sorry</html>")
    place = other.stat().st_size - 18
    with pytest.raises(DataError, match=f"after record 3, byte {place}: the gzip member"):
        list(records(other, ALL))
    with pytest.raises(DataError, match="cannot be read"):
        list(records(tmp_path / "absent.warc", ALL))


def test_padding_and_loose_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(gzip.compress(b"\r\n" + part) for part in three()) + bytes(512))
    assert len(list(records(path, ALL))) == 3


def test_memory_is_that_of_a_record(tmp_path: Path) -> None:
    page = os.urandom(15_000).hex().encode()
    big = warc_files.record("response", bytes(60_000_000), 1)
    many = [warc_files.record("response", page, number) for number in range(2, 400)]
    path = tmp_path / "big.warc.gz"
    path.write_bytes(b"".join(gzip.compress(part, 1) for part in [big, *many]))
    tracemalloc.start()
    try:
        sizes = [(r.size, r.content is None) for r in records(path, {"response"})]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sizes == [(60_000_000, True), *[(30_000, False)] * 398]
    assert peak < 3_000_000


def test_the_same_records_as_fastwarc(tmp_path: Path) -> None:
    fastwarc = pytest.importorskip("fastwarc.warc", reason="fastwarc is not installed")
    stream_io = pytest.importorskip("fastwarc.stream_io")
    path = tmp_path / "peer.warc.gz"
    with path.open("wb") as file:
        writer = stream_io.GzipWriter(file)
        for number in range(20):
            record = fastwarc.WarcRecord()
            record.init_headers(fastwarc.response)
            record.headers["WARC-Target-URI"] = f"http://example.org/{number}"
            record.set_bytes_content(os.urandom(100 * number))
            record.write(writer)
        writer.close()
    folder = os.environ.get("ALPENGLOW_TEST_DATA")
    paths = [path, *sorted(Path(folder).glob("warc/*.warc.gz"))] if folder else [path]
    for one in paths:
        with one.open("rb") as file:
            peer = [
                (record.headers["WARC-Record-ID"], record.reader.read())
                for record in fastwarc.ArchiveIterator(file, parse_http=False)
            ]
        kinds = {*ALL, "metadata", "resource"}
        own = [(r.headers["warc-record-id"], r.content) for r in records(one, kinds)]
        assert own == peer
        assert len(own) > 5
