"""The Wikipedia slice: dumps in 20 languages, markup to prose, what is cut, large or hostile."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from alpenglow.data.document import DataError, Document, Input, Unit
from alpenglow.data.document import InputAbsent as Absent
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import wikipedia, wikipedia_dump, wikipedia_languages, wikipedia_v1
from alpenglow.data.slices.source import Source
from alpenglow.data.slices.wikitext import Cleaner, clean

PAGE = """<page><title>{title}</title><ns>{ns}</ns><id>{number}</id>{extra}
<revision><id>9</id><timestamp>2020-01-02T03:04:05Z</timestamp><text>{text}</text></revision></page>"""
RU = """<siteinfo><dbname>ruwiki</dbname><base>https://ru.wikipedia.org/wiki/X</base><namespaces>
<namespace key="-2">Медиа</namespace><namespace key="0"/><namespace key="6">Файл</namespace>
<namespace key="14">Категория</namespace></namespaces></siteinfo>"""
EN = RU.replace("ru", "en").replace("Медиа", "Media").replace("Файл", "File")


def page(title: str, number: int, text: str, ns: int = 0, extra: str = "") -> str:
    return PAGE.format(title=title, ns=ns, number=number, extra=extra, text=text)


def dump(*pages: str, site: str = "") -> bytes:
    namespace = "http://www.mediawiki.org/xml/export-0.10/"
    return f'<mediawiki xmlns="{namespace}">{site}{"".join(pages)}</mediawiki>'.encode()


WIKI = dump(
    page("Alps", 1, "'''Alps''' are [[mountain]]s."),
    page("Alp", 2, "x", extra='<redirect title="Alps"/>'),
    page("Alpes", 3, "#REDIRECT [[Alps]]"),
    page("Talk:Alps", 4, "talk", ns=1),
)


def read(root: Path, **changes: object) -> list[Document]:
    recipe = SliceRecipe(input=root, **changes)  # type: ignore[arg-type]
    # A dump in a wheel stays whole, however small units are.
    unit_bytes = 10 if recipe.origin == "wheel" else 1_000_000
    units = wikipedia.units(Source.of("wikipedia", recipe, unit_bytes))
    return [document for unit in units for document in wikipedia.read(unit, recipe)]


@pytest.mark.parametrize("name", ["a.xml", "a.xml.gz", "a!b/a.xml.bz2"])
def test_dump(name: str, tmp_path: Path) -> None:
    half = len(WIKI) // 2
    content = {
        "a.xml": WIKI,
        "a.xml.gz": gzip.compress(WIKI),
        "a!b/a.xml.bz2": bz2.compress(WIKI[:half]) + bz2.compress(WIKI[half:]),  # multistream
    }[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    (found,) = read(tmp_path, licence="CC BY-SA 4.0")
    assert (found.text, found.source) == ("Alps\n\nAlps are mountains.", f"{name}#1")
    assert found.timestamp == "2020-01-02T03:04:05Z"
    assert dict(found.metadata) == {"title": "Alps", "page": "1", "language": "", "revision": "9"}
    markup = "'''Alps''' are [[mountain]]s."
    assert found.read_bytes == len("Alps\n\n" + markup)


def test_parts_of_a_dump(tmp_path: Path) -> None:
    (tmp_path / "x-index.txt.bz2").write_bytes(bz2.compress(b"1:2:Alps"))
    with pytest.raises(Absent, match=r"holds no file with \.xml in its name"):
        read(tmp_path)
    for part in ("1.xml-p1p9", "2.xml-p10p19"):
        (tmp_path / f"enwiki-20230320-pages-articles{part}.bz2").write_bytes(bz2.compress(WIKI))
    assert [d.metadata["language"] for d in read(tmp_path)] == ["en", "en"]


@pytest.mark.parametrize("cut", ["pages", "anywhere", "nowhere"])
def test_a_dump_in_streams_is_cut_into_units(cut: str, tmp_path: Path) -> None:
    pages = [page(f"P{n}", n, f"text {n} " + "&lt;page&gt; " * (n % 7) * 20) for n in range(60)]
    whole = dump(*pages, site=RU)
    first = whole.index(b"<page>")
    places = {
        "pages": [0, *[whole.index(b"<page><title>P%d<" % n) for n in range(0, 60, 4)],
                  whole.rindex(b"</mediawiki>"), len(whole)],
        "anywhere": [0, *range(first + 3, len(whole), 411), len(whole)],
        "nowhere": [0, len(whole)],
    }[cut]  # fmt: skip
    streams = [whole[a:b] for a, b in itertools.pairwise(places)]
    data = b"".join(bz2.compress(stream) for stream in streams)
    path = tmp_path / "ruwiki.xml.bz2"
    path.write_bytes(data)
    expected = read(tmp_path)
    assert len(expected) == 60
    recipe = SliceRecipe(input=tmp_path)
    for size in (300, 411, 997, 2000):
        units = wikipedia.units(Source.of("wikipedia", recipe, unit_bytes=size))
        assert len(units) == -(-len(data) // size)
        assert len({unit.key for unit in units}) == len(units)
        assert sum(unit.size for unit in units) == len(data)
        found = [list(wikipedia.read(unit, recipe)) for unit in units]
        assert [d for part in found for d in part] == expected
        assert cut == "nowhere" or sum(map(bool, found)) > len(units) // 4
    path.write_bytes(data[:-30])
    with pytest.raises(DataError, match=r"xml\.bz2: not a whole dump"):
        [list(wikipedia.read(unit, recipe)) for unit in units]


def test_language_of_the_dump(tmp_path: Path) -> None:
    text = "[[Файл:a.jpg|мини|б]]А [[Категория:Б]][[Изображение:в]]г [[К:д]]"
    pages = (page("Гора Б", 1, text), page("В", 2, "#Перенаправление [[Б]]"))
    (tmp_path / "a.xml").write_bytes(dump(*pages, site=RU))
    (found,) = read(tmp_path)
    assert found.text == "Гора Б\n\nА г"
    assert found.url == "https://ru.wikipedia.org/wiki/%D0%93%D0%BE%D1%80%D0%B0_%D0%91"
    assert found.metadata["language"] == "ru"
    (tmp_path / "a.xml").unlink()
    (tmp_path / "ruwiki-20230320-pages-articles.xml").write_bytes(dump(*pages))
    (found,) = read(tmp_path)
    assert found.metadata["language"] == "ru"
    assert found.url.startswith("https://ru.wikipedia.org/wiki/")


@pytest.mark.parametrize("language", wikipedia_languages.LANGUAGES)
def test_words_of_each_language(language: str, tmp_path: Path) -> None:
    words = wikipedia_languages.of(language)
    pages = [page(f"R{n}", n, f"{word.upper()} [[A]]") for n, word in enumerate(words.redirect)]
    links = "".join(f"[[{name}:x.jpg|thumb|c]]" for name in (*words.media, *words.category))
    pages.append(page("A", 99, f"a{links} b"))
    (tmp_path / f"{language}wiki-1-pages-articles.xml").write_bytes(dump(*pages))
    assert [d.text for d in read(tmp_path)] == ["A\n\na b"]
    assert len(wikipedia_languages.LANGUAGES) == 20


FAITHFUL = {
    "title": ("prose", "prose", "T\n\nprose"),
    "category": ("a [[Category:Hills|H]] b", "a H b", "a b"),
    "empty brackets": ("Alps ({{IPA|x}}) are", "Alps () are", "Alps are"),
    "text of a template": ("{{lang|fr|mot}} {{convert|5|km|mi}}", "", "mot 5 km"),
    "formula": ("a <math>x^2</math> b", "a  b", "a $x^2$ b"),
    "redirect in another case": ("#Redirect [[B]]", "Redirect B", None),
    "file in a file": ("[[File:a|b [[c]] d]]e", "e", "e"),
    "magic word": ("__NOTOC__ a", " a", "a"),
    "reference": ("a<ref>b</ref> c", "a c", "a c"),
    "table": ("a\n{|\n|b\n|}\nc", "a\n\nc", "a\n\nc"),
    "sections": ("a\n== H ==\nb", "a\n\nH \nb", "a\nH\nb"),
    "language link": ("a [[fr:A]]", "a fr:A", "a"),
}


@pytest.mark.parametrize("case", FAITHFUL)
def test_modes(case: str, tmp_path: Path) -> None:
    markup, faithful, fixed = FAITHFUL[case]
    markup = markup.replace("<", "&lt;")
    (tmp_path / "enwiki-1.xml").write_bytes(dump(page("T", 1, markup)))
    old = read(tmp_path, mode="faithful")
    assert [d.text for d in old] == [faithful]
    assert old[0].fault == ("" if faithful else "no text")
    assert old[0].url == "https://en.wikipedia.org/wiki/T"
    found = read(tmp_path)
    if fixed is None:
        assert not found
    else:
        assert found[0].text == (fixed if case == "title" else f"T\n\n{fixed}")


def test_modes_spell_addresses_differently(tmp_path: Path) -> None:
    (tmp_path / "enwiki-1.xml").write_bytes(dump(page("A b (c)", 1, "x")))
    assert read(tmp_path)[0].url.endswith("/A_b_(c)")
    assert read(tmp_path, mode="faithful")[0].url.endswith("/A%20b%20%28c%29")


def test_v1_refuses_what_its_parser_does_not_end(tmp_path: Path) -> None:
    with pytest.raises(wikipedia_v1.NotParsed, match="never closed"):
        wikipedia_v1.clean("{{a|" * 100_000, ("File",), ("Category",))
    (tmp_path / "enwiki-1.xml").write_bytes(dump(page("A", 1, "{{" * 100_000), page("B", 2, "b")))
    assert [d.fault for d in read(tmp_path, mode="faithful")] == ["not parsed", ""]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("a {{b|{{c}}\n|d}} e", "a e"),
        ("a {{unclosed b", "a unclosed b"),
        ("a }} b", "a b"),
        ("x\n{| class=a\n|-\n| {{t}} || {|\n| y\n|}\n|}\nz", "x\n\nz"),
        ("[[a|b]] [[c]] [[File:x.jpg|thumb|a [[b]] c]] [[Category:Z]][[fr:Alpes]]", "b c"),
        ("[[:Category:Z]] [[:File:x.jpg|x]] [[Help:a|]]", "Category:Z x a"),
        ("see [https://a.b/c the page] and [https://a.b]", "see the page and"),
        ("a<ref name=x>b {{c}}</ref> d<ref name=x/> e", "a d e"),
        ("a<ref>unclosed", "aunclosed"),
        ("== Head ==\n* one\n# two\n* {{cite}}.", "Head\none\ntwo"),
        ("'''b''' ''i'' &amp;nbsp;&lt;", "b i &nbsp;<"),
        ("a<!-- b\n -->c", "ac"),
        ("Alps ({{IPA|x}}) are", "Alps are"),
        ("Alps ({{IPA|x}}, born {{age}}, in {{x}}) are", "Alps (born, in) are"),
        ("a {{x}}, b {{y}}. c", "a, b. c"),
        ("<nowiki>[[a]] {{b}}</nowiki> <code>x[[1]]</code>", "[[a]] {{b}} x[[1]]"),
        ("<math>\\frac{{a}}{{b}}</math> <math>|x|</math>", "$\\frac{{a}}{{b}}$ $|x|$"),
        ("<source lang=c>\nif (a) {\n  b;\n}\n</source>", "if (a) {\n  b;\n}"),
        ("{{lang|el|ἀρχή}} {{nowrap|5 [[a|b]]}} {{lang-fr|mot}}", "ἀρχή 5 b mot"),
        ("{{convert|5|to|6|km|mi|abbr=on}} {{cvt|1,000|ft}}", "5 to 6 km 1,000 ft"),
        ("{{circa|1900}} {{frac|1|2}} a{{ndash}}b {{formatnum:1234}}", "c. 1900 1/2 a–b 1234"),
        ("__NOTOC__ __БЕЗСЪДЪРЖАНИЕ__ a __init__", "a __init__"),
        ("-{sr-ec:а; sr-el:a}- -{b}-", "а b"),
        ("a<br />b<blockquote>c</blockquote>", "a\nbc"),
    ],
)
def test_markup(markup: str, text: str) -> None:
    assert clean(markup) == text
    cleaned, trimmed = Cleaner().clean(markup)
    assert len(cleaned.encode()) + sum(trimmed.values()) == len(markup.encode())
    assert all(size > 0 for size in trimmed.values())


def test_rules_that_take_text_out() -> None:
    markup = "a<ref>bb</ref>{{c}}\n{|\n|d\n|}\n[[File:e]]<!-- f -->'''g'''"
    text, trimmed = Cleaner().clean(markup)
    assert text == "a\n\ng"
    assert trimmed == {
        "comments": 10, "references": 13, "templates": 5, "tables": 8, "links": 10, "markup": 6,
    }  # fmt: skip


HOSTILE = {
    "templates": "{{" * 100_000, "nested templates": "{{" * 100_000 + "}}" * 100_000,
    "templates with text": "{{nowrap|" * 20_000 + "x" + "}}" * 20_000,
    "links": "[[a " * 100_000 + "]]" * 100_000, "open links": "[[" * 100_000,
    "tables closed by templates": "\n{|" * 100_000 + "}}" * 100_000,
    "references": "<ref>" * 100_000, "addresses": "[http://a b " * 100_000,
    "equals": "= " * 100_000, "spaces": " " * 500_000 + "x", "commas": "(" + "," * 300_000,
    "variants": "-{" * 100_000, "tags": "<a " * 100_000, "math": "<math>" * 50_000,
}  # fmt: skip


def test_hostile_markup_is_linear() -> None:
    # In a process of its own with a limit on CPU seconds: what grows with the square takes hours.
    code = (
        "import resource, sys, json; resource.setrlimit(resource.RLIMIT_CPU, (60, 60));"
        "from alpenglow.data.slices.wikitext import clean;"
        "[clean(markup) for markup in json.load(sys.stdin).values()]"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(HOSTILE), text=True, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["a.xml", "a.xml.gz", "a.xml.bz2"])
def test_dump_cut_at_any_byte(name: str, tmp_path: Path) -> None:
    half = WIKI.index(b"<page>", 200)
    data = {
        "a.xml": WIKI,
        "a.xml.gz": gzip.compress(WIKI),
        "a.xml.bz2": bz2.compress(WIKI[:half]) + bz2.compress(WIKI[half:]),
    }[name]
    first = len(bz2.compress(WIKI[:half]))
    for place in (*range(0, len(data), 13), first, len(data) - 1):
        if place < len(data):
            (tmp_path / name).write_bytes(data[:place])
            with pytest.raises(DataError, match=r"a\.xml.*: not a whole dump.*fetch it again"):
                read(tmp_path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"<!DOCTYPE mediawiki [<!ENTITY a 'aaaa'>]>" + WIKI, "declares entities"),
        (b"<!DOCTYPE mediawiki [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>" + WIKI, "entities"),
        (b"<html></html>", "its first tag is <html>"),
        (WIKI.replace(b"</title>", b"</titel>"), "mismatched tag"),
        (
            WIKI.replace(b"prose", b"\x01").replace(b"Alps</title>", b"\x01</title>"),
            "not well-formed",
        ),
        (b"<mediawiki>" + b"<a>" * 100, "nested more than 32 deep"),
        (b"no xml", "syntax error"),
    ],
)
def test_what_is_no_dump(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(DataError, match=f"not a whole dump.*{why}"):
        read(tmp_path)


def test_an_external_document_type_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"<!DOCTYPE mediawiki SYSTEM 'absent.dtd'>" + WIKI)
    assert len(read(tmp_path)) == 1


def test_bytes_that_are_not_utf8_spoil_one_page(tmp_path: Path) -> None:
    data = dump(page("A", 1, "a"), page("B", 2, "b@b"), page("C", 3, "c")).replace(
        b"@", b"\xff\xc3"
    )
    (tmp_path / "a.xml").write_bytes(data)
    assert [(d.text, d.fault) for d in read(tmp_path)] == [
        ("A\n\na", ""), ("", "not UTF-8"), ("C\n\nc", ""),
    ]  # fmt: skip


def test_large_pages_and_endless_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wikipedia_dump, "LARGEST", 2_000_000)
    pages = (page("A", 1, "a " * 3_000_000), page("B", 2, "b"), page("C" * 20_000, 3, "c"))
    (tmp_path / "a.xml.bz2").write_bytes(bz2.compress(dump(*pages)))
    found = read(tmp_path)
    assert [d.fault for d in found] == ["larger than 50 MB", "", "title or number too long"]
    assert found[0].bytes == 6_000_000
    for endless in (b"<!--" + b"x" * 8_000_000, b"<a b='" + b"x" * 8_000_000):
        (tmp_path / "a.xml.bz2").write_bytes(bz2.compress(b"<mediawiki>" + endless))
        with pytest.raises(DataError, match="a tag or comment of more than 50 MB"):
            read(tmp_path)


def test_a_bomb_needs_no_memory(tmp_path: Path) -> None:
    begin = b"<mediawiki><page><title>A</title><ns>0</ns><id>1</id><revision><text>"
    parts = [begin, *[b"x" * 10_000_000] * 60, b"</text></revision></page></mediawiki>"]
    packed = {part: gzip.compress(part) for part in set(parts)}
    path = tmp_path / "a.xml.gz"
    path.write_bytes(b"".join(packed[part] for part in parts))
    code = (
        "import resource, sys; from alpenglow.data.slices import wikipedia_dump as dump, wikipedia;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak();"
        "page, = dump.Dump(wikipedia.gzip.open(sys.argv[1]), 'a').pages();"
        "print(page.fault, page.size, peak() - before, sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    fault, size, grown = done.stdout.split("|")
    assert (fault, int(size)) == ("larger than 50 MB", 600_000_000)
    assert int(grown) < 150_000  # KiB: LARGEST and what the parser holds


def test_in_a_wheel_that_is_already_there(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "sample-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("sample/dump.bz2", bz2.compress(WIKI))
    wheel = {"origin": "wheel", "wheel": "sample==1.0"}
    (found,) = read(tmp_path, member="sample/dump.bz2", **wheel)
    assert found.source == "sample/dump.bz2#1"
    with pytest.raises(DataError, match="holds no sample/other"):
        read(tmp_path, member="sample/other", **wheel)


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pip is really asked, of an index that answers nothing.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    with pytest.raises(Absent, match=r"pip could not download sample==1\.0 .* offline"):
        read(tmp_path, origin="wheel", wheel="sample==1.0", member="dump.bz2")


@pytest.mark.parametrize("mode", ["fixed", "faithful"])
def test_sample_dump_reads_like_prose(mode: str) -> None:
    wheels = sorted(Path("raw").glob("gensim-4.4.0-*.whl"))
    if not wheels:
        pytest.skip("raw/ holds no gensim wheel: run the data job once to have it")
    member = (
        "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    )
    item = Input(f"{wheels[0]}!{member}", "gensim/dump", "CC BY-SA 3.0", 1)
    recipe = SliceRecipe(mode=mode)  # type: ignore[arg-type]
    limit = None if mode == "fixed" else 300_000
    found = list(wikipedia.read(Unit("wikipedia", "wikipedia-00000", (item,), limit), recipe))
    assert len(found) == 106 if mode == "fixed" else len(found) > 5
    assert found[0].url == "https://en.wikipedia.org/wiki/Anarchism"
    assert found[0].timestamp == "2016-04-22T10:19:33Z"
    text = "".join(document.text for document in found)
    if mode == "fixed":
        assert text.count("[[") + text.count("<ref") + text.count("|-") < 5
        assert text.count(" ()") < 5
