from __future__ import annotations

import shlex
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpenglow_lsf.geometry import GeometryError, ResourceSet, cut, place
from alpenglow_lsf.machine import load
from alpenglow_lsf.step import JobStep

NODE = load("summit").compute
SHIPPED = ResourceSet(per_host=1, tasks=6, cores=42, gpus=6, bind="packed:7")


@pytest.mark.parametrize(
    ("fields", "nodes", "says"),
    [
        ({"per_host": 1, "cores": 43}, 1, "-c 43 asks for 43 cores, but a node has 42"),
        ({"per_host": 7, "gpus": 1}, 1, "-r 7 sets of -g 1 ask for 7 GPUs, but a node has 6"),
        ({"per_host": 2, "cores": 22}, 1, "-r 2 sets of -c 22 ask for 44 cores, but a node has 42"),
        ({"gpus": 7}, 1, "-g 7 asks for 7 GPUs, but a node has 6"),
        ({"sets": 13, "per_host": 6}, 2, "-n 13 sets do not fit: 2 nodes hold 6 each, 12 in all"),
        ({"sets": 7, "per_host": 6}, 2, "-n 7 is no multiple of -r 6"),
        ({"sets": 13, "gpus": 1}, 2, "2 nodes hold 6 each"),
    ],
)
def test_a_node_refuses_what_it_cannot_hold(fields: dict[str, int], nodes: int, says: str) -> None:
    with pytest.raises(GeometryError) as caught:
        ResourceSet(**fields).fit(NODE, nodes)  # type: ignore[arg-type]
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tasks": 6, "cores": 42, "bind": "packed:8"}, "48 cores, but the set has -c 42"),
        ({"tasks": 2, "cores": 1}, "2 cores, but the set has -c 1"),
        ({"bind": "packed:0"}, "choose none, rs"),
        ({"bind": "tight"}, "choose none, rs"),
        ({"distribution": "plane"}, "choose packed, cyclic or plane:K"),
        ({"latency": "GPU-CPU"}, "capitals allocate wrongly"),
        ({"cores": 0}, "-c 0 should be 1 or more"),
    ],
)
def test_a_set_that_contradicts_itself_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(GeometryError) as caught:
        ResourceSet(**fields)  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_the_shipped_shape() -> None:
    places = place(SHIPPED, NODE, 512)
    assert len(places) == 3072
    assert (places[6].host, places[6].local_rank, places[6].local_size) == (1, 0, 6)
    assert SHIPPED.threads() == 7
    assert SHIPPED.warnings(NODE) == []
    small = cut(places, nodes=2, tasks_per_node=4)
    assert [(p.host, p.local_rank) for p in small] == [(h, r) for h in (0, 1) for r in range(4)]


def test_sets_across_sockets_and_the_one_core_default_are_said() -> None:
    assert (
        "straddles sockets of 3 GPUs" in ResourceSet(cores=8, gpus=4, bind="rs").warnings(NODE)[0]
    )
    assert "straddles sockets of 21 cores" in ResourceSet(cores=22, bind="rs").warnings(NODE)[0]
    assert "-b packed:7 uses them" in ResourceSet(cores=7, gpus=1).warnings(NODE)[0]


@pytest.mark.parametrize(
    ("distribution", "hosts"),
    [
        ("packed", [0, 0, 0, 0, 1, 1, 1, 1]),
        ("cyclic", [0, 0, 1, 1, 0, 0, 1, 1]),
        ("plane:2", [0, 0, 0, 0, 1, 1, 1, 1]),
    ],
)
def test_the_order_of_ranks(distribution: str, hosts: list[int]) -> None:
    # Two sets of two tasks on each of two hosts.
    request = ResourceSet(per_host=2, tasks=2, cores=2, distribution=distribution)
    assert [p.host for p in place(request, NODE, 2)] == hosts


