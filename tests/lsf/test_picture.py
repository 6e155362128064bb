from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpenglow_lsf.geometry import GeometryError, ResourceSet
from alpenglow_lsf.machine import load
from alpenglow_lsf.picture import draw, seat, straddles

NODE = load("summit").compute
SHIPPED = ResourceSet(per_host=1, tasks=6, cores=42, gpus=6, bind="packed:7", latency="gpu-cpu")


def test_the_shipped_shape_as_a_picture() -> None:
    lines = draw(seat(SHIPPED, NODE), NODE, tensor=2, smt=4)
    assert lines[:6] == [
        "socket 0: cores 0-20 (hardware threads 0-83), GPUs 0-2",
        "  cores |000000011111112222222|",
        "  GPUs  [0: 0] [1: 1] [2: 2]",
        "socket 1: cores 21-41 (hardware threads 88-171), GPUs 3-5",
        "  cores |333333344444445555555|",
        "  GPUs  [3: 3] [4: 4] [5: 5]",
    ]
    assert lines[-3:] == [
        "tensor group 0-1: within socket 0",
        "tensor group 2-3: ACROSS the sockets' bus",
        "tensor group 4-5: within socket 1",
    ]


@pytest.mark.parametrize(
    ("request_", "tensor", "says"),
    [
        (SHIPPED, 2, ["tensor-parallel ranks 2-3 of a node talk across the sockets' bus"]),
        (SHIPPED, 3, []),
        (SHIPPED, 4, ["6 ranks a node do not divide by tensor = 4: some groups span nodes"]),
        # Three cores over the border of 21.
        (
            ResourceSet(per_host=1, tasks=6, cores=42, gpus=6, bind="packed:6"),
            1,
            ["local rank 3 is bound to cores of two sockets"],
        ),
        # Cores first: the second set's GPU is the next one, on the first socket.
        (
            ResourceSet(per_host=2, tasks=1, cores=21, gpus=1, bind="rs"),
            1,
            ["local rank 1 is bound to one socket, with a GPU of the other"],
        ),
        (
            ResourceSet(per_host=2, tasks=1, cores=21, gpus=1, bind="rs", latency="gpu-cpu"),
            1,
            [],
        ),
        (ResourceSet(per_host=6, tasks=1, cores=7, gpus=1, bind="packed:7"), 3, []),
    ],
)
def test_what_straddles_sockets_is_said(
    request_: ResourceSet, tensor: int, says: list[str]
) -> None:
    assert straddles(seat(request_, NODE), NODE, tensor) == says


def test_cyclic_ranks_go_round_the_sets() -> None:
    request = ResourceSet(
        per_host=2, tasks=3, cores=21, gpus=3, bind="packed:7", distribution="cyclic"
    )
    assert [s.resource_set for s in seat(request, NODE)] == [0, 1, 0, 1, 0, 1]


def test_hardware_threads_of_a_core_can_be_shared_out() -> None:
    request = ResourceSet(per_host=1, tasks=8, cores=2, bind="packed:smt:1")
    assert [s.cores for s in seat(request, NODE, smt=4)] == [(0,)] * 4 + [(1,)] * 4
    with pytest.raises(GeometryError, match="8 hardware threads, but -c 2 cores have 4 in SMT"):
        seat(request, NODE, smt=2)


@st.composite
def requests(draw_: st.DrawFn) -> ResourceSet:
    bind = draw_(
        st.sampled_from(["none", "rs", "packed", "proportional-packed"])
        | st.builds("packed:{}".format, st.integers(1, 21))
        | st.builds("packed:smt:{}".format, st.integers(1, 8))
        | st.builds("proportional-packed:{}".format, st.integers(1, 9))
    )
    fields = {
        "sets": draw_(st.none() | st.integers(1, 40)),
        "per_host": draw_(st.none() | st.integers(1, 14)),
        "tasks": draw_(st.integers(1, 8)),
        "cores": draw_(st.integers(1, 42)),
        "gpus": draw_(st.integers(0, 6)),
        "bind": bind,
        "distribution": draw_(st.sampled_from(["packed", "cyclic", "plane:2"])),
        "latency": draw_(st.sampled_from(["gpu-cpu", "cpu-cpu", "cpu-mem"])),
    }
    try:
        return ResourceSet(**fields)  # type: ignore[arg-type]
    except GeometryError:
        fields["bind"] = "rs"
        return ResourceSet(**fields)  # type: ignore[arg-type]


@given(request=requests(), smt=st.sampled_from([1, 2, 4]))
def test_whatever_is_accepted_fits(request: ResourceSet, smt: int) -> None:
    try:
        seats = seat(request, NODE, smt)
    except GeometryError as error:
        assert "\n" not in str(error)
        return
    assert [s.local_rank for s in seats] == list(range(len(seats)))
    sets = sorted({s.resource_set for s in seats})
    assert len(seats) == len(sets) * request.tasks
    gpus: Counter[int] = Counter()
    for one in sets:
        members = [s for s in seats if s.resource_set == one]
        gpus.update(members[0].visible)
        assert len({s.visible for s in members}) == 1
        assert len(members[0].visible) == request.gpus
        if request.bind != "none":
            assert len({c for s in members for c in s.cores}) <= request.cores
    # No GPU belongs to two sets, and no core to ranks of two sets.
    assert not gpus or max(gpus.values()) == 1
    if request.bind != "none":
        owners = Counter(
            c for one in sets for c in {c for s in seats if s.resource_set == one for c in s.cores}
        )
        assert max(owners.values()) == 1
    kind, width = request.binding
    for s in seats:
        assert s.cores and max(s.cores) < NODE.cores
        assert s.gpu is None or s.gpu in s.visible
        if kind == "packed":
            assert len(s.cores) == width
    if kind == "packed":  # tasks of a set do not share cores either
        each = Counter(c for s in seats for c in s.cores)
        assert max(each.values()) == 1
    if kind == "packed:smt":
        load_ = Counter(c for s in seats for c in s.cores)
        assert sum(load_.values()) <= len(seats) * (width // smt + 2)


@given(request=requests(), tensor=st.integers(1, 4))
def test_whatever_is_accepted_can_be_drawn(request: ResourceSet, tensor: int) -> None:
    try:
        seats = seat(request, NODE)
    except GeometryError:
        return
    lines = draw(seats, NODE, tensor=tensor)
    cores = [line for line in lines if line.startswith("  cores |")]
    assert [len(line) for line in cores] == [len("  cores ||") + 21] * 2
    for text in straddles(seats, NODE, tensor):
        assert "\n" not in text


@pytest.mark.parametrize("name", ["lassen", "frontier", "perlmutter", "summit_highmem"])
def test_other_nodes_can_be_drawn(name: str) -> None:
    node = load(name).compute
    each = node.cores // node.gpus
    request = ResourceSet(per_host=node.gpus, cores=each, gpus=1, bind=f"packed:{each}")
    seats = seat(request, node)
    assert [s.gpu for s in seats] == list(range(node.gpus))
    assert straddles(seats, node) == []
    assert len(draw(seats, node)) == 3 * node.sockets + 1 + node.gpus
