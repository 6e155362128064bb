"""The seven slices: one shape, real input read right, absent input said in one sentence."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from alpenglow.data import slices
from alpenglow.data.document import DataError, Document, Input, InputAbsent, Unit
from alpenglow.data.recipe import SLICES, SliceRecipe
from alpenglow.data.slices import commoncrawl, github, installed
from alpenglow.data.slices.html_text import plain
from alpenglow.data.slices.source import Source, decode


def source(name: str, root: Path, **changes: object) -> Source:
    recipe = SliceRecipe(input=root, **changes)  # type: ignore[arg-type]
    return Source.of(name, recipe, unit_bytes=1_000_000)


def read(name: str, root: Path, **changes: object) -> list[Document]:
    module = slices.of_name(name)
    units = module.units(source(name, root, **changes))
    return [document for unit in units for document in module.read(unit, SliceRecipe())]


@pytest.fixture
def test_data() -> Path:
    folder = os.environ.get("ALPENGLOW_TEST_DATA")
    if not folder:
        pytest.skip("ALPENGLOW_TEST_DATA is not set: no StackExchange samples to read")
    return Path(folder)


@pytest.mark.parametrize("name", SLICES)
def test_shape(name: str, tmp_path: Path) -> None:
    module = slices.of_name(name)
    assert name == module.NAME
    assert module.NEEDS.startswith("it reads ")
    absent = tmp_path / "absent"
    with pytest.raises(InputAbsent, match=f"{name}: .*absent is not there; it reads"):
        module.units(source(name, absent))
    with pytest.raises(InputAbsent, match=f"{name}: .* holds no file with ending"):
        module.units(source(name, tmp_path))


@pytest.mark.parametrize("name", ["c4", "books", "arxiv", "stackexchange"])
def test_an_origin_that_a_slice_does_not_know(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputAbsent, match="'installed' is not known to this slice"):
        slices.of_name(name).units(source(name, tmp_path, origin="installed"))


def test_books_and_encodings(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes("Größe\r\n".encode("latin-1"))
    (tmp_path / "a.txt").write_bytes("\ufeffNaïve\n".encode())
    (tmp_path / "c.txt").write_bytes(b"\x00\x01")
    (tmp_path / ".hidden.txt").write_text("no")
    found = read("books", tmp_path, licence="CC0-1.0")
    assert [(d.source, d.text, d.fault) for d in found] == [
        ("a.txt", "Naïve\n", ""),
        ("b.txt", "Größe\n", ""),
        ("c.txt", "", "binary"),
    ]
    assert found[0].licence == "CC0-1.0"
    assert found[2].bytes == 2
    assert decode(b"\xff\x00") is None


def test_c4(tmp_path: Path) -> None:
    lines = [{"text": f"text {i}", "url": f"https://a/{i}", "timestamp": "2019"} for i in range(3)]
    content = "\n".join(json.dumps(line) for line in lines).encode()
    (tmp_path / "c4-train.00000.json.gz").write_bytes(gzip.compress(content))
    found = read("c4", tmp_path)
    assert [(d.text, d.source) for d in found] == [(x["text"], x["url"]) for x in lines]
    assert [d.text for d in read("c4", tmp_path, max_bytes=7)] == ["text 0", "text 1"]


@pytest.mark.parametrize("line", [b"{", b"[]", b'"text"', b'{"url": ""}', b'{"text": 1}', b"\xff"])
def test_c4_line_that_is_none(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n' + line)
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: not a JSON object with a text"):
        read("c4", tmp_path)


def test_c4_cut_file(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "x"}\n' * 1000)
    (tmp_path / "a.json.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.json\.gz: cannot be read after line"):
        read("c4", tmp_path)


def test_stackexchange_answers_by_the_number_of_their_score(tmp_path: Path) -> None:
    rows = [(7, 2, 9), (1, 1, 3), (2, 2, 2), (3, 2, 102), (4, 2, 10), (5, 2, -1), (6, 2, 10)]
    body = "".join(
        f'<row Id="{i}" PostTypeId="{kind}" Score="{score}" Body="&lt;p&gt;body {i}&lt;/p&gt;" '
        + ('Title="Why?"' if kind == 1 else 'ParentId="1"')
        + "/>"
        for i, kind, score in rows
    )
    header = "<?xml version='1.0'?>\n<!DOCTYPE posts SYSTEM 'posts.dtd'>\n"
    (tmp_path / "coffee_Posts.xml").write_text(f"{header}<posts>{body}</posts>")
    (found,) = read("stackexchange", tmp_path, licence="CC BY-SA 4.0")
    assert found.text.split("\n") == [
        "Q: Why? body 1",
        *[f"A: body {i}" for i in (3, 4, 6, 7, 2, 5)],
    ]
    assert found.source == "coffee/questions/1"
    assert found.licence == "CC BY-SA 4.0"


def test_stackexchange_real_sites(test_data: Path) -> None:
    # One of the two files carries a DOCTYPE whose file does not exist.
    found = read("stackexchange", test_data / "stackexchange")
    sites = {d.source.partition("/")[0] for d in found}
    assert sites == {"coffee", "history_meta"}
    assert len(found) == len({d.id for d in found}) > 500
    assert all(d.text.startswith("Q: ") for d in found)
    first = next(d for d in found if d.source == "coffee/questions/1")
    assert first.text.startswith("Q: How should I store whole bean coffee? I just got a pound")
    assert not any("<p>" in d.text for d in found)


@pytest.mark.parametrize("content", ["<posts><row Id='1'", "<posts><row Id='x'/></posts>"])
def test_stackexchange_damaged(content: str, tmp_path: Path) -> None:
    (tmp_path / "Posts.xml").write_text(content)
    with pytest.raises(DataError, match=r"Posts\.xml: "):
        read("stackexchange", tmp_path)


def test_html() -> None:
    markup = "<p>a &amp; b<br>c</p><ul><li>x</li><li>y</li></ul><pre>  if a &lt; b:\n    c</pre>"
    assert plain(markup + "<script>no</script>") == "a & b\nc\n\n* x\n* y\n\n  if a < b:\n    c"


def test_installed_sources_have_a_licence_and_no_overlap(tmp_path: Path) -> None:
    units = github.units(source("github", tmp_path, origin="installed", max_bytes=2_000_000))
    inputs = [item for unit in units for item in unit.inputs]
    assert 2_000_000 <= sum(item.size for item in inputs) < 12_000_000
    assert len({item.source.partition("/")[0] for item in inputs}) > 10
    assert sum(item.licence != "not stated" for item in inputs) > 0.9 * len(inputs)
    pages = commoncrawl.units(
        source("commoncrawl", tmp_path, origin="installed", max_bytes=4_000_000)
    )
    shared = {item.path for item in inputs} & {i.path for unit in pages for i in unit.inputs}
    assert not shared


def test_installed_packages_licence() -> None:
    found = {item.source.partition("/")[0].rpartition("-")[0]: item for item in installed.files()}
    assert found["click"].licence == "BSD-3-Clause"
    assert found["cpython"].licence == "PSF-2.0"
    assert "alpenglow" not in found


def test_documentation_pages(tmp_path: Path) -> None:
    module = tmp_path / "pkg.py"
    module.write_text('"""About."""\n\ndef f(a, b=1):\n    """Add.\n\n    More.\n    """\n')
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    broken = tmp_path / "broken.py"
    broken.write_text("def (:\n")
    inputs = tuple(
        Input(str(p), f"pkg-1/{p.name}#documentation", "MIT", 1) for p in (module, empty, broken)
    )
    pages = list(commoncrawl.read(Unit("commoncrawl", "commoncrawl-00000", inputs), SliceRecipe()))
    assert pages[0].text == "pkg\n\nAbout.\n\n\npkg.f(a, b=1)\n\nAdd.\n\nMore."
    assert [page.fault for page in pages] == ["", "no docstring", "not Python"]
