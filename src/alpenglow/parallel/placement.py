"""Which rank is which: the axis order and the seats of stages, priced by bytes and links.

Torch-free. `price` gives, for one layout on one machine, the bytes that a node sends over each
class of link and the seconds that this takes on the critical path of a step. `options` prices the
maps of given degrees, `place` takes the cheapest; `table` does so for other degrees as well.

    site = Site.of(machine, world=3072)
    place(model, Layout.of(3072, 12, 2), work, site, order="auto").order

Four kinds of traffic, per rank:

- tensor all-reduce: a ring of t ranks moves 2 (t-1)/t of b s h elements; a layer with serial
  residual has two forward and two backward (Shoeybi et al. 2019, arXiv 1909.08053, section 3), with
  parallel residual one forward; embedding and head one each.
- p2p: b s h elements forward and their gradients backward between neighbouring stages, a t-th of it
  where transfers are sliced, and then a gather in the tensor group.
- gradient reduction: to their owners once around a ring of the replicas, (d-1)/d of the stage's
  gradients, hidden behind the last backward pass (alpenglow.train.reduction), or DeepSpeed's
  all-reduce after it, twice as much.
- optimizer all-gather: (d-1)/d of the stage's weights (ZeRO-1, Rajbhandari et al. 2020).

Links: `nvlink` within a socket's GPUs, `bus` between the sockets, `network` a node's injection,
which its GPUs share, or the fabric's share of a node where that is narrower. A ring crosses a
node's border once, whatever number of its ranks are inside, as NCCL lays rings.

The step: a pipeline of stages of unequal work t_i with blocking transfers e_i takes the sum of all
t_i and 2 e_i, and m - 1 times the largest of t_i + 2 (e_{i-1} + e_i) (Narayanan et al. 2021, arXiv
2104.04473, section 2.2, for equal stages). Under zb-h1 a third of the fill is left (Qi et al. 2023,
arXiv 2401.10241, with forward, backward and weight passes of one length), as long as there are
weight passes to fill it with. Reduction and all-gather come behind. This ranks maps; how long a
step really takes is the simulator's business: latencies, overlap and small products are left out,
and a GPU is taken to reach half of its peak (links.RATE).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

from alpenglow.parallel.layout import Layout, Order
from alpenglow.parallel.links import Link, RankMap, Site, busiest, data_rings, edges, tensor_rings
from alpenglow.parallel.memory import StageMemory, stage_parameters, worst_stage
from alpenglow.parallel.split import Split, layer_flops, split, stage_costs
from alpenglow.parallel.work import Sizes, Work

OrderChoice = Literal["pipe-major", "data-major", "auto"]


@dataclass(frozen=True)
class Traffic:
    """One kind of traffic in one step."""

    name: str
    node_bytes: dict[Link, float]
    """Link class -> bytes of the node that sends most over it."""
    seconds: float
    """On the critical path."""


@dataclass(frozen=True)
class Price:
    """What a layout costs on a site."""

    layout: Layout
    traffic: tuple[Traffic, ...]
    compute_s: float
    """The step with free communication, its bubble and uneven stages included."""
    straddled: tuple[int, ...]
    """Stages of which a tensor group spans two sockets, in at least one replica."""

    @property
    def communication_s(self) -> float:
        """Seconds of a step that communication adds."""
        return sum(t.seconds for t in self.traffic)

    @property
    def step_s(self) -> float:
        """Both together: for ranking."""
        return self.compute_s + self.communication_s


def layer_reductions(model: Sizes, work: Work) -> int:
    """All-reduces of one layer and micro-batch in its tensor group, forward and backward."""
    forward = 1 if model.use_parallel_residual else 2
    return forward * (2 if work.recompute == "full" else 1) + 2


def price(model: Sizes, layout: Layout, work: Work, site: Site) -> Price:
    """Price one map; see the module for the formulas.

    Raises:
        LayoutError: the layout does not fit the model.
    """
    ranks, m = RankMap(layout, site), work.micro_batches
    payload = float(work.tokens * model.hidden_size * work.size)
    layers = layout.layers_of(model.num_layers)
    reductions = [layer_reductions(model, work) * count for count in layers]
    reductions[0] += 1  # the embedding's sum; the head's input gradient
    reductions[-1] += 1
    ring = 2 * (layout.tensor - 1) / layout.tensor * payload
    tensor_sends, slowest, sharing = tensor_rings(ranks, [ring * m * n for n in reductions])
    once = {link: ring * count / site.bandwidth(link) for link, count in sharing.items()}
    p2p_sends, hops = edges(ranks, payload / (layout.tensor if work.slice_transfers else 1), m)

    passes = 4 if work.recompute == "full" else 3
    flops = layer_flops(model, work.sequence_length) * work.tokens * passes / layout.tensor
    compute = [c * flops / site.flops for c in stage_costs(model, layers, work.sequence_length)]
    free = [0.0] * (layout.pipeline - 1)
    base = with_tensor = with_both = _critical(compute, free, work)
    patterns = {
        (tuple(s[d] for s in slowest), tuple(e[d] for e in hops)) for d in range(layout.data)
    }
    for links, moves in patterns:
        slots = [0.0 if link is None else once[link] for link in links]
        times = [c + n * slot for c, n, slot in zip(compute, reductions, slots, strict=True)]
        # The receiving tensor group gathers the slices: half an all-reduce.
        gathers = [slot / 2 if work.slice_transfers else 0.0 for slot in slots[1:]]
        both = [move + gather for move, gather in zip(moves, gathers, strict=True)]
        with_tensor = max(with_tensor, _critical(times, free, work))
        with_both = max(with_both, _critical(times, both, work))

    weights = [stage_parameters(model, layout, s) * work.size for s in range(layout.pipeline)]
    ring_sends, around = data_rings(ranks, weights)
    gather_node = busiest(ring_sends)
    # As many bytes as weights once around, twice for an all-reduce, wider for gradients in fp32.
    rounds = (1 if work.reduces_early else 2) * (work.travels or work.gradient_size) / work.size
    largest = max(range(layout.pipeline), key=weights.__getitem__)
    exposed = rounds * around
    if work.reduces_early:
        # Hidden behind what is left of the last backward or weight pass, but for the last bucket.
        last = compute[largest] * (1 if work.schedule == "zb-h1" else passes - 1) / passes
        bucket = min(1 / 8, work.bucket * work.size / weights[largest])
        exposed = max(bucket * exposed, exposed - last)
    traffic = (
        Traffic("tensor all-reduce", busiest(tensor_sends), with_tensor - base),
        Traffic("p2p", busiest(p2p_sends), with_both - with_tensor),
        Traffic("gradient reduction", {k: rounds * v for k, v in gather_node.items()}, exposed),
        Traffic("optimizer all-gather", gather_node, around),
    )
    across = [stage for stage, links in enumerate(slowest) if "bus" in links]
    return Price(layout, traffic, base, tuple(across))


def _critical(stages: Sequence[float], moves: Sequence[float], work: Work) -> float:
    ends, m = [0.0, *moves, 0.0], work.micro_batches
    largest = max(t + 2 * (ends[i] + ends[i + 1]) for i, t in enumerate(stages))
    path = sum(stages) + 2 * sum(moves)
    whole = path + (m - 1) * largest
    if work.schedule != "zb-h1":
        return whole
    # A weight pass, a third of the work, waits for nobody; it cannot fill more than there is of it.
    return max(m * largest + (path - largest) / 3, (2 * whole + largest) / 3)


@lru_cache(maxsize=32)
def options(
    model: Sizes,
    layout: Layout,
    work: Work,
    site: Site,
    *,
    order: OrderChoice = "auto",
    how: Split = "even",
) -> tuple[Price, ...]:
    """Price the maps of given degrees, the cheapest first; arguments as `place`."""
    plain = split(model, layout.pipeline, how, work.sequence_length)
    kept = () if how == "even" else tuple(plain)
    orders: tuple[Order, ...] = get_args(Order) if order == "auto" else (order,)
    prices = []
    for name in orders:
        base = price(model, replace(layout, order=name, seats=(), layers=kept), work, site)
        prices.append(base)
        if name == "data-major" and 0 < len(base.straddled) < layout.pipeline:
            prices += _seated(model, base, work, site, how)
    return tuple(sorted(prices, key=lambda p: p.step_s))  # stable: of equals stages in order


def place(
    model: Sizes,
    layout: Layout,
    work: Work,
    site: Site | None,
    *,
    order: OrderChoice = "auto",
    how: Split = "even",
) -> Layout:
    """Choose order, seats and layers of given degrees.

    Args:
        model: the architecture.
        layout: degrees; its order, seats and layers are replaced.
        work: one step.
        site: where; without one nothing can be priced: stages sit in order, pipe-major for `auto`.
        order: `auto` takes the cheapest, a name binds the choice.
        how: split of the layers.
    """
    if site is not None and order != "pipe-major" and layout.world > 1:
        bare = Layout(layout.pipeline, layout.tensor, layout.data)
        return options(model, bare, work, site, order=order, how=how)[0].layout
    kept = () if how == "even" else tuple(split(model, layout.pipeline, how, work.sequence_length))
    named: Order = "pipe-major" if order == "auto" else order
    return replace(layout, order=named, seats=(), layers=kept)


def _seated(model: Sizes, base: Price, work: Work, site: Site, how: Split) -> list[Price]:
    """Price maps that put light stages where tensor groups straddle the sockets' bus."""
    plain, found = base.layout, []
    if how == "balanced":
        layers = split(model, plain.pipeline, how, work.sequence_length, light=base.straddled)
        found.append(replace(plain, layers=tuple(layers)))
    for layout in (plain, *found[:1]):
        seats = _swap(model, layout, base.straddled)
        if seats != tuple(range(plain.pipeline)):
            found.append(replace(layout, seats=seats))
    return [price(model, layout, work, site) for layout in found]


