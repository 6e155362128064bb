"""A checkpoint that belongs to no run, and what a conversion records of itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from release_run import CONFIG, TEXT, write_checkpoint
from safetensors import safe_open
from transformers import AutoTokenizer

from alpenglow.exchange.fragments import FragmentSource
from alpenglow.model.config import ModelConfig, Slice
from alpenglow.release.__main__ import main
from alpenglow.release.conversion import Conversion
from alpenglow.release.convert import ConvertRecipe, convert
from alpenglow.release.error import ReleaseError
from alpenglow.release.synthetic_checkpoint import write_synthetic
from alpenglow.release.verify import LOGIT_TOLERANCE

RECIPE = Path(__file__).parents[3] / "jobs" / "convert.toml"


@pytest.fixture
def alone(run: Path, tmp_path: Path) -> Path:
    """A checkpoint far from its run, with a tokenizer beside it."""
    folder = tmp_path / "elsewhere"
    shutil.move(write_checkpoint(run, 20, CONFIG), folder)
    shutil.copy(run.parents[1] / "shards" / "tokenizer.json", folder)
    return folder


def test_a_source_without_a_run(
    run: Path, alone: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.rglob("*"))
    output = tmp_path / "release"
    words = ["run=absent", f"source={alone}", f"output={output}"]
    assert main([str(RECIPE), *words]) == 0
    said = capfd.readouterr().out
    assert "logits are compared on random ids" in said
    assert "verified: 28 tensors" in said
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
        "tolerance": LOGIT_TOLERANCE,
        "dtype": "float32",
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


class WholeTensors:
    """A source that gives tensors whole, as those of other programs do."""

    def __init__(self, source: FragmentSource) -> None:
        self._source = source
        self.form, self.path, self.dtype = source.form, source.path, source.dtype
        self.step: int | None = source.step
        self.state: Mapping[str, Any] = source.state
        self.config: ModelConfig = source.config

    def stored(self, name: str) -> torch.dtype:
        return self._source.stored(name)

    def tensor(self, name: str, part: Slice | None = None) -> torch.Tensor:
        return self._source.tensor(name, part)


# 12 layers of 25 MB and two vocabularies of 42 MB as released.
LARGE = ModelConfig(12, 1024, 16, 20480)
LARGEST = 20480 * 1024 * 2
MARGIN = 60_000_000
"""Chunks, threads' stacks, what the allocator keeps: the real one has 500 MB, imports included."""
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_convert_source import WholeTensors, FragmentSource, write_release
from alpenglow.release.bench_convert import peak_memory
source = FragmentSource.open(Path(sys.argv[2]))
if sys.argv[4] == "whole":
    source = WholeTensors(source)
before = peak_memory()
write_release(Path(sys.argv[3]), source, Path(sys.argv[2]).parent / "tokenizer.json",
              dtype="fp16", workers=3, vocabulary=sys.argv[5])
print(1024 * (peak_memory() - before))
"""


@pytest.fixture(scope="module", params=[torch.float16, torch.float32], ids=["fp16", "fp32"])
def large(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("large")
    yield write_synthetic(root, LARGE, request.param)
    shutil.rmtree(root)


@pytest.mark.parametrize("form", ["rows", "whole"])
def test_memory_stays_within_twice_the_largest_tensor(
    large: Path, tmp_path: Path, form: str
) -> None:
    words = [str(Path(__file__).parent), str(large), str(tmp_path), form, "padded"]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], check=True, stdout=subprocess.PIPE, text=True
    )
    assert (tmp_path / "model.safetensors").stat().st_size > 7 * LARGEST
    grown = int(ran.stdout)
    assert grown < (0 if form == "rows" else 2 * LARGEST) + MARGIN
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        released = file.get_tensor("embed_out.weight")
    assert torch.equal(released, FragmentSource.open(large).tensor("embed_out.weight").half())
