"""Convert a checkpoint in a process of its own and print how many bytes its peak memory grew by.

    python tests/support/convert_memory.py CHECKPOINT OUTPUT rows|whole

"whole" hides that the checkpoint can be read in rows: sources of other programs give tensors whole.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alpenglow.exchange.fragments import FragmentSource
from alpenglow.exchange.source import Source
from alpenglow.model.config import ModelConfig, Slice
from alpenglow.release.bench_convert import peak_memory
from alpenglow.release.huggingface import write_release


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


def main() -> None:
    checkpoint, output, form = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    opened = FragmentSource.open(checkpoint)
    source: Source = WholeTensors(opened) if form == "whole" else opened
    before = peak_memory()
    tokenizer = checkpoint.parent / "tokenizer.json"
    write_release(output, source, tokenizer, dtype="fp16", workers=3)
    sys.stdout.write(f"{1024 * (peak_memory() - before)}\n")


if __name__ == "__main__":
    main()