@given(
    sets=st.none() | st.integers(1, 60),
    per_host=st.none() | st.integers(1, 50),
    tasks=st.integers(1, 8),
    cores=st.integers(1, 50),
    gpus=st.integers(0, 8),
    nodes=st.integers(1, 12),
    distribution=st.sampled_from(["packed", "cyclic", "plane:3"]),
)
def test_what_fits_never_overfills_a_node(
    sets: int | None,
    per_host: int | None,
    tasks: int,
    cores: int,
    gpus: int,
    nodes: int,
    distribution: str,
) -> None:
    request = ResourceSet(sets, per_host, tasks, cores, gpus, "none", distribution)
    try:
        count, each = request.fit(NODE, nodes)
    except GeometryError as error:
        assert "\n" not in str(error)
        # Refused only for a reason: too big for a node, for the nodes, or uneven.
        most = min(NODE.cores // cores, NODE.gpus // gpus if gpus else NODE.cores)
        wanted = most if per_host is None else per_host
        uneven = sets is not None and per_host is not None and sets % per_host != 0
        assert most == 0 or wanted > most or (sets or 0) > wanted * nodes or uneven
        return
    places = place(request, NODE, nodes)
    assert [p.rank for p in places] == list(range(count * tasks))
    on_host = Counter(p.host for p in places)
    assert max(on_host) < nodes
    for host, ranks in on_host.items():
        assert ranks // tasks * cores <= NODE.cores
        assert ranks // tasks * gpus <= NODE.gpus
        assert ranks <= each * tasks
        local = [p for p in places if p.host == host]
        assert [p.local_rank for p in local] == list(range(ranks))
        assert {p.local_size for p in local} == {ranks}


@given(nodes=st.integers(1, 20), keep=st.integers(1, 4), tasks=st.integers(1, 8))
def test_a_cut_keeps_the_order_and_the_limits(nodes: int, keep: int, tasks: int) -> None:
    small = cut(place(SHIPPED, NODE, nodes), keep, tasks)
    assert len(small) == min(nodes, keep) * min(6, tasks)
    assert [p.host for p in small] == sorted(p.host for p in small)


REQUESTS = st.builds(
    ResourceSet,
    sets=st.none() | st.integers(1, 60),
    per_host=st.none() | st.integers(1, 50),
    tasks=st.integers(1, 8),
    cores=st.integers(1, 50),
    gpus=st.integers(0, 8),
    bind=st.sampled_from(["none", "rs", "packed:smt:2"]),
    distribution=st.sampled_from(["packed", "cyclic", "plane:3"]),
    latency=st.sampled_from(["gpu-cpu", "cpu-mem", "cpu-cpu"]),
)
STEPS = st.builds(
    JobStep,
    request=REQUESTS,
    command=st.lists(st.text(min_size=1, max_size=6), max_size=2).map(lambda w: ("python", *w)),
    environment=st.lists(
        st.tuples(st.from_regex(r"[A-Z_]{1,6}", fullmatch=True), st.text(max_size=6)), max_size=2
    ).map(tuple),
    exit_on_error=st.booleans(),
    stdout=st.none() | st.just("out $(x).txt"),
    prepended=st.booleans(),
    smpiargs=st.sampled_from(["", "off", "-gpu", "-disable_gpu_hooks"]),
)


@given(step=STEPS)
def test_whatever_is_rendered_reads_back_to_itself(step: JobStep) -> None:
    assert JobStep.parse(step.words()) == step
    # Through a shell, as `preview` prints it: whatever the words hold, no shell acts on them.
    assert JobStep.parse(shlex.split(shlex.join(step.words()))) == step


@pytest.mark.parametrize(
    ("fields", "nodes", "says"),
    [
        ({"sets": 8, "gpus": 1}, 2, ["-n 8 sets fill hosts of 6 unevenly: the last has 2"]),
        (
            {"sets": 6, "per_host": 6, "gpus": 1},
            4,
            ["the step runs on 1 of 4 nodes; all 4 are charged"],
        ),
        (
            {"per_host": 1, "tasks": 4, "cores": 28, "gpus": 6},
            1,
            ["-a 4 tasks share -g 6 GPUs of their set unevenly"],
        ),
        ({"per_host": 2, "gpus": 2, "cores": 14}, 1, ["2 of a node's 6 GPUs belong to no set"]),
        ({"per_host": 1, "tasks": 6, "cores": 42, "gpus": 6}, 512, []),
    ],
)
def test_uneven_shares_are_said(fields: dict[str, int], nodes: int, says: list[str]) -> None:
    assert ResourceSet(bind="rs", **fields).uneven(NODE, nodes) == says  # type: ignore[arg-type]
