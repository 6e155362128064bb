"""A checkpoint of a published model's shape that nobody trained, for benchmarks and memory tests.

Written rank by rank as a run of pipeline 6, tensor 2, data 4 would write it: each pair of pipeline
and tensor rank holds its stage's tensors one after another, and ZeRO cuts that row into a flat
piece for each data-parallel rank (Rajbhandari et al. 2020, arXiv 1910.02054, section 5.1), wherever
in a tensor the cut falls. One rank at a time is in memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, models

from alpenglow.model.config import ModelConfig, local_slice, slice_numel, split_axis
from alpenglow.release.tokenizer import END_OF_TEXT
from alpenglow.train.checkpoint import Fragment, dtype_name, step_directory
from alpenglow.train.checkpoint_commit import commit, container_name, prepare
from alpenglow.train.checkpoint_section import Image, Place, write_section

PIPELINE, TENSOR, DATA = 6, 2, 4
RANKS_A_NODE = 6
STEP = 1000
_BLOCK = 1 << 22

SIZES: Mapping[str, ModelConfig] = {
    # Pythia (arXiv 2304.01373, table 1) and RedPajama-INCITE (their config.json on the Hub).
    "410m": ModelConfig(24, 1024, 16, 50304),
    "3b": ModelConfig(32, 2560, 32, 50432, rotary_pct=1.0, use_parallel_residual=False),
    "7b": ModelConfig(32, 4096, 32, 50432, rotary_pct=1.0, use_parallel_residual=False),
}


def write_synthetic(checkpoints: Path, config: ModelConfig, dtype: torch.dtype) -> Path:
    """Write `checkpoints/step-00001000`; returns it.

    Args:
        checkpoints: where; a tokenizer.json of one token is put beside the checkpoint.
        config: the model.
        dtype: of the weights.

    Raises:
        CheckpointError: the file system refuses.
    """
    folder = step_directory(checkpoints, STEP)
    generation = prepare(folder)
    block = torch.empty(_BLOCK).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    block = block.to(dtype)
    places: list[Place] = []
    ends: dict[str, int] = {}
    for rank, fragments in enumerate(_ranks(config, dtype)):
        image = Image(fragments)
        image.take([_values(block, fragment.numel, rank) for fragment in fragments])
        image.seal()
        node = f"h{rank // RANKS_A_NODE:02d}"
        (_, place) = Place.of([(node, ends.get(node, 0)), (node, image.section.nbytes)])
        write_section(folder / container_name(node, generation), image.bytes, place.offset)
        ends[node] = place.offset + place.nbytes
        places.append(place)
    commit(folder, STEP, {"model": dataclasses.asdict(config)}, places, generation)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_special_tokens([END_OF_TEXT])
    tokenizer.save(str(checkpoints / "tokenizer.json"))
    return folder


def _values(block: torch.Tensor, count: int, rank: int) -> torch.Tensor:
    """So many numbers of the block, over and over, begun elsewhere by each rank."""
    block = block.roll(rank * 4099)
    return block.repeat(-(-count // len(block)))[:count] if count > len(block) else block[:count]


def _ranks(config: ModelConfig, dtype: torch.dtype) -> Iterator[list[Fragment]]:
    """The fragments of every rank, by rank: data-parallel ranks innermost."""
    shapes = config.tensor_shapes()
    names = [*shapes]
    pipeline = min(PIPELINE, config.num_layers)
    for stage in range(pipeline):
        mine = [name for name in names if _stage(name, config, pipeline) == stage]
        for tensor in range(TENSOR):
            boxes = [
                (name, local_slice(name, shapes[name], tensor, TENSOR))
                for name in mine
                if tensor == 0 or split_axis(name) is not None
            ]
            total = sum(slice_numel(box) for _, box in boxes)
            for data in range(DATA):
                low, high = (total * part // DATA for part in (data, data + 1))
                yield [*_cut(boxes, shapes, dtype, low, high)]


def _cut(
    boxes: list[tuple[str, tuple[tuple[int, int], ...]]],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    low: int,
    high: int,
) -> Iterator[Fragment]:
    begin = 0
    for name, box in boxes:
        count = slice_numel(box)
        flat = (max(low - begin, 0), min(high - begin, count))
        if flat[0] < flat[1]:
            cut = None if flat == (0, count) else flat
            yield Fragment("weight", name, shapes[name], box, cut, dtype_name(dtype))
        begin += count


def _stage(name: str, config: ModelConfig, pipeline: int) -> int:
    if name.startswith("layers."):
        return int(name.split(".")[1]) * pipeline // config.num_layers
    return 0 if name.startswith("embed_in") else pipeline - 1


def synthetic_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of its weights."""
    shapes = config.tensor_shapes().values()
    return sum(math.prod(shape) for shape in shapes) * dtype.itemsize
