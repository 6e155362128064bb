"""The arXiv slice: papers in folders, archives and the bulk form; what is cut or hostile."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from alpenglow.data.document import DataError, Document
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import arxiv, arxiv_archive, arxiv_papers
from alpenglow.data.slices.arxiv_identity import identity, licence_name
from alpenglow.data.slices.source import LARGEST, Source

PAPER = "\\documentclass{article}\n\\begin{document}\n\\section{%s}\nText.\n\\end{document}\n"


def tar(members: Mapping[str, bytes], mtime: int = 0, **links: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, target in links.items():
            link = tarfile.TarInfo(f"{name}.tex")
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(root: Path, **changes: object) -> list[Document]:
    recipe = SliceRecipe(input=root, **changes)  # type: ignore[arg-type]
    units = arxiv.units(Source.of("arxiv", recipe, unit_bytes=1_000_000))
    return [document for unit in units for document in arxiv.read(unit, recipe)]


def paper(title: str) -> bytes:
    return (PAPER % title).encode()


def bulk() -> bytes:
    several = tar({
        "main.tex": b"\\documentclass{a}\\begin{document}\\section{A}\\input{part}\\end{document}",
        "part.tex": b"part", "old/notes.tex": b"unused", "fig.png": b"\x89PNG" * 1000,
    })  # fmt: skip
    return tar({
        "2101/2101.00001.gz": gzip.compress(several, mtime=0),
        "2101/2101.00002.gz": gzip.compress(paper("B"), mtime=0),
        "2101/2101.00003.pdf": b"%PDF-1.4",
        "2101/2101.00004.gz": gzip.compress(several, mtime=0)[:-20],
        "0001/hep-th0001005.gz": gzip.compress("\\section{Größe} é%".encode("latin-1"), mtime=0),
        "2101/2101.00005.gz": gzip.compress(b"%PDF-1.5 only", mtime=0),
        "2101/2101.00006.gz": gzip.compress(tar({"figure.eps": b"x"}), mtime=0),
    }, mtime=1_609_459_200)  # fmt: skip


def test_bulk_archive(tmp_path: Path) -> None:
    (tmp_path / "arXiv_src_2101_001.tar").write_bytes(bulk())
    found = {d.metadata["id"]: d for d in read(tmp_path, licence="not known")}
    first = found["2101.00001"]
    assert first.text == "\\section{A}part"
    assert first.source == "arXiv_src_2101_001.tar#2101/2101.00001.gz"
    assert (first.url, first.timestamp) == ("https://arxiv.org/abs/2101.00001", "2021-01")
    assert first.trimmed["other files"] == len("unused")
    assert first.metadata["main"] == "main.tex"
    assert found["hep-th/0001005"].text == "\\section{Größe} é"
    assert found["hep-th/0001005"].url == "https://arxiv.org/abs/hep-th/0001005"
    assert found["hep-th/0001005"].timestamp == "2000-01"
    assert {name: d.fault for name, d in found.items() if d.fault} == {
        "2101.00003": "no TeX source",
        "2101.00004": "cut or damaged archive",
        "2101.00005": "no TeX source",
        "2101.00006": "no TeX source",
    }
    assert {d.licence for d in found.values()} == {"not known"}


def test_bulk_archive_as_v1_read_it(tmp_path: Path) -> None:
    (tmp_path / "arXiv_src_2101_001.tar").write_bytes(bulk())
    found = {d.metadata["id"]: d for d in read(tmp_path, mode="faithful")}
    # Files in the order of the archive; one without a header gives nothing; the date is the file's.
    assert found["2101.00001"].text == "\\section{A}\\input{part}\\end{document}\n\n"
    assert found["2101.00001"].timestamp == "2021-01-01T00:00:00"
    assert found["hep-th/0001005"].fault == "not UTF-8"
    assert found["2101.00002"].text.startswith("\\section{B}")


def test_one_file_that_is_not_utf8_drops_the_paper_in_v1_alone(tmp_path: Path) -> None:
    folder = tmp_path / "2101.00001"
    folder.mkdir()
    (folder / "a.tex").write_bytes(paper("A").replace(b"Text.", b"\\input{b}"))
    (folder / "b.tex").write_bytes(b"Caf\xe9")
    assert [d.fault for d in read(tmp_path, mode="faithful")] == ["not UTF-8"]
    assert [d.text for d in read(tmp_path)] == ["\\section{A}\nCafé"]


def test_folders_and_files(tmp_path: Path) -> None:
    for name, data in {
        "2102.00001/ms.tex": paper("Folder").replace(b"Text.", b"\\input{parts/one}"),
        "2102.00001/parts/one.tex": b"One.",
        "2102.00001/figures.tar.gz": b"no archive",
        "book/one.tex": paper("One").replace(b"Text.", b"\\input{macros}"),
        "book/two.tex": paper("Two"),
        "book/macros.tex": b"Shared.",
        "2102.00003.tex": paper("File"),
        "plain.tex": b"Plain text, \\input{shared}",
        "shared.tex": b"shared",
        "deep/er/2102.00004.gz": gzip.compress(paper("Gzip")),
        "archive.tgz": gzip.compress(tar({"x/a.tex": paper("Tar")})),
        ".hidden/x.txt": b"",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "book" / "link.tex").symlink_to("/etc/passwd")
    found = {d.source: d for d in read(tmp_path)}
    assert {name: d.text.replace("\n", " ") for name, d in found.items()} == {
        "2102.00001": "\\section{Folder} One.",
        "book#one.tex": "\\section{One} Shared.",
        "book#two.tex": "\\section{Two} Text.",
        "2102.00003.tex": "\\section{File} Text.",
        "plain.tex": "Plain text, shared",
        "deep/er/2102.00004.gz": "\\section{Gzip} Text.",
        "archive.tgz": "\\section{Tar} Text.",
    }
    assert found["2102.00003.tex"].url == "https://arxiv.org/abs/2102.00003"
    assert found["book#one.tex"].metadata["archive links"] == "1"


def test_metadata_snapshot(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bulk())
    records = [
        {"id": "2101.00001", "title": "On\n  A", "update_date": "2022-03-04",
         "license": "http://creativecommons.org/licenses/by/4.0/"},
        {"id": "hep-th/0001005", "title": "Size", "update_date": "2001-01-01", "license": None},
        {"id": "9999.99999", "title": "other"},
    ]  # fmt: skip
    lines = "\n".join(json.dumps(record) for record in records)
    snapshot = tmp_path / "arxiv-metadata-oai-snapshot.json.gz"
    snapshot.write_bytes(gzip.compress(lines.encode()))
    found = {d.metadata["id"]: d for d in read(tmp_path, licence="recipe's")}
    first, old = found["2101.00001"], found["hep-th/0001005"]
    assert (first.licence, first.timestamp) == ("CC-BY-4.0", "2022-03-04")
    assert first.metadata["title"] == "On A"
    assert (old.licence, old.timestamp) == ("recipe's", "2001-01-01")
    assert found["2101.00002"].timestamp == "2021-01"
    snapshot.write_bytes(snapshot.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"snapshot\.json\.gz, line \d: not arXiv's metadata"):
        read(tmp_path)


def test_a_changed_snapshot_changes_the_units(tmp_path: Path) -> None:
    (tmp_path / "2101.00001.tex").write_bytes(paper("A"))
    snapshot = tmp_path / "arxiv-metadata.json"
    keys = []
    for moment in (1, 2):
        snapshot.write_text('{"id": "2101.00001", "license": null}')
        os.utime(snapshot, (moment, moment))
        config = Source.of("arxiv", SliceRecipe(input=tmp_path), unit_bytes=1000)
        (unit,) = arxiv.units(config)
        assert unit.size == len(paper("A"))
        keys.append(unit.key)
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("2101.00001.gz", "2101.00001"), ("2101/0704.0001v2.tar", "0704.0001"),
        ("hep-th9901001.gz", "hep-th/9901001"), ("math.AG0101001", "math/0101001"),
        ("cond-mat0001001.pdf", "cond-mat/0001001"), ("2113.00001", None), ("main.tex", None),
        ("2101.1", None),
    ],
)  # fmt: skip
def test_identity(name: str, known: str | None) -> None:
    found = identity(name)
    assert (found.id if found else None) == known


def test_licence_names() -> None:
    short = {
        "http://arxiv.org/licenses/nonexclusive-distrib/1.0/": "arXiv-nonexclusive-distrib-1.0",
        "http://creativecommons.org/licenses/by-nc-sa/4.0/": "CC-BY-NC-SA-4.0",
        "http://creativecommons.org/publicdomain/zero/1.0/": "CC0-1.0",
        "https://example.org/x": "https://example.org/x",
    }
    assert {address: licence_name(address) for address in short} == short


@pytest.mark.parametrize("packed", [False, True])
def test_archive_cut_at_any_byte(packed: bool, tmp_path: Path) -> None:
    whole = tar(
        {"a/2101.00001.gz": gzip.compress(paper("A")), "a/2101.00002.gz": gzip.compress(b"x")}
    )
    end = whole.index(bytes(1024))  # zeros from here on: content is whole, the end's mark may lack
    data = gzip.compress(whole) if packed else whole
    path = tmp_path / ("a.tar.gz" if packed else "a.tar")
    places = range(0, len(data), 97) if packed else [*range(0, end, 97), 512, 1024, 1536, 2048]
    for place in places:
        path.write_bytes(data[:place])
        with pytest.raises(DataError, match=r"a\.tar(\.gz)?: not a whole archive: .*again"):
            read(tmp_path)
    path.write_bytes(data)
    assert len(read(tmp_path)) == 2


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no archive " * 100)
    with pytest.raises(DataError, match=r"a\.tar: not a whole archive: it is no tar archive"):
        read(tmp_path)
    broken = bytearray(tar({"a.tex": b"x" * 600, "b.tex": b"y"}))
    broken[1536 + 148] ^= 1  # in the checksum of the second header
    (tmp_path / "a.tar").write_bytes(broken)
    with pytest.raises(DataError, match=r"what follows a\.tex is no member"):
        read(tmp_path)


def test_names_and_links_that_lead_out(tmp_path: Path) -> None:
    names = ["../x.tex", "/etc/x.tex", "a/../../x.tex", "C:\\x.tex", "ok/./a.tex"]
    data = tar({name: paper("A") for name in names}, link="/etc/passwd")
    (tmp_path / "a.tar").write_bytes(data)
    (found,) = read(tmp_path)
    assert found.metadata["main"] == "ok/a.tex"
    assert found.metadata["archive names outside"] == "4"


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arxiv_archive, "UNPACKED", 60_000_000)
    monkeypatch.setattr(arxiv_archive.gunzipped, "__defaults__", (60_000_000,))
    large = gzip.compress(b"x" * (LARGEST + 1), 1)
    figure = gzip.compress(tar({"figure.eps": bytes(70_000_000), "a.tex": b"x"}), 1)
    nested = gzip.compress(gzip.compress(paper("A")))
    many = gzip.compress(tar({f"{n}.tex": b"" for n in range(arxiv_papers.FILES + 1)}), 1)
    (tmp_path / "bulk.tar").write_bytes(
        tar({"2101.00001.gz": large, "2101.00002.gz": figure, "2101.00003.gz": nested,
             "2101.00004.gz": many, "2101.00005.gz": gzip.compress(paper("A"))})
    )  # fmt: skip
    found = read(tmp_path)
    assert [d.fault for d in found] == [
        "larger than 50 MB", "unpacks to more than 1 GB", "no TeX source",
        "more than 10000 TeX files", "",
    ]  # fmt: skip
    (tmp_path / "bulk.tar").unlink()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar({"figure.eps": bytes(80_000_000)}), 9))
    monkeypatch.setattr(arxiv_archive, "UNPACKED", 1000)
    with pytest.raises(DataError, match="unpacks to more than 100 times its size"):
        read(tmp_path)


def test_stacks_project(tmp_path: Path) -> None:
    folder = os.environ.get("ALPENGLOW_TEST_DATA")
    if not folder:
        pytest.skip("ALPENGLOW_TEST_DATA is not set: no LaTeX sample to read")
    found = read(Path(folder) / "latex", licence="GFDL")
    # A book of which each chapter can be typeset alone: a document a chapter.
    assert len(found) == 36
    assert [d.source for d in found if d.fault] == [
        "stacks-project-sample.tar.gz#stacks-project/bibliography.tex"
    ]
    chapter = next(d for d in found if d.source.endswith("/categories.tex"))
    assert chapter.metadata["title"] == "Categories"
    assert "\\section{Definitions}" in chapter.text
    assert "\\mathop{\\mathrm{Ob}}\\nolimits(\\mathcal{C})" in chapter.text
    assert "\\Ob(" not in chapter.text
    named = [d.metadata["main"] for d in found if "\\bibliography{" in d.text]
    assert named == ["stacks-project/coding.tex"]  # in verbatim: how chapters are to be written
    (joined,) = read(Path(folder) / "latex", mode="faithful")
    assert joined.text.count("\\section{Introduction}") > 20
