"""Web pages to text: wrappings, encodings, licences, and pages that would cost too much."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import pytest
import warc_files
from crawl_pages import PAGE, PROSE, long, of_records, page, read

from alpenglow.data.slices import page_text
from alpenglow.data.slices.source import LARGEST


def brotli(data: bytes, writer: str = "BrotliWriter") -> bytes:
    stream_io = pytest.importorskip("fastwarc.stream_io", reason="fastwarc is not installed")

    class Kept(io.BytesIO):
        def close(self) -> None:
            pass

    target = Kept()
    packer = getattr(stream_io, writer)(target)
    packer.write(data)
    packer.close()
    return target.getvalue()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate", "br", "zstd", "none"])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_as_they_came_over_the_wire(coding: str, chunked: bool, tmp_path: Path) -> None:
    body = PAGE.encode()
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = {
        "gzip": lambda: gzip.compress(body),
        "deflate": lambda: zlib.compress(body),
        "raw deflate": lambda: packer.compress(body) + packer.flush(),
        "br": lambda: brotli(body),
        "zstd": lambda: brotli(body, "ZstdWriter"),
        "none": lambda: body,
    }[coding]()
    fields: dict[str, Any] = (
        {} if coding == "none" else {"Content_Encoding": coding.removeprefix("raw ")}
    )
    if chunked:
        cut = [packed[at : at + 100] for at in range(0, len(packed), 100)]
        packed = b"".join(b"%x;a=b\r\n%b\r\n" % (len(c), c) for c in cut) + b"0\r\n\r\n"
        fields["Transfer_Encoding"] = "chunked"
    assert page(tmp_path, warc_files.http(packed, **fields)).text == f"Glow\n\n{PROSE}"
    if coding != "none":
        # Many crawlers store the body unpacked and leave the header as it was.
        assert page(tmp_path, warc_files.http(body, **fields)).text == f"Glow\n\n{PROSE}"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_body_that_unpacks_to_far_more(coding: str, tmp_path: Path) -> None:
    bomb = zlib.compressobj(9, wbits=zlib.MAX_WBITS | (16 if coding == "gzip" else 0))
    data = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(LARGEST // (1 << 20) + 2))
    found = page(tmp_path, warc_files.http(data + bomb.flush(), Content_Encoding=coding))
    assert (found.fault, found.text) == ("larger than 50 MB", "")
    assert found.size is not None
    assert found.size < 100_000  # what was read, not what it would have become


@pytest.mark.parametrize(
    ("text", "encoding", "kind", "head"),
    [
        ("Größe und Maß, schön gewählt", "utf-8", "text/html; charset=utf-8", ""),
        ("Größe und Maß, schön gewählt", "iso-8859-1", "text/html", '<meta charset="latin1">'),
        ("Größe und Maß, schön gewählt", "iso-8859-1", "text/html; charset=utf-8", ""),
        ("アルプスの夕焼けは美しいです", "shift_jis", "text/html; charset=Shift_JIS", ""),
        ("アルプスの夕焼けは美しいです", "euc-jp", "text/html",
         '<meta http-equiv="Content-Type" content="text/html; charset=euc-jp">'),
        ("Вечерняя заря над вершинами гор", "windows-1251", "text/html", ""),
        ("Вечерняя заря над вершинами гор", "utf-16", "text/html; charset=utf-8", ""),
        ("Вечерняя заря над вершинами гор", "utf-16-le", "text/html; charset=UTF-16LE", ""),
        ("“Quoted” – dash", "cp1252", "text/html; charset=iso-8859-1", ""),
    ],
)  # fmt: skip
def test_encodings(text: str, encoding: str, kind: str, head: str, tmp_path: Path) -> None:
    html = f"<html><head>{head}</head><body><p>{text} {text}</p></body></html>"
    content = warc_files.http(html.encode(encoding), kind)
    found = page(tmp_path, content, min_characters=1, languages=[])
    assert found.text == f"{text} {text}"


@pytest.mark.parametrize(
    ("link", "licence"),
    [
        ('<a rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/">x</a>',
         "CC-BY-SA-4.0"),
        ("<link href='http://creativecommons.org/publicdomain/zero/1.0/' rel='license nofollow'>",
         "CC0-1.0"),
        ('<a rel=license href=https://example.org/terms>x</a>', "https://example.org/terms"),
        ('<a href="https://creativecommons.org/licenses/by/4.0/">of a picture</a>', "unknown"),
        ('<a rel="license" href="/a">x</a><a rel="license" href="/b">y</a>', "unknown"),
    ],
)  # fmt: skip
def test_a_licence_that_a_page_states(link: str, licence: str, tmp_path: Path) -> None:
    body = PAGE.replace("<footer>", f"<footer>{link}").encode()
    warc_files.write(tmp_path / "a.warc", [warc_files.record("response", warc_files.http(body))])
    (found,) = read(tmp_path, licence="unknown")
    assert found.licence == licence


@pytest.mark.parametrize(
    ("html", "deep"),
    [
        ("<div>" * 1001, True),
        ("<div>" * 1000 + "</div>" * 2000 + "<div>" * 900, False),
        ("</div>" * 2000 + "<div>" * 1001, True),
        ("<p>x<br><li>" * 5000, False),
        ("<b><p>" * 1001, True),
        ("<optgroup>" * 1001, True),
        ("<table>" + "<tr><td>x" * 1001, False),
        ("<svg>" + "<tr><td>x" * 1001, True),
        ("<div><p>x</p></div>" * 5000, False),
        ("< a <1 <!-- <" * 5000, False),
        ("<" * 3000, False),
    ],
)
def test_depth(html: str, deep: bool) -> None:
    assert page_text.deeper_than(html, 1000) == deep


@pytest.mark.parametrize("kind", ["response", "conversion"])
def test_a_broken_character_among_good_ones(kind: str, tmp_path: Path) -> None:
    text = "Größe und Maß, schön gewählt. " * 9
    broken = text.encode().replace("ö".encode(), b"\xc3", 1)
    body = broken if kind == "conversion" else warc_files.http(b"<html><p>%b</p>" % broken)
    (found,) = of_records(tmp_path, [warc_files.record(kind, body)], min_characters=1, languages=[])
    assert found.text == text.replace("ö", "\ufffd", 1).strip()


def test_a_page_that_the_parser_cannot_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    html2text = pytest.importorskip("resiliparse.extract.html2text")
    true = html2text.extract_plain_text

    def fails_on_one(html: str, **options: Any) -> str:
        if "poison" in html:
            raise RuntimeError("of another's code")
        return str(true(html, **options))

    monkeypatch.setattr(html2text, "extract_plain_text", fails_on_one)
    bodies = [long("poison"), PAGE.encode()]
    parts = [warc_files.record("response", warc_files.http(b), n) for n, b in enumerate(bodies)]
    assert [d.fault for d in of_records(tmp_path, parts)] == ["cannot be parsed", ""]
