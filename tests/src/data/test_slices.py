"""The seven slices: one shape, real input read right, absent input said in one sentence."""

from __future__ import annotations

import bz2
import os
import zipfile
from pathlib import Path

import pytest

from alpenglow.data import slices
from alpenglow.data.document import DataError, Document, Input, InputAbsent, Unit
from alpenglow.data.recipe import SLICES, SliceRecipe
from alpenglow.data.slices import commoncrawl, github, installed, wikipedia
from alpenglow.data.slices.arxiv import strip_comments
from alpenglow.data.slices.source import Source
from alpenglow.data.slices.wikitext import clean


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
        pytest.skip("ALPENGLOW_TEST_DATA is not set: no arXiv samples to read")
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


@pytest.mark.parametrize(
    ("line", "stripped"),
    [
        ("x%c", "x"),
        ("50\\% of%c", "50\\% of"),
        ("a & b \\\\%c", "a & b \\\\"),
        ("foo%", "foo"),
        ("\\url{a/b%20c} d %e", "\\url{a/b%20c} d"),
        ("% only", ""),
        ("\\begin{verbatim}\n% kept\n\\end{verbatim}\n% gone",
         "\\begin{verbatim}\n% kept\n\\end{verbatim}"),
    ],
)  # fmt: skip
def test_latex_comments(line: str, stripped: str) -> None:
    assert strip_comments(line) == stripped


def test_arxiv_real_archive(test_data: Path) -> None:
    found = read("arxiv", test_data / "latex", licence="GFDL")
    assert len(found) > 5
    assert all(d.source.endswith(".tex") and not d.fault for d in found)
    assert any("\\begin{theorem}" in d.text or "\\section" in d.text for d in found)


PAGE = """<page><title>{title}</title><ns>{ns}</ns><id>{number}</id>{extra}
<revision><id>9</id><text>{text}</text></revision></page>"""


def dump(*pages: str) -> bytes:
    namespace = "http://www.mediawiki.org/xml/export-0.10/"
    return f'<mediawiki xmlns="{namespace}">{"".join(pages)}</mediawiki>'.encode()


WIKI = dump(
    PAGE.format(title="Alps", ns=0, number=1, extra="", text="'''Alps''' are [[mountain]]s."),
    PAGE.format(title="Alp", ns=0, number=2, extra='<redirect title="Alps"/>', text="x"),
    PAGE.format(title="Alpes", ns=0, number=3, extra="", text="#REDIRECT [[Alps]]"),
    PAGE.format(title="Talk:Alps", ns=1, number=4, extra="", text="talk"),
)


def test_wikipedia(tmp_path: Path) -> None:
    (tmp_path / "a.xml.bz2").write_bytes(bz2.compress(WIKI))
    (found,) = read("wikipedia", tmp_path, licence="CC BY-SA 4.0")
    assert (found.text, found.source) == ("Alps\n\nAlps are mountains.", "a.xml.bz2#1")


def test_wikipedia_in_a_wheel_that_is_already_there(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "sample-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("sample/dump.bz2", bz2.compress(WIKI))
    wheel = {"origin": "wheel", "wheel": "sample==1.0"}
    (found,) = read("wikipedia", tmp_path, member="sample/dump.bz2", **wheel)
    assert found.source == "sample/dump.bz2#1"
    with pytest.raises(DataError, match="holds no sample/other"):
        read("wikipedia", tmp_path, member="sample/other", **wheel)


def test_wikipedia_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pip is really asked, of an index that answers nothing.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    with pytest.raises(InputAbsent, match=r"pip could not download sample==1\.0 .* offline"):
        read("wikipedia", tmp_path, origin="wheel", wheel="sample==1.0", member="dump.bz2")


def test_wikipedia_cut_dump(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(WIKI[:-20])
    with pytest.raises(DataError, match=r"a\.xml: not a whole dump"):
        read("wikipedia", tmp_path)


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("a {{b|{{c}}\n|d}} e", "a e"),
        ("a {{unclosed b", "a unclosed b"),
        ("a }} b", "a b"),
        ("x\n{| class=a\n|-\n| {{t}} || {|\n| y\n|}\n|}\nz", "x\n\nz"),
        ("[[a|b]] [[c]] [[File:x.jpg|thumb|a [[b]] c]] [[Category:Z]][[fr:Alpes]]", "b c"),
        ("see [https://a.b/c the page] and [https://a.b]", "see the page and"),
        ("a<ref name=x>b {{c}}</ref> d<ref name=x/> e", "a d e"),
        ("== Head ==\n* one\n# two", "Head\none\ntwo"),
        ("'''b''' ''i'' &amp;nbsp;&lt;", "b i &nbsp;<"),
        ("a<!-- b\n -->c", "ac"),
        ("Alps ({{IPA|x}}) are", "Alps are"),
    ],
)
def test_wiki_markup(markup: str, text: str) -> None:
    assert clean(markup) == text


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


def test_sample_dump_reads_like_prose() -> None:
    wheels = sorted(Path("raw").glob("gensim-4.4.0-*.whl"))
    if not wheels:
        pytest.skip("raw/ holds no gensim wheel: run the data job once to have it")
    member = (
        "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    )
    unit = Unit(
        "wikipedia",
        "wikipedia-00000",
        (Input(f"{wheels[0]}!{member}", "gensim/dump", "CC BY-SA 3.0", 1),),
    )
    found = list(wikipedia.read(unit, SliceRecipe()))
    assert len(found) == 106
    text = "".join(document.text for document in found)
    assert text.count("{{") + text.count("[[") < 20
