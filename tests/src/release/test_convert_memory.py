"""How much memory a conversion takes, in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from alpenglow.exchange.fragments import FragmentSource
from alpenglow.model.config import ModelConfig
from alpenglow.release.synthetic_checkpoint import write_synthetic

# 12 layers of 25 MB and two vocabularies of 42 MB as released.
LARGE = ModelConfig(12, 1024, 16, 20480)
LARGEST = 20480 * 1024 * 2
MARGIN = 60_000_000
"""Chunks, threads' stacks, what the allocator keeps: the real one has 500 MB, imports included."""
PROGRAM = Path(__file__).parents[2] / "support" / "convert_memory.py"


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
    words = [str(PROGRAM), str(large), str(tmp_path), form]
    ran = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True)
    assert (tmp_path / "model.safetensors").stat().st_size > 7 * LARGEST
    grown = int(ran.stdout)
    assert grown < (0 if form == "rows" else 2 * LARGEST) + MARGIN
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        released = file.get_tensor("embed_out.weight")
    assert torch.equal(released, FragmentSource.open(large).tensor("embed_out.weight").half())
