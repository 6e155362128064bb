"""The index finds every document by what it has, whatever memory it was built with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from takedown_shards import identity, write_takedown_shards

from alpenglow.data import bench_index
from alpenglow.data.catalogue import Catalogue
from alpenglow.data.document_index import NAME, DocumentIndex, build, intact
from alpenglow.data.document_index import main as index_main
from alpenglow.data.document_rows import choose
from alpenglow.data.find import main as find
from alpenglow.data.index_keys import address, domains, host
from alpenglow.data.removal_command import main as remove


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return write_takedown_shards(tmp_path)


def numbers(catalogue: Catalogue, kind: str, value: str) -> list[tuple[int, int]]:
    chosen = choose(catalogue, DocumentIndex.open(catalogue), kind, [value])
    return [(shard, row) for shard, rows in chosen for row in rows.tolist()]


@pytest.mark.parametrize("run", [7, 64, 1 << 21])
def test_every_document_is_found(catalogue: Catalogue, run: int) -> None:
    assert intact(build(catalogue, run=run))
    for number in range(120):
        place = number // 60, number % 60
        assert numbers(catalogue, "id", identity("commoncrawl", number).hex()) == [place]
        assert numbers(catalogue, "source", f"repo/{number}.py") == [(place[0] + 2, place[1])]
    mine = [(n // 60, n % 60) for n in range(120)]
    assert numbers(catalogue, "domain", "example.org") == [mine[n] for n in range(120) if n % 4 < 2]
    assert numbers(catalogue, "domain", "blog.example.org") == mine[1::4]
    assert numbers(catalogue, "domain", "WWW.Other.net.") == mine[2::4]
    assert numbers(catalogue, "source", "dump-3") == mine[30:40]
    assert numbers(catalogue, "url", "http://www.example.org/page/4#there") == [mine[4]]
    assert len(numbers(catalogue, "licence", "MIT")) == 40
    for kind, value in (("id", "0" * 32), ("licence", "mit"), ("domain", "le.org"), ("url", "x")):
        assert numbers(catalogue, kind, value) == []


def test_runs_of_any_size_make_the_same_file(catalogue: Catalogue) -> None:
    files = [build(catalogue, run=run).read_bytes() for run in (5, 1000, 1 << 21)]
    assert files[0] == files[1] == files[2]
    assert not [path for path in catalogue.folder.glob(".index.*") if path.suffix != ".lock"]


def test_a_stale_index_is_made_anew_and_a_removal_leaves_it_good(
    catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(catalogue)
    made = (tmp_path / NAME).stat().st_ino
    assert remove([str(tmp_path), "--licence", "MIT"]) == 0
    assert remove([str(tmp_path), "--licence", "Apache-2.0"]) == 0
    assert find([str(tmp_path), "--licence", "MIT"]) == 0
    assert (tmp_path / NAME).stat().st_ino == made
    capsys.readouterr()
    write_takedown_shards(tmp_path, documents=61)
    assert find([str(tmp_path), "--ids", identity("github", 121).hex()]) == 0
    assert "building the index, since it is of other shards" in capsys.readouterr().err
    (tmp_path / NAME).write_bytes(b"no index")
    assert find([str(tmp_path), "--ids", identity("github", 121).hex()]) == 0
    assert "building the index, since it is not readable" in capsys.readouterr().err
    assert index_main([str(tmp_path)]) == 0
    assert "244 documents" in capsys.readouterr().out


def test_find_shows_where_documents_lie(
    catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remove([str(tmp_path), "--url", "https://example.org/page/64"]) == 0
    capsys.readouterr()
    assert find([str(tmp_path), "--domain", "example.org", "--limit", "3"]) == 0
    found = capsys.readouterr()
    assert len(found.out.splitlines()) == 4
    assert "3 of 60 shown; --limit 0 shows all" in found.err
    assert find([str(tmp_path), "--url", "https://example.org/page/640"]) == 1
    assert "no document of url https://example.org/page/640" in capsys.readouterr().err
    assert find([str(tmp_path), "--url", "http://example.org/page/64"]) == 0
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line[:5:1] == [
        identity("commoncrawl", 64).hex(), "commoncrawl-00001.h5", "4", line[3], "removed",
    ]  # fmt: skip
    assert find([str(tmp_path), "--licence", "MIT", "--only-ids", "--limit", "0"]) == 0
    assert len(set(capsys.readouterr().out.split())) == 40


@pytest.mark.parametrize(
    ("url", "name", "page"),
    [
        ("https://WWW.Example.org:8080/A/b/", "example.org", "example.org:8080/A/b"),
        ("http://user:pw@example.org?q=1#x", "example.org", "user:pw@example.org?q=1"),
        ("https://exämple.org./", "xn--exmple-cua.org", "exämple.org."),
        ("ftp://[2001:db8::1]:21/x", "[2001:db8::1]", "[2001:db8::1]:21/x"),
        ("src/main.py", "", "src/main.py"),
        ("", "", ""),
        ("https://", "", ""),
    ],
)
def test_what_a_url_is_found_by(url: str, name: str, page: str) -> None:
    assert (host(url), address(url)) == (name, page)


def test_what_a_host_is_under() -> None:
    assert domains("a.b.example.org") == ["a.b.example.org", "b.example.org", "example.org"]
    assert domains("example.org") == ["example.org"]
    assert domains("10.1.2.3") == ["10.1.2.3"]
    assert domains("localhost") == ["localhost"]
    assert domains("") == []
    assert len(domains(".".join("abcdefghijklmn"))) == 8
    assert np.unique(domains("x.y.z.w")).size == 3


def test_the_benchmark_finds_what_it_looks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench_index.main(["--documents", "200000", "--lookups", "20"]) == 0
    assert "200,000 documents" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
