"""Which transformer layers each pipeline stage holds, by what a stage computes.

Torch-free. The unit is one layer's forward FLOPs. The head costs 2 h V a token against a layer's
8 h^2 + 4 s h + 4 h f (ModelConfig.flops_per_token counts the same), about one layer at these sizes;
the embedding is a lookup and costs nothing. A step lasts about as long as its slowest stage works,
so a split is judged by its largest stage:

    split(model, 12, "balanced", 2048)   # [2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 2] of the 7B model
    idle_share(model, layers, 2048)      # share of GPU time that waits for the largest stage

The 7B model on 12 stages is 32.95 layers' work. Whole layers make the largest stage 3 under either
split, and 8.5 % of the GPU time idles on top of the schedule's bubble; the balanced split only
moves the slack to the first stages, where most micro-batches are in flight. The 3B model on 6
stages gains: 6 for 6.45.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from alpenglow.parallel.layout import stage_layers
from alpenglow.parallel.work import Sizes

Split = Literal["even", "balanced"]


def layer_flops(model: Sizes, sequence_length: int) -> float:
    """Forward FLOPs of one layer, one token, matrix products only."""
    h, ffn = model.hidden_size, model.intermediate_size
    return 8.0 * h * h + 4 * sequence_length * h + 4 * h * ffn


def head_cost(model: Sizes, sequence_length: int) -> float:
    """What the head computes, in layers."""
    return 2 * model.hidden_size * model.vocab_size / layer_flops(model, sequence_length)


def stage_costs(model: Sizes, layers: Sequence[int], sequence_length: int) -> list[float]:
    """What each stage computes, in layers; the last one has the head."""
    costs = [float(count) for count in layers]
    costs[-1] += head_cost(model, sequence_length)
    return costs


def idle_share(model: Sizes, layers: Sequence[int], sequence_length: int) -> float:
    """Share of the stages' time in which they wait for the largest of them."""
    costs = stage_costs(model, layers, sequence_length)
    return 1 - sum(costs) / (len(costs) * max(costs))


def split(
    model: Sizes,
    pipeline: int,
    how: Split = "even",
    sequence_length: int = 2048,
    light: Sequence[int] = (),
) -> list[int]:
    """Count the layers of each stage.

    Args:
        model: the architecture.
        pipeline: stages.
        how: `even` spreads layers as if the head cost nothing; `balanced` makes the largest stage
            as small as whole layers allow.
        sequence_length: tokens of a sequence, which attention's cost depends on.
        light: stages that get one layer less first, where `balanced` has the choice; then the
            first ones, which hold most micro-batches in flight.

    Raises:
        LayoutError: a stage would hold no layer.
    """
    even = stage_layers(model.num_layers, pipeline)
    if how == "even" or pipeline == 1:
        return even
    head, body = head_cost(model, sequence_length), pipeline - 1

    def largest(last: int) -> float:
        return max(math.ceil((model.num_layers - last) / body), last + head)

    choices = range(1, model.num_layers - body + 1)
    limit = min(map(largest, choices))
    # As many layers beside the head as keep it below the limit: the others have the most slack.
    last = max(count for count in choices if largest(count) <= limit)
    slack = body * math.floor(limit) - (model.num_layers - last)
    counts = [math.floor(limit)] * body
    wishes = [stage for stage in light if 0 <= stage < body]
    turns = [*dict.fromkeys([*wishes, *range(body)])]
    while slack:
        for stage in turns:
            if slack and counts[stage] > 1:
                counts[stage] -= 1
                slack -= 1
    return [*counts, last]


def bounds(layers: Sequence[int]) -> list[int]:
    """Slots at which DeepSpeed's stages begin and end, `len(layers) + 1` of them.

    The slots are the embedding, the layers, the final norm and the head (model.stages).
    """
    edges = [0]
    for count in layers:
        edges.append(edges[-1] + count)
    return [0, *(edge + 1 for edge in edges[1:-1]), edges[-1] + 3]
