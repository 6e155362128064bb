"""GitHub slice: folders, archives and the dump; licences; what is dropped is counted."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from slice_input import documents, units

from alpenglow.config import ConfigError
from alpenglow.data.collect import Collecting, collect
from alpenglow.data.document import DataError, Document, InputAbsent
from alpenglow.data.recipe import SliceRecipe
from alpenglow.data.slices import github, github_archive, github_dump

MIT = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy. The above "
    "copyright notice and this permission notice shall be included in all copies."
)
PROGRAM = "#!/bin/sh\n# Copyright 2020 A\n\necho\n"
FILES = {
    "LICENSE": MIT,
    "src/a.c": "/* Copyright A */\nint a;\n",
    "src/b.c": "/* Copyright B */\nint a;\n",
    "src/gpl.c": "// SPDX-License-Identifier: GPL-2.0-only\nint g;\n",
    "run.sh": PROGRAM,
    "vendor/COPYING": "All mine.",
    "vendor/v.py": "v = 1\n",
    "key.crt": "x",
    "data.bin": "x",
    "package.json": "{}",
}


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def tar(path: Path, files: dict[str, str], top: str = "tool-1.0/") -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    return path


def by_path(found: list[Document]) -> dict[str, Document]:
    return {document.metadata.get("path", document.source): document for document in found}


def test_a_folder_of_owners_and_repositories(tmp_path: Path) -> None:
    write(tmp_path / "owner/tool", FILES)
    write(tmp_path / "alone", {"x.py": "x = 1\n"})
    found = {document.source: document for document in documents("github", tmp_path)}
    assert {name: (d.fault, d.licence) for name, d in found.items()} == {
        "owner/tool/src/a.c": ("", "MIT"),
        "owner/tool/src/b.c": ("", "MIT"),
        "owner/tool/src/gpl.c": ("licence", "GPL-2.0-only"),
        "owner/tool/run.sh": ("", "MIT"),
        "owner/tool/vendor/v.py": ("licence", "not recognised"),
        "alone/x.py": ("licence", "not stated"),
    }
    tool = found["owner/tool/run.sh"]
    assert tool.text == "#!/bin/sh\necho\n"
    assert tool.trimmed == {"licence header": len(PROGRAM) - len(tool.text)}
    assert tool.read_bytes == len(PROGRAM)
    assert tool.metadata == {"repository": "owner/tool", "path": "run.sh", "language": "Shell"}
    assert tool.url == "https://github.com/owner/tool/blob/HEAD/run.sh"
    # Copies that differ in the header alone are one text for what finds duplicates.
    a, b = found["owner/tool/src/a.c"], found["owner/tool/src/b.c"]
    assert a.text_hash == b.text_hash
    assert a.id != b.id
    dropped = found["owner/tool/src/gpl.c"]
    assert dropped.bytes == len(FILES["src/gpl.c"])
    assert dropped.text.startswith("// SPDX")


def test_faithful_is_v1(tmp_path: Path) -> None:
    write(tmp_path / "owner/tool", FILES)
    write(tmp_path / "owner/tool", {"l.f": "\n" * 3, "w.c": b"\xff", "x.PY": "x"})
    found = by_path(documents("github", tmp_path, mode="faithful"))
    assert found["run.sh"].text == "echo\n"
    assert found["src/a.c"].text == found["src/b.c"].text == "\nint a;\n"
    # v1 looked for duplicates before it stripped, so these two stayed.
    assert found["src/a.c"].metadata["content_hash"] != found["src/b.c"].metadata["content_hash"]
    # It knew a repository's licence and not a file's.
    assert found["src/gpl.c"].fault == ""
    assert found["l.f"].text == ""
    assert found["l.f"].trimmed == {"licence header": 3}
    assert found["owner/tool/w.c"].fault == "binary"
    assert not any(name.endswith(".PY") for name in found)


@pytest.mark.parametrize("mode", ["fixed", "faithful"])
def test_every_byte_is_accounted_for(mode: Literal["fixed", "faithful"], tmp_path: Path) -> None:
    write(tmp_path / "raw/owner/tool", FILES)
    recipe = SliceRecipe(input=tmp_path / "raw", mode=mode)
    (unit,) = units("github", tmp_path / "raw", mode=mode)
    with collect(unit, Collecting(tmp_path, recipe, "key")) as store:
        kept = sum(len(text.encode()) for text in store.texts(0, len(store)))
        gone = sum(size for _, size in (*store.dropped.values(), *store.trimmed.values()))
        assert store.read == (unit_files := len(unit.inputs), kept + gone)
        assert len(store) + sum(count for count, _ in store.dropped.values()) == unit_files
        assert kept + gone == unit.size
        assert store.rejects["licence"][0]["text"]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({}, {"a.py"}),
        ({"unknown_licence": "keep"}, {"a.py", "u.py"}),
        ({"licences": ["gpl"]}, {"g.py"}),
        ({"licences": []}, {"a.py", "g.py"}),
        ({"licences": [], "unknown_licence": "keep"}, {"a.py", "g.py", "u.py"}),
    ],
)
def test_licence_rules(rules: dict[str, Any], kept: set[str], tmp_path: Path) -> None:
    write(tmp_path / "r", {
        "a.py": "# SPDX-License-Identifier: Apache-2.0\na\n", "u.py": "u\n",
        "g.py": "# SPDX-License-Identifier: GPL-3.0-or-later\ng\n",
    })  # fmt: skip
    found = documents("github", tmp_path, rules=rules)
    assert {d.source.removeprefix("r/") for d in found if not d.fault} == kept
    assert {d.fault for d in found} <= {"", "licence"}


def test_unknown_rules_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "x"})
    with pytest.raises(ConfigError, match=r"slices\.github\.rules: unknown key licenses; did you"):
        units("github", tmp_path, rules={"licenses": ["mit"]})
    with pytest.raises(ConfigError, match="layout = 'flat'; choose from"):
        units("github", tmp_path, rules={"layout": "flat"})


@pytest.mark.parametrize("layout", ["auto", "owner/repository", "repository"])
def test_layouts(layout: str, tmp_path: Path) -> None:
    write(tmp_path / "linux/kernel", {"sched/fork.c": "int x;\n"})
    (found,) = documents("github", tmp_path, licence="MIT", rules={"layout": layout})
    owned = layout == "owner/repository"
    assert found.metadata["repository"] == ("linux/kernel" if owned else "linux")
    assert found.metadata["path"] == ("sched/fork.c" if owned else "kernel/sched/fork.c")
    assert bool(found.url) == owned


def test_one_repository_as_input(tmp_path: Path) -> None:
    write(tmp_path / "tool", {**FILES, "dump.jsonl": "{}"})
    found = by_path(documents("github", tmp_path / "tool"))
    assert found["src/a.c"].metadata["repository"] == "tool"
    assert not any("dump" in name or "package" in name for name in found)


@pytest.mark.parametrize("name", ["tool.tar", "tool.tar.gz", "tool.tgz", "tool.zip"])
def test_archives(name: str, tmp_path: Path) -> None:
    # The licence file comes last, and holds for all before it.
    files = dict(reversed(FILES.items()))
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in files.items():
                archive.writestr(f"tool-1.0/{member}", content)
    else:
        tar(tmp_path / "x.tar.gz" if "gz" in name else tmp_path / name, files)
        if "gz" in name:
            (tmp_path / "x.tar.gz").rename(tmp_path / name)
    found = by_path(documents("github", tmp_path))
    assert found["src/a.c"].source == f"{name}/tool-1.0/src/a.c"
    assert found["src/a.c"].metadata["repository"] == "tool"
    assert found["src/a.c"].licence == "MIT"
    assert found["run.sh"].text == "#!/bin/sh\necho\n"
    faults = {d.source.rpartition("/")[2]: d.fault for d in found.values() if d.fault}
    assert faults == {"gpl.c": "licence", "v.py": "licence"}
    (one,) = documents("github", tmp_path, max_bytes=1)
    assert one.source.startswith(name)


def test_names_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("t/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        member = tarfile.TarInfo("../../t/a.py")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"x\n"))
    (found,) = documents("github", tmp_path, licence="MIT")
    assert (found.source, found.text) == ("a.tar/t/a.py", "x\n")


@pytest.mark.parametrize("cut", [100, 600, 0.5, 0.9])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_a_cut_archive_is_said(name: str, cut: float, tmp_path: Path) -> None:
    path = tmp_path / name
    body = "".join(f"x{i * i}\n" for i in range(500))
    if name.endswith("zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.py", body)
            archive.writestr("b.py", body)
    else:
        tar(path, {"a.py": body, "b.py": body})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut if cut > 1 else cut * len(whole))])
    if name == "a.tar" and cut == 0.9:
        path.write_bytes(whole[: 512 * 2 + len(body) // 512 * 512 + 512])  # at a member's end
    with pytest.raises(DataError, match=rf"{name}: cut or damaged after .*; fetch it again"):
        documents("github", tmp_path, licence="MIT")


def test_a_damaged_header_in_an_archive_is_no_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"a.py": "x\n", "b.py": "y\n"})
    damaged = bytearray(path.read_bytes())
    damaged[1024 + 150] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"a\.tar: cut or damaged after tool-1\.0/a\.py"):
        documents("github", tmp_path, licence="MIT")


def test_members_that_cannot_be_read_are_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.py", "b.py", "c.py"):
            archive.writestr(name, f"# {name}\nx = 1\n")
    data = bytearray(path.read_bytes())
    data[data.index(b"# a.py") + 3] ^= 1  # its checksum is wrong now
    for signature, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = data.rindex(signature)
        data[at + flags] |= 1  # encrypted
    path.write_bytes(data)
    found = documents("github", tmp_path, licence="MIT")
    assert {d.source: d.fault for d in found} == {
        "a.zip/a.py": "damaged", "a.zip/b.py": "", "a.zip/c.py": "encrypted",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_bombs_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(github_archive, "ALWAYS", 1_000_000)
    zeros = "0" * 8_000_000
    if name == "a.zip":
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.py", zeros)
    else:
        tar(tmp_path / name, {"a.py": zeros})
    with pytest.raises(DataError, match=r"unpacks to more than \d+ MB, over 200 times its size"):
        documents("github", tmp_path, licence="MIT")


def test_a_member_beyond_the_bound_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(github_archive, "LARGEST", 1000)
    tar(tmp_path / "a.tar", {"a.py": "x\n" * 600, "b.py": "y\n"})
    found = documents("github", tmp_path, licence="MIT")
    assert [(d.fault, d.bytes) for d in found] == [("larger than 50 MB", 1200), ("", 2)]


ROWS: list[Any] = [
    {"content": PROGRAM, "path": "run.sh", "repo_name": "a/b", "license": "mit", "ref": "main"},
    {"content": PROGRAM, "path": "run.sh", "repo_name": "a/c", "license": "gpl-2.0"},
    {"content": "x", "path": "key.crt", "repo_name": "a/b", "license": "mit"},
    {"content": MIT, "path": "LICENSE", "repo_name": "a/b", "license": "mit"},
    {"content": "x", "path": "a.bin", "repo_name": "a/b", "license": "mit"},
    {"text": "x\r\ny", "path": "a b.py", "repo_name": "a/b", "license": ["mit", "bsd-3-clause"]},
    {"content": None, "path": "a.py"},
    [1],
]


@pytest.mark.parametrize("name", ["github_000000000000.gz", "d.jsonl.gz", "d.json"])
def test_the_dump(name: str, tmp_path: Path) -> None:
    content = "\n".join([*map(json.dumps, ROWS), "{", ""]).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = documents("github", tmp_path)
    none = "not a JSON object with a text"
    assert [(d.source, d.fault) for d in found] == [
        ("a/b/run.sh", ""), ("a/c/run.sh", "licence"), ("a/b/key.crt", "a certificate"),
        ("a/b/LICENSE", "a licence file"), ("a/b/a.bin", "ending"), ("a/b/a b.py", ""),
        (f"{name}#7", none), (f"{name}#8", none), (f"{name}#9", none),
    ]  # fmt: skip
    assert found[0].text == "#!/bin/sh\necho\n"
    assert (found[5].text, found[5].licence) == ("x\ny", "mit AND bsd-3-clause")
    assert found[5].url == "https://github.com/a/b/blob/HEAD/a%20b.py"
    faithful = documents("github", tmp_path, mode="faithful")
    assert (faithful[0].text, faithful[5].text) == ("echo\n", "x\r\ny")
    assert [d.fault for d in faithful] == [d.fault for d in found]


def test_a_line_without_end_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(github_dump, "LARGEST", 5000)
    monkeypatch.setattr(github_dump, "_PIECE", 1000)
    good = json.dumps({"content": "x", "path": "a.py", "license": "mit"}).encode()
    (tmp_path / "a.jsonl").write_bytes(good + b"\n" + b"x" * 20_000 + b"\n" + good)
    found = documents("github", tmp_path)
    assert [(d.fault, d.bytes) for d in found] == [("", 1), ("larger than 50 MB", 20_001), ("", 1)]


def test_a_cut_dump_is_said(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(json.dumps(ROWS[0]).encode() + b"\n" for _ in range(1000)))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: cannot be read after line \d+ .*fetch"):
        documents("github", tmp_path)


def test_files_and_containers_share_a_cap(tmp_path: Path) -> None:
    write(tmp_path / "r", {"a.py": "x" * 100, "b.py": "y" * 100})
    (tmp_path / "d.jsonl").write_text(json.dumps(ROWS[0]))
    names = [unit.name for unit in units("github", tmp_path, licence="MIT")]
    assert names == ["github-00000", "github-00001"]
    assert len(units("github", tmp_path, max_bytes=150)) == 1
    two = units("github", tmp_path, max_bytes=201)
    assert [unit.limit for unit in two] == [None, 1]


def test_a_changed_licence_changes_the_unit(tmp_path: Path) -> None:
    write(tmp_path / "r", {"a.py": "x"})
    (before,) = units("github", tmp_path)
    write(tmp_path / "r", {"LICENSE": MIT})
    (after,) = units("github", tmp_path)
    assert before.key != after.key


@pytest.mark.parametrize("root", [".", "in", "in/r"])
def test_an_input_named_from_here(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in/r", {"a/a.py": "x", "LICENSE": MIT})
    write(tmp_path, {"LICENSE": "All mine."} if root == "in" else {})
    monkeypatch.chdir(tmp_path)
    (found,) = documents("github", Path(root))
    assert (found.licence, found.metadata["repository"]) == ("MIT", "in/r" if root == "." else "r")


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    write(tmp_path / "r", {"a.py": "x", "b.py": "yy", "LICENSE": MIT})
    (unit,) = units("github", tmp_path)
    (tmp_path / "r/b.py").unlink()
    found = list(github.read(unit, SliceRecipe(input=tmp_path)))
    assert [(d.fault, d.bytes) for d in found] == [("", 1), ("cannot be opened", 2)]


def test_nothing_that_is_a_source(tmp_path: Path) -> None:
    write(tmp_path, {"LICENSE": MIT, "package.json": "{}"})
    with pytest.raises(InputAbsent, match="holds no file with ending"):
        units("github", tmp_path)


def test_installed_packages_state_their_licence(tmp_path: Path) -> None:
    found = documents("github", tmp_path, origin="installed", max_bytes=1_500_000)
    kept = [d for d in found if not d.fault]
    assert len(kept) > 0.5 * len(found) > 10
    assert {d.fault for d in found} <= {"", "licence", "binary", "a licence file"}
    assert all(d.metadata["repository"] == d.source.partition("/")[0] for d in kept)
    none = documents(
        "github", tmp_path, origin="installed", max_bytes=1_500_000, rules={"licences": ["x-none"]}
    )
    assert {d.fault for d in none} <= {"licence", "binary"}