def _swap(model: Sizes, layout: Layout, straddled: Sequence[int]) -> tuple[int, ...]:
    """Swap each heavy stage on a straddled place with the nearest lighter one off it."""
    layers = layout.layers_of(model.num_layers)
    seats = list(range(layout.pipeline))
    for place in straddled:
        near = [p for p in range(layout.pipeline) if p not in straddled]
        free = [p for p in near if layers[seats[p]] < layers[seats[place]]]
        if free:
            other = min(free, key=lambda p: (abs(p - place), p))
            seats[place], seats[other] = seats[other], seats[place]
    return tuple(seats)


@dataclass(frozen=True)
class Candidate:
    """One row of `table`."""

    price: Price
    micro_batches: int
    memory: StageMemory
    """Of the stage that needs most."""
    fits: bool

    def __str__(self) -> str:
        one = self.price.layout
        text = (
            f"tensor {one.tensor} pipeline {one.pipeline} data {one.data} {one.order}: "
            f"{self.price.step_s:.2f} s, {self.price.communication_s:.2f} of them communication"
        )
        return text if self.fits else f"{text}; needs {self.memory}"


def table(
    model: Sizes,
    world: int,
    global_batch_size: int,
    work: Work,
    site: Site,
    gpu_memory_bytes: float,
    *,
    how: Split = "even",
) -> list[Candidate]:
    """Price the lawful degrees on `world` ranks, each with its best order, the fastest first.

    Those that do not fit the GPU's memory come last. Tensor groups stay within a node.

    Args:
        model: the architecture.
        world: ranks of the job.
        global_batch_size: sequences a step; replicas and micro-batches must divide it.
        work: one step; its `micro_batches` are replaced by what each layout leaves.
        site: where.
        gpu_memory_bytes: of one GPU.
        how: split of the layers.
    """
    rows = []
    shared = (model.num_attention_heads, model.intermediate_size, model.vocab_size)
    for tensor in range(1, len(site.sockets) + 1):
        if world % tensor or any(size % tensor for size in shared):
            continue
        for pipeline in range(1, model.num_layers + 1):
            share = work.micro_batch_size * world // (tensor * pipeline)
            if world % (tensor * pipeline) or global_batch_size % share:
                continue
            own = replace(work, micro_batches=global_batch_size // share)
            best = options(model, Layout.of(world, pipeline, tensor), own, site, how=how)[0]
            memory = worst_stage(model, best.layout, own)
            fits = memory.total <= gpu_memory_bytes
            rows.append(Candidate(best, own.micro_batches, memory, fits))
    return sorted(rows, key=lambda row: (not row.fits, row.price.step_s))
