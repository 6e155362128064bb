"""What cannot be converted: one sentence, and the output is as it was."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from release_run import CONFIG, tensors, write_checkpoint

from alpenglow.exchange.error import ExchangeError
from alpenglow.release.__main__ import main
from alpenglow.release.convert import ConvertRecipe, convert
from alpenglow.release.error import ReleaseError
from alpenglow.train.checkpoint import Checkpoint, CheckpointError

RECIPE = Path(__file__).parents[3] / "jobs" / "convert.toml"


def test_fp16_overflow_names_the_tensor_and_keeps_the_former_release(run: Path) -> None:
    write_checkpoint(run, 10, CONFIG)
    output, _ = convert(ConvertRecipe(run=run, verify=False))
    before = (output / "conversion.json").read_text()
    weights = tensors(CONFIG)
    weights["layers.1.mlp.dense_4h_to_h.bias"][3] = 70000.0
    write_checkpoint(run, 20, CONFIG, weights)
    with pytest.raises(
        ReleaseError, match=r"layers\.1\.mlp\.dense_4h_to_h\.bias: .* 70000 overflows torch.float16"
    ):
        convert(ConvertRecipe(run=run, dtype="fp16"))
    assert (output / "conversion.json").read_text() == before
    assert [p.name for p in output.parent.iterdir()] == ["huggingface"]
    weights["layers.1.mlp.dense_4h_to_h.bias"][3] = float("nan")
    write_checkpoint(run, 30, CONFIG, weights)
    with pytest.raises(ReleaseError, match="not finite"):
        convert(ConvertRecipe(run=run))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run=absent"], "absent: no such run"),
        (["run={run}", "step=5"], "no checkpoint of step 5 (there are: 20)"),
        (["run={run}", "step=latest"], 'a step number, or "newest"'),
        (["run={run}", "dtpye=fp16"], "did you mean dtype?"),
        (["run={run}", "output={run}"], "exists and is not a release"),
        (["run={run}", "shard_bytes=0"], "bytes of a file, above 0"),
        (["run={run}", "workers=-1"], "threads, or 0 for one a core"),
        (["run={run}", "form=fragments"], "form tells of a source; name it with source=FOLDER"),
        (["run={run}", "source={run}/.."], "not a part of"),
        (["run={run}", "source={run}/checkpoints/step-00000020", "step=7"], "it says step 20"),
        (["run={run}", "source={run}", "model={run}/run.toml"], "no table [model]"),
        (["run={run}", "source={run}", "model={run}/absent"], "absent: "),
        (["run={run}", "source={run}", "form=tape"], "choose from auto, "),
        (["run={run}", "tokenizer={run}/run.toml"], "run.toml: not a tokenizer"),
    ],
)
def test_bad_input_is_one_sentence(
    run: Path, arguments: list[str], word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(run, 20, CONFIG)
    before = sorted(run.rglob("*"))
    assert main([str(RECIPE), *[a.format(run=run) for a in arguments]]) == 1
    said = capfd.readouterr().err
    assert word in said
    assert said.count("\n") == 1
    assert sorted(run.rglob("*")) in (before, sorted([*before, run / "progress.json"]))


def test_what_a_run_may_lack(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def sentence() -> str:
        assert main([str(RECIPE), f"run={run}"]) == 1
        return capfd.readouterr().err

    assert "no whole checkpoint" in sentence()
    folder = write_checkpoint(run, 20, CONFIG)
    shards = run.parents[1] / "shards"
    facts = (run / "run.toml").read_text()
    (run / "run.toml").write_text(re.sub('fingerprint = "', 'fingerprint = "0', facts))
    assert "restore the run's shards" in sentence()
    (run / "run.toml").write_text(facts)
    (shards / "github-00000.h5").unlink()
    assert "lists this shard, and it is missing" in sentence()
    (shards / "tokenizer.json").rename(shards / "else.json")
    assert "tokenizer.json: no such tokenizer" in sentence()
    (shards / "tokenizer.json").write_text("{")
    assert "not a tokenizer" in sentence()
    os.truncate(folder / "node.fragments", 100)
    assert "no whole checkpoint" in sentence()
    (run / "run.toml").unlink()
    assert "no run.toml" in sentence()
    assert not (run / "release" / "huggingface").exists()


def test_a_tokenizer_that_does_not_fit_is_refused(run: Path) -> None:
    write_checkpoint(run, 20, dataclasses.replace(CONFIG, vocab_size=256))
    with pytest.raises(ReleaseError, match="300 tokens do not fit the model's vocabulary of 256"):
        convert(ConvertRecipe(run=run))


def test_a_checkpoint_without_its_architecture_is_refused(run: Path) -> None:
    weights = tensors(CONFIG)
    del weights["layers.1.mlp.dense_4h_to_h.bias"]
    write_checkpoint(run, 20, CONFIG, weights)
    with pytest.raises(ExchangeError, match=r"layers\.1\.mlp\.dense_4h_to_h\.bias .* is missing"):
        convert(ConvertRecipe(run=run))


def damage(folder: Path, name: str) -> None:
    """Flip a bit of a tensor."""
    (item,) = Checkpoint.open(folder)._stored["weight", name]
    path = folder / item.file
    raw = bytearray(path.read_bytes())
    raw[item.offset + item.fragment.nbytes // 2] ^= 4
    path.write_bytes(raw)


def test_a_fragment_damaged_half_way(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(run, 10, CONFIG)
    output, _ = convert(ConvertRecipe(run=run, verify=False))
    before = (output / "conversion.json").read_text()
    damage(write_checkpoint(run, 20, CONFIG), "layers.1.mlp.dense_4h_to_h.weight")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.dense_4h_to_h\.weight .* checksum"):
        convert(ConvertRecipe(run=run, step=20))
    assert (output / "conversion.json").read_text() == before
    assert [p.name for p in output.parent.iterdir()] == ["huggingface"]
    # The newest that is whole is an older one.
    shutil.rmtree(output)
    assert main([str(RECIPE), f"run={run}", "verify=false"]) == 0
    assert "step-00000020 is damaged and passed over" in capfd.readouterr().out
    assert json.loads((output / "conversion.json").read_text())["step"] == 10
    damage(run / "checkpoints" / "step-00000010", "embed_in.weight")
    assert main([str(RECIPE), f"run={run}", "verify=false"]) == 1
    assert "no whole checkpoint" in capfd.readouterr().err
    assert json.loads((output / "conversion.json").read_text())["step"] == 10


def test_no_room_is_said_before_anything_is_written(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(run, 20, CONFIG)
    before = sorted(run.rglob("*"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 200_000))
    with pytest.raises(ReleaseError, match="bytes of disk and 200,000 are free"):
        convert(ConvertRecipe(run=run))
    assert sorted(run.rglob("*")) == before


def test_a_disk_full_half_way_keeps_the_former_release(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(run, 10, CONFIG)
    output, _ = convert(ConvertRecipe(run=run, verify=False))
    before = (output / "conversion.json").read_text()
    write_checkpoint(run, 20, CONFIG)
    real, left = os.pwrite, 20

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    capfd.readouterr()
    assert main([str(RECIPE), f"run={run}", "verify=false"]) == 1
    said = capfd.readouterr().err
    assert said.startswith("alpenglow release convert: ")
    assert "No space left on device while" in said
    assert said.count("\n") == 1
    assert (output / "conversion.json").read_text() == before
    assert [p.name for p in output.parent.iterdir()] == ["huggingface"]


def test_a_kill_half_way_keeps_the_former_release(run: Path) -> None:
    write_checkpoint(run, 10, CONFIG)
    output, _ = convert(ConvertRecipe(run=run, verify=False))
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    write_checkpoint(run, 20, CONFIG)
    child = os.fork()
    if child == 0:
        real, left = os.pwrite, 12

        def dying(descriptor: int, data: memoryview, offset: int) -> int:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(descriptor, data, offset)

        os.pwrite = dying  # type: ignore[assignment]
        convert(ConvertRecipe(run=run, verify=False, workers=2))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert (output.parent / "huggingface.tmp").is_dir(), "it died half-way"
    convert(ConvertRecipe(run=run, verify=False))
    assert json.loads((output / "conversion.json").read_text())["step"] == 20
    assert [p.name for p in output.parent.iterdir()] == ["huggingface"]


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_is_one_sentence_and_leaves_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(run, 20, CONFIG)
    real = os.pwrite

    def interrupting(descriptor: int, data: memoryview, offset: int) -> int:
        signal.raise_signal(signal.SIGINT)
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", interrupting)
    assert main([str(RECIPE), f"run={run}", "verify=false"]) == 130
    said = capfd.readouterr().err
    assert said == "alpenglow release convert: interrupted; the output is as it was\n"
    assert list((run / "release").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 150 kB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("mounting a small tmpfs needs root and a kernel that lets it")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_small_disk_is_refused_and_survived(
    run: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(run, 20, CONFIG)
    recipe = ConvertRecipe(run=run, output=small_disk / "release", verify=False)
    with pytest.raises(ReleaseError, match=r"needs 1,\d+,\d+ bytes of disk and \d+,\d+ are free"):
        convert(recipe)
    assert list(small_disk.iterdir()) == []
    # Another job takes the room after the look.
    monkeypatch.setattr("alpenglow.release.convert.check_room", lambda *_: None)
    with pytest.raises(ReleaseError, match=r"No space left on device while .* was written"):
        convert(recipe)
    assert list(small_disk.iterdir()) == []
