"""A checkpoint that belongs to no run, and what a conversion records of itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from neox_files import NeoxModel
from release_run import CONFIG, TEXT, write_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from alpenglow.release.__main__ import main
from alpenglow.release.conversion import Conversion
from alpenglow.release.convert import ConvertRecipe, convert
from alpenglow.release.error import ReleaseError
from alpenglow.release.verification.verify import LOGIT_TOLERANCE

RECIPE = Path(__file__).parents[3] / "jobs" / "convert.toml"


@pytest.fixture
def alone(run: Path, tmp_path: Path) -> Path:
    """A checkpoint far from its run, with a tokenizer beside it."""
    folder = tmp_path / "elsewhere"
    shutil.move(write_checkpoint(run, 20, CONFIG), folder)
    shutil.copy(run.parents[1] / "shards" / "tokenizer.json", folder)
    return folder


def test_neither_deepspeed_nor_a_gpu_is_asked_for() -> None:
    """Nor transformers, before there is something to verify: a login node has what it takes."""
    rooms = "alpenglow.release.convert, alpenglow.exchange.neox, alpenglow.exchange.weights"
    code = f"import sys, {rooms}\nprint({{'deepspeed', 'transformers'}} & sys.modules.keys())"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout == "set()\n"


def test_a_source_without_a_run(
    run: Path, alone: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.rglob("*"))
    output = tmp_path / "release"
    words = ["run=absent", f"source={alone}", f"output={output}"]
    assert main([str(RECIPE), *words]) == 0
    said = capfd.readouterr().out
    assert "verified: 28 tensors" in said
    assert "positions of a text of many scripts differ" in said
    conversion = Conversion.load(output)
    assert conversion.source == {"form": "fragments", "path": str(alone)}
    assert conversion.step == 20
    assert conversion.verification is not None
    assert conversion.verification["tensors"] == 28
    assert conversion.verification["difference"] < LOGIT_TOLERANCE
    card = (output / "README.md").read_text()
    assert "tiny" not in card
    assert "| node-hours | unknown |" in card
    assert sorted(run.rglob("*")) == before
    assert AutoTokenizer.from_pretrained(output)(TEXT[:99]).input_ids
    # With the run named: it is not the run's, so nothing of the run goes into its card.
    recipe = ConvertRecipe(run=run, source=alone, output=output, verify=False)
    convert(recipe)
    assert "tiny" not in (output / "README.md").read_text()
    assert Conversion.load(output).verification is None
    # One that lies in the run is the run's.
    inside = run / "checkpoints" / "imported"
    shutil.move(alone, inside)
    folder, _ = convert(ConvertRecipe(run=run, source=inside))
    assert "tiny" in (folder / "README.md").read_text()
    assert Conversion.load(folder).xxh3_64 == conversion.xxh3_64


def test_the_record_is_read_back_or_refused(run: Path) -> None:
    write_checkpoint(run, 20, CONFIG)
    output, outcome = convert(ConvertRecipe(run=run, dtype="bf16"))
    assert outcome is not None
    path = output / "conversion.json"
    table = json.loads(path.read_text())
    assert table["format"] == 2
    assert table["dtype"] == "bfloat16"
    assert table["verification"] == {
        "tensors": 28,
        "positions": 128,
        "difference": outcome.difference,
        "largest": outcome.largest,
        "tolerance": LOGIT_TOLERANCE,
        "dtype": "float32",
        "text": "training text",
    }
    conversion = Conversion.load(output)
    conversion.write(output)
    assert json.loads(path.read_text()) == table
    for change, sentence in [
        ({"format": 1}, "format 1, this code reads 2; convert the checkpoint again"),
        ({"dtype": "int8"}, "dtype is not what a conversion writes there"),
        ({"vocabulary": {"model": 384}}, "vocabulary is not what a conversion writes there"),
        ({"verification": 3}, "verification is not what a conversion writes there"),
    ]:
        path.write_text(json.dumps(table | change))
        with pytest.raises(ReleaseError, match=sentence):
            Conversion.load(output)
    del table["xxh3_64"]
    path.write_text(json.dumps(table))
    with pytest.raises(ReleaseError, match="xxh3_64 is missing"):
        Conversion.load(output)
    path.write_text("[")
    with pytest.raises(ReleaseError, match=r"conversion\.json: "):
        Conversion.load(output)
    path.unlink()
    with pytest.raises(ReleaseError, match=r"not a release: it has no conversion\.json"):
        Conversion.load(output)


def test_a_checkpoint_of_gpt_neox(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From the command line to logits: two tensor ranks, a serial model, biases that are not 0."""
    neox = NeoxModel(CONFIG, 2, "legacy")
    neox.write(tmp_path / "neox", 143)
    output, tokenizer = tmp_path / "release", run.parents[1] / "shards" / "tokenizer.json"
    words = [f"source={tmp_path / 'neox'}", f"tokenizer={tokenizer}", f"output={output}"]
    assert main([str(RECIPE), "run=absent", *words]) == 0
    assert "absent" not in (output / "README.md").read_text()
    assert Conversion.load(output).step == 143
    tokens = torch.arange(64)[None]
    model = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    with torch.no_grad():
        difference = (model(tokens).logits - neox.logits(tokens)).abs().max()
    assert float(difference) < LOGIT_TOLERANCE
    capfd.readouterr()
    before = (output / "conversion.json").read_text()
    (tmp_path / "neox" / "global_step143" / "layer_03-model_01-model_states.pt").unlink()
    assert main([str(RECIPE), "run=absent", *words]) == 1
    said = capfd.readouterr().err
    assert "layer_03-model_01-model_states.pt: missing" in said
    assert said.count("\n") == 1
    assert (output / "conversion.json").read_text() == before
