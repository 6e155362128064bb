"""`alpenglow release verify`: finds the checkpoint, says what was compared or what differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from release_run import CONFIG, make_run, write_checkpoint
from released_folder import change_json, doubled_bias

from alpenglow.exchange.fragments import FragmentSource
from alpenglow.release.__main__ import main
from alpenglow.release.conversion import Conversion
from alpenglow.release.huggingface import write_release


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root/runs/tiny with checkpoints of steps 10 and 20 and a release of step 20."""
    root = tmp_path_factory.mktemp("command")
    run = make_run(root)
    write_checkpoint(run, 10, CONFIG)
    source = FragmentSource.open(write_checkpoint(run, 20, CONFIG))
    folder = run / "release" / "huggingface"
    folder.mkdir(parents=True)
    write_release(folder, source, root / "shards" / "tokenizer.json")
    return root


@pytest.fixture
def folder(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ALPENGLOW_MACHINE", raising=False)
    shutil.copytree(origin, tmp_path / "root")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root" / "runs" / "tiny" / "release" / "huggingface"


def told(capfd: pytest.CaptureFixture[str]) -> str:
    """The one sentence of a failure."""
    printed = capfd.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if not line.startswith("[transformers]")]
    assert len(lines) == 1
    assert lines[0].startswith("alpenglow release verify: ")
    return lines[0]


def test_the_checkpoint_is_that_of_the_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    change_json(folder / "conversion.json", verification=None)
    assert main(["verify", f"{folder}", "--prompt", "Licensed under"]) == 0
    said = capfd.readouterr().out
    assert "step-00000020 (fragments, step 20)" in said
    assert "28 equal bit for bit" in said
    assert "128 positions of training text, in fp32 (allowed: 0.0001)" in said
    assert "sample         'Licensed under" in said
    assert sorted(folder.rglob("*")) == before
    outcome = Conversion.load(folder).verification
    assert outcome is not None
    assert (outcome["tensors"], outcome["text"]) == (28, "training text")


@pytest.mark.parametrize("recorded", ["runs/tiny/checkpoints/step-00000020", "{root}/moved"])
def test_the_checkpoint_is_where_the_folder_says(
    folder: Path, capfd: pytest.CaptureFixture[str], recorded: str
) -> None:
    """As given to the job: relative to where that ran, which is above the run; or anywhere."""
    root = folder.parents[3]
    recorded = recorded.format(root=root)
    if recorded.endswith("moved"):
        (root / "runs/tiny/checkpoints/step-00000020").rename(recorded)
    source = {"form": "fragments", "path": recorded}
    change_json(folder / "conversion.json", format=2, source=source)
    assert main(["verify", f"{folder}", "--memory", "layers", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert Path(rows["checkpoint"]) == root / recorded
    assert (rows["step"], rows["form"], rows["memory"]) == (20, "fragments", "layers")
    assert (rows["tensors"], rows["positions"], rows["sample"]) == (28, 128, "")
    assert 0 <= rows["difference"] < rows["tolerance"]
    assert rows["largest"] > 1


def test_a_release_away_from_its_run(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    away = folder.rename(tmp_path / "away")
    source = {"form": "fragments", "path": "runs/gone/checkpoints/step-00000020"}
    change_json(away / "conversion.json", source=source)
    assert main(["verify", f"{away}"]) == 1
    sentence = told(capfd)
    assert "its checkpoint is not at hand (looked for " in sentence
    assert "--hashes-only" in sentence
    checkpoint = tmp_path / "root/runs/tiny/checkpoints/step-00000020"
    assert main(["verify", f"{away}", "--source", f"{checkpoint}"]) == 0
    assert "128 positions of a text of many scripts" in capfd.readouterr().out
    assert main(["verify", f"{away}", "--hashes-only"]) == 0
    said = capfd.readouterr().out
    assert "28 tensors have the hashes that conversion.json names (step 20)" in said
    assert "not compared with a checkpoint" in said
    assert main(["verify", f"{away}", "--hashes-only", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["tensors"] == 28


def test_what_differs_is_one_sentence(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoints = folder.parents[1] / "checkpoints"
    assert main(["verify", f"{folder}", "--source", f"{checkpoints / 'step-00000010'}"]) == 1
    assert "made from step 20, compared with step 10" in told(capfd)
    assert main(["verify", f"{folder}", "--source", f"{checkpoints / 'step-00000030'}"]) == 1
    assert "step-00000030" in told(capfd)
    assert main(["verify", f"{folder}", "--recipe", "absent.toml"]) == 1
    assert "absent.toml" in told(capfd)
    doubled_bias(folder)
    assert main(["verify", f"{folder}"]) == 1
    assert "layers.0.attention.dense.bias differs from the checkpoint's" in told(capfd)
    assert main(["verify", f"{folder}", "--hashes-only"]) == 1
    assert "does not have the hash that conversion.json names" in told(capfd)
    assert main(["verify", "absent"]) == 1
    assert "absent/config.json: no such file" in told(capfd)
    with pytest.raises(SystemExit) as left:
        main(["verify", f"{folder}", "--memory", "none"])
    assert left.value.code == 2
