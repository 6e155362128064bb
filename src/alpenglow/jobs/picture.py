"""A layout on a machine in lines of text: ranks, split, links, memory.

for line in picture(recipe, layout, site, room): print(line)
"""

from __future__ import annotations

from collections.abc import Sequence

from alpenglow.parallel.layout import Layout
from alpenglow.parallel.links import Site
from alpenglow.parallel.memory import GIGABYTE, StageMemory, stages_memory
from alpenglow.parallel.placement import Price, options, price
from alpenglow.parallel.split import head_cost, idle_share, split
from alpenglow.train.recipe import PretrainRecipe

MOST_NODES = 12
"""Nodes of a replica that are drawn."""
LINKS = ("nvlink", "bus", "network")


def picture(
    recipe: PretrainRecipe, layout: Layout, site: Site | None, room: float | None
) -> list[str]:
    """Describe a layout.

    Args:
        recipe: what is trained.
        layout: as `recipe.layout` gives it.
        site: the machine's links; None where its file lacks them.
        room: bytes of a GPU; None without GPUs.
    """
    found = [*_layout_lines(recipe, layout, site), *_split_lines(recipe, layout)]
    if site is not None:
        found += _link_lines(price(recipe.model, layout, recipe.work(layout), site))
    if room is not None:
        found += _memory_lines(recipe, layout, room)
    if site is not None:
        found += _grid_lines(layout, site)
    return found


def _layout_lines(recipe: PretrainRecipe, layout: Layout, site: Site | None) -> list[str]:
    degrees = f"pipeline {layout.pipeline} x tensor {layout.tensor} x data {layout.data}"
    line = f"layout     {degrees}, {layout.order}"
    if site is None:
        return [line]
    work, how = recipe.work(layout), recipe.parallel.split
    best: dict[str, Price] = {}
    degrees_only = Layout(layout.pipeline, layout.tensor, layout.data)
    for one in options(recipe.model, degrees_only, work, site, how=how):
        best.setdefault(one.layout.order, one)
    costs = [
        f"{'' if index else 'orders':<11}{name} {one.step_s:.3f} s a step, "
        f"{one.communication_s:.3f} of them communication"
        for index, (name, one) in enumerate(best.items())
    ]
    costs[0] += " (modelled, best seats)"
    return [line, *costs]


def _split_lines(recipe: PretrainRecipe, layout: Layout) -> list[str]:
    model, length = recipe.model, recipe.batch.sequence_length
    layers = layout.layers_of(model.num_layers)
    idle = idle_share(model, layers, length)
    found = [
        f"split      {recipe.parallel.split}: {' '.join(map(str, layers))} layers, and the head's "
        f"{head_cost(model, length):.2f}; {idle:.1%} idle for the largest stage"
    ]
    rival = "even" if recipe.parallel.split == "balanced" else "balanced"
    other = split(model, layout.pipeline, "even" if rival == "even" else "balanced", length)
    found[0] += f" ({rival}: {idle_share(model, other, length):.1%})"
    if layout.seats:
        found.append(f"seats      stages in rank order: {' '.join(map(str, layout.seats))}")
    return found


def _link_lines(cost: Price) -> list[str]:
    found = [f"links      {'GB that a node sends a step':<28}{''.join(f'{k:>9}' for k in LINKS)}"]
    found[0] += "  seconds on the critical path"
    for traffic in cost.traffic:
        sent = {str(link): nbytes for link, nbytes in traffic.node_bytes.items()}
        cells = "".join(f"{sent[k] / GIGABYTE:>9.2f}" if k in sent else f"{'-':>9}" for k in LINKS)
        found.append(f"           {traffic.name:<28}{cells}  {traffic.seconds:.3f}")
    return found


def _memory_lines(recipe: PretrainRecipe, layout: Layout, room: float) -> list[str]:
    stages = stages_memory(recipe.model, layout, recipe.work(layout))
    layers = layout.layers_of(recipe.model.num_layers)
    names = list(stages[0].parts)
    heads = "".join(f"{name:>12}" for name in (*names, "in all"))
    found = [f"memory     at least, GB of {room / GIGABYTE:.0f} a GPU", f"  stage layers{heads}"]
    begin = 0
    for stage in range(1, len(stages) + 1):
        # Neighbours that need the same are one row.
        if stage < len(stages) and _same(stages, layers, begin, stage):
            continue
        one = stages[begin]
        cells = "".join(f"{size / GIGABYTE:>12.2f}" for size in (*one.parts.values(), one.total))
        span = f"{begin}-{stage - 1}" if stage - begin > 1 else str(begin)
        found.append(f"  {span:>5} {layers[begin]:>6}{cells}")
        begin = stage
    return found


def _same(stages: Sequence[StageMemory], layers: Sequence[int], one: int, other: int) -> bool:
    return layers[one] == layers[other] and all(
        abs(a - b) < 0.005 * GIGABYTE
        for a, b in zip(stages[one].parts.values(), stages[other].parts.values(), strict=True)
    )


def _grid_lines(layout: Layout, site: Site) -> list[str]:
    each, width = len(site.sockets), len(f"{layout.pipeline - 1}.{layout.data - 1}.0")
    places = [layout.coordinates(rank) for rank in range(layout.world)]
    nodes = sorted({rank // each for rank, (_, data, _) in enumerate(places) if data == 0})
    total = -(-layout.world // each)
    found = [
        f"grid       replica 0 lies on {len(nodes)} of {total} nodes; stage.replica.tensor of each "
        "rank,",
        "           | between sockets, ~|~ a tensor group across their bus",
    ]
    for node in nodes[:MOST_NODES]:
        cells = ""
        for local, (stage, data, tensor) in enumerate(places[node * each : (node + 1) * each]):
            if local:
                border = site.sockets[local] != site.sockets[local - 1]
                cells += " ~|~ " if border and tensor else "  |  " if border else "  "
            cells += f"{stage}.{data}.{tensor}".rjust(width)
        found.append(f"  node {node:>4}  {cells}")
    if len(nodes) > MOST_NODES:
        found.append(f"  and {len(nodes) - MOST_NODES} nodes more")
    return found
