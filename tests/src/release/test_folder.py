"""A release folder appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import pytest

from alpenglow.release.error import ReleaseError
from alpenglow.release.folder import check_room, put_in_place


def test_a_kill_between_the_renames_is_mended(tmp_path: Path) -> None:
    output = tmp_path / "huggingface"
    with put_in_place(output) as folder:
        (folder / "conversion.json").write_text("1")
    child = os.fork()
    if child == 0:
        real = Path.rename

        def dying(self: Path, target: Path) -> Path:
            if target == output:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, target)

        Path.rename = dying  # type: ignore[method-assign, assignment]
        with put_in_place(output) as folder:
            (folder / "conversion.json").write_text("2")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert not output.exists()
    with pytest.raises(ReleaseError), put_in_place(output):
        assert (output / "conversion.json").read_text() == "1", "the former release is back"
        raise ReleaseError("stop")
    assert (output / "conversion.json").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["huggingface"]


def test_what_is_not_a_release_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "thesis"
    output.mkdir()
    (output / "chapter1.tex").write_text("x")
    with (
        pytest.raises(ReleaseError, match="thesis: exists and is not a release"),
        put_in_place(output),
    ):
        pass
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(ReleaseError, match="file: exists and is not a release"),
        put_in_place(tmp_path / "file"),
    ):
        pass
    with (
        pytest.raises(ReleaseError, match=r"file/below\.tmp: Not a directory"),
        put_in_place(tmp_path / "file" / "below"),
    ):
        pass
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["chapter1.tex", "file", "thesis"]


def test_a_full_disk_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 0, 1500))
    check_room(tmp_path / "not" / "there", 1500)
    with pytest.raises(ReleaseError, match=r"there: needs 1,501 bytes of disk and 1,500 are free"):
        check_room(tmp_path / "not" / "there", 1501)
