"""`env/pack`: an environment in one file, whole on every node or absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACK = ROOT / "env/pack"
JOB_VARIABLES = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "SLURM_", "ALPENGLOW_")


def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(JOB_VARIABLES)}
    return subprocess.run(
        [str(word) for word in words],
        env={**kept, "ALPENGLOW_MACHINE": "laptop", "ALPENGLOW_ROOT": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed venv with one package and one script, the file in a folder with a space."""
    place = tmp_path_factory.mktemp("pack")
    env = place / "env"
    made = call(sys.executable, "-m", "venv", "--without-pip", env)
    assert made.returncode == 0, made.stderr
    (site,) = env.glob("lib/python*/site-packages")
    (site / "packed.py").write_text("ANSWER = 42\n")
    script = env / "bin/ask"
    script.write_text(f"#!{env}/bin/python\nimport packed, sys\nprint(packed.ANSWER, sys.prefix)\n")
    script.chmod(0o755)
    (env / "bin/other").write_bytes(b"#!/bin/sh\n\xff\x00binary tail\n")
    file = place / "a folder/env.tar"
    done = call(PACK, "make", env, file)
    assert done.returncode == 0, done.stderr
    assert "a venv takes Python's own library from" in done.stdout
    assert {p.name for p in file.parent.iterdir()} == {"env.tar", "env.tar.sha256"}
    return file


def test_every_node_gets_one_copy_that_works_where_it_lies(tar: Path, tmp_path: Path) -> None:
    target = tmp_path / "local/env"
    # Both pretend nodes have the same folder: the one that comes second finds the stamp.
    step = (ROOT / "lsf/bin/jsrun", "-n2", "-r1", "-a1", "-c1", PACK, "unpack", tar, target)
    first = call(*step)
    assert first.returncode == 0, first.stderr
    said = [line for line in first.stdout.splitlines() if line.startswith("env/pack: node")]
    assert sorted("unpacked in" in line for line in said) == [False, True]
    assert sorted("is there already" in line for line in said) == [False, True]
    assert call(target / "bin/ask").stdout == f"42 {target}\n"
    assert (target / "bin/other").read_bytes() == b"#!/bin/sh\n\xff\x00binary tail\n"
    assert list((target / "lib").glob("python*/site-packages/__pycache__/packed.*.pyc"))
    assert {p.name for p in target.parent.iterdir()} == {"env", "env.lock"}


def test_another_file_takes_the_place_of_the_old_copy(tar: Path, tmp_path: Path) -> None:
    target = tmp_path / "env"
    assert call(PACK, "unpack", tar, target).returncode == 0
    newer = tmp_path / "newer.tar"
    (target / "marker").touch()
    assert call(PACK, "make", target, newer).returncode == 0
    assert "unpacked in" in call(PACK, "unpack", newer, target).stdout
    assert (target / "marker").exists()
    assert call(target / "bin/ask").stdout == f"42 {target}\n"
    assert {p.name for p in tmp_path.iterdir()} == {
        "env", "env.lock", "newer.tar", "newer.tar.sha256",
    }  # fmt: skip


def test_a_damaged_file_leaves_nothing_behind(tar: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "bad.tar"
    data = bytearray(tar.read_bytes())
    data[-20_000] ^= 1  # tar has no checksum of what its members hold
    damaged.write_bytes(data)
    (tmp_path / "bad.tar.sha256").write_text((tar.parent / "env.tar.sha256").read_text())
    done = call(PACK, "unpack", damaged, tmp_path / "env")
    assert done.returncode == 1 and done.stdout == ""
    assert "has the checksum" in done.stderr and done.stderr.count("\n") == 1
    damaged.write_bytes(data[:5000])
    assert call(PACK, "unpack", damaged, tmp_path / "env").returncode == 1
    assert {p.name for p in tmp_path.iterdir()} == {"bad.tar", "bad.tar.sha256", "env.lock"}


def test_what_cannot_be_done_is_said_in_one_sentence(tar: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    cases = {
        "has no bin/python": (PACK, "make", tmp_path, tmp_path / "x.tar"),
        "there is no": (PACK, "unpack", tmp_path / "none.tar", tmp_path / "env"),
        "was not made by env/pack": (PACK, "unpack", tar, mine),
        "has white space in it": (PACK, "unpack", tar, tmp_path / "a b"),
        "write: env/pack make ENV FILE.tar": (PACK, "make", tmp_path),
    }
    for text, words in cases.items():
        done = call(*words)
        assert done.returncode == 1 and done.stdout == ""
        assert text in done.stderr and done.stderr.count("\n") == 1
    assert mine.is_dir() and not (tmp_path / "x.tar").exists()
