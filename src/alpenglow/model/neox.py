"""Initial weights of GPT-NeoX, the same for any number of ranks and stages.

Each global tensor is drawn in blocks of whole rows; a block's generator is seeded by (seed, name of
the tensor, number of the block) alone. A rank draws only the blocks that its slice touches and one
at a time, so neither the layout nor the order of building shows in the weights, and no rank ever
holds more than its own share and 16 MiB.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from alpenglow.model.config import ModelConfig, Slice, local_slice
from alpenglow.parallel.tensor import TensorGroup

_BLOCK = 4 * 2**20
"""Elements of a block. Part of what a seed means: another value gives other weights."""


def standard_deviation(config: ModelConfig, name: str) -> float:
    """Spread of a matrix at the start (Pythia's and gpt-neox's default rules, see ModelConfig).

    small_init is sqrt(2 / (5h)) (Nguyen and Salazar 2019, arXiv 1910.05895), wang_init
    2 / (l sqrt(h)), both as in gpt-neox's megatron/model/init_functions.py.
    """
    output = name.endswith(("attention.dense.weight", "mlp.dense_4h_to_h.weight"))
    if config.initializer == "small_init":
        if output:
            return 2.0 / (config.num_layers * math.sqrt(config.hidden_size))
        return math.sqrt(2.0 / (5.0 * config.hidden_size))
    return config.initializer_range / (math.sqrt(2.0 * config.num_layers) if output else 1.0)


def initial_tensor(config: ModelConfig, name: str, part: Slice, seed: int) -> Tensor:
    """Return a slice of a global tensor as it is before the first step, in fp32.

    Norm weights are 1, biases 0, matrices normal with `standard_deviation`.
    """
    shape = [stop - start for start, stop in part]
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    columns = config.tensor_shapes()[name][1]
    rows = config.tensor_shapes()[name][0]
    spread = standard_deviation(config, name)
    (first, last), (left, right) = part
    height = max(1, _BLOCK // columns)
    result = torch.empty(shape)
    for block in range(first // height, -(-last // height)):
        top = block * height
        drawn = torch.empty(min(height, rows - top), columns)
        digest = hashlib.sha256(f"{seed}/{name}/{block}".encode()).digest()
        drawn.normal_(0.0, spread, generator=torch.Generator().manual_seed(_number(digest)))
        start, stop = max(first, top), min(last, top + len(drawn))
        result[start - first : stop - first] = drawn[start - top : stop - top, left:right]
    return result


def fill(
    module: nn.Module, prefix: str, config: ModelConfig, group: TensorGroup, seed: int | None
) -> None:
    """Give a freshly built slot its initial weights; a `seed` of None leaves it as it is."""
    if seed is None:
        return
    shapes = config.tensor_shapes()
    with torch.no_grad():
        for local, parameter in module.named_parameters():
            name = f"{prefix}.{local}"
            part = local_slice(name, shapes[name], group.rank, group.size)
            parameter.copy_(initial_tensor(config, name, part, seed))


def _number(digest: bytes) -> int:
    # torch's CPU generator (a 32-bit Mersenne Twister) takes no more than 32 bits of a seed.
    return int.from_bytes(digest[:4], "little")
