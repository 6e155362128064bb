from __future__ import annotations

import re
from pathlib import Path

import pytest

from alpenglow_lsf import machine
from alpenglow_lsf.machine import MachineError

SUMMIT = machine.folder() / "summit.toml"
LAPTOP = machine.folder() / "laptop.toml"


def test_summit_is_as_its_guide_says() -> None:
    summit = machine.load("summit")
    assert summit.node is not None
    assert (summit.node.cores, summit.node.gpus, summit.node.smt) == (42, 6, 4)
    queue = summit.queue("batch")
    assert queue is not None
    hours = {
        nodes: found.hours
        for nodes in (1, 45, 46, 91, 92, 921, 922, 4608)
        if (found := queue.bin(nodes))
    }
    assert hours == {1: 2, 45: 2, 46: 6, 91: 6, 92: 12, 921: 12, 922: 24, 4608: 24}
    assert queue.bin(4609) is None
    assert summit.price_per_node_hour is None
    assert summit.peak("fp16") == 125e12


def test_a_laptop_keeps_its_own_peak_and_takes_the_rules_of_its_target() -> None:
    laptop = machine.load("laptop")
    assert laptop.target.name == "summit"
    assert laptop.compute.cores == 42
    assert laptop.peak("fp16") is None
    assert laptop.stand_in is not None and laptop.stand_in.nodes == 2


def test_every_number_of_a_machine_file_has_its_source_beside_it() -> None:
    for path in (SUMMIT, LAPTOP):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            value = re.sub(r"\"[^\"]*\"", "", line.partition("=")[2].partition("#")[0])
            if re.search(r"\d", value):
                assert "# " in line, f"{path.name}:{number} has a number without a source: {line}"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("cores = 42", "coers = 42", "unknown key node.coers; did you mean node.cores?"),
        ("gpus = 6 ", "", "node.gpus is missing"),
        ("smt = 4 ", 'smt = "4" ', "node.smt = '4' should be of type int"),
        (
            'scheduler = "lsf"',
            'scheduler = "pbs"',
            "scheduler = 'pbs'; choose from lsf, slurm, local",
        ),
        ("nodes = [1, 45]", "nodes = [45, 1]", "should be [smallest, largest]"),
        ("[links]", "[link]", "unknown key link; did you mean links?"),
        ("[node]", "node = 3 #", "not valid TOML"),
    ],
)
def test_a_wrong_machine_file_is_refused_with_one_sentence(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    text = SUMMIT.read_text()
    assert old in text
    path = tmp_path / "summit.toml"
    path.write_text(re.sub(re.escape(old) + ("[^\n]*" if not new else ""), new, text, count=1))
    if says == "not valid TOML":
        path.write_text("node = [")
    with pytest.raises(MachineError, match=re.escape(says)) as caught:
        machine.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_machine_that_does_not_exist_is_named_with_its_nearest() -> None:
    with pytest.raises(MachineError, match="did you mean summit"):
        machine.load("sumit")


def test_the_current_machine_is_that_of_the_environment(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="ALPENGLOW_MACHINE is not set"):
        machine.current({})
    path = tmp_path / "mine.toml"
    path.write_text(LAPTOP.read_text().replace("nodes = 2 ", "nodes = 1 "))
    mine = machine.current({"ALPENGLOW_MACHINE": str(path)})
    assert mine.stand_in is not None and mine.stand_in.nodes == 1
    assert mine.target.name == "summit"


def test_emulation_in_a_circle_is_refused(tmp_path: Path) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        text = LAPTOP.read_text().replace('"laptop"', f'"{name}"').replace('"summit"', f'"{other}"')
        (tmp_path / f"{name}.toml").write_text(text)
    with pytest.raises(MachineError, match="circle"):
        machine.load(tmp_path / "one.toml")


OTHERS = ["lassen", "frontier", "perlmutter", "summit_highmem"]


@pytest.mark.parametrize("name", OTHERS)
def test_other_machines_load_and_name_their_sources(name: str) -> None:
    found = machine.load(name)
    assert found.name == name
    text = (machine.folder() / f"{name}.toml").read_text()
    for number, line in enumerate(text.splitlines(), start=1):
        value = re.sub(r"\"[^\"]*\"", "", line.partition("=")[2].partition("#")[0])
        if re.search(r"\d", value):
            assert "# " in line, f"{name}.toml:{number} has a number without a source: {line}"
        if "# unverified" in line:  # a number that is marked in the text is in the list too
            key = line.split()[0]
            assert any(k.endswith(f".{key}") for k in found.unverified), f"{name}.toml:{number}"
    for key in found.unverified:
        assert not key.startswith("peak_flops"), f"{key}: a peak needs a source"


def test_what_no_site_confirms_is_named() -> None:
    assert machine.load("summit").unverified == ()
    assert "node.memory_bytes" in machine.load("lassen").unverified


def test_the_time_between_failures_falls_with_the_gpus() -> None:
    summit = machine.load("summit")
    hours = [(summit.mean_time_s(gpus) or 0) / 3600 for gpus in (3072, 1536, 384)]
    assert hours == pytest.approx([16.5, 33.0, 132.0], rel=2e-3)
    # 16,384 GPUs x 54 days / 419 stops.
    assert summit.failures is not None
    assert summit.failures.gpu_hours == pytest.approx(16384 * 54 * 24 / 419, rel=2e-3)
    assert machine.load("laptop").mean_time_s(8) is None, (
        "this computer is not the one it stands for"
    )


def test_slurm_sites_name_partition_or_qos() -> None:
    for name in ("frontier", "perlmutter"):
        found = machine.load(name)
        assert found.scheduler == "slurm"
        assert all(queue.partition or queue.qos for queue in found.queues)
    frontier = machine.load("frontier")
    batch = frontier.queue(frontier.queue_name(None))
    assert batch is not None and batch.name == "batch"
    hours = {n: b.hours for n in (1, 91, 92, 183, 184, 9472) if (b := batch.bin(n))}
    assert hours == {1: 2, 91: 2, 92: 6, 183: 6, 184: 12, 9472: 12}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("cores = 42 ", "cores = 43 ", "node.cores = 43 do not divide over sockets = 2"),
        ("smt = 4 ", "smt = 0 ", "node.smt = 0 should be 1 or more"),
        ("[0, 88]", "[0]", "should name 2 threads"),
        ('charge = "n', 'default_queue = "bach"\ncharge = "n', "choose from batch, batch-hm"),
        ("[failures]", "[failure]", "unknown key failure; did you mean failures?"),
        ("gpu_hours = 5", "gpu_hours = -5", "failures.gpu_hours = -50700.0 should be greater"),
        ('charge = "n', 'unverified = ["node.coers"]\ncharge = "n', "names node.coers, which"),
        ('charge = "n', 'unverified = ["queues.bach.bins"]\ncharge = "n', "queues.bach.bins"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    text = SUMMIT.read_text()
    assert old in text
    path = tmp_path / "summit.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(MachineError, match=re.escape(says)):
        machine.load(path)


@pytest.mark.parametrize("name", ["selene", "dgx2"])
def test_machines_of_published_tables_name_their_sources(name: str) -> None:
    path = machine.folder() / f"{name}.toml"
    found = machine.load(name)
    assert found.links is not None and found.links.switched and found.gpu is not None
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        value = re.sub(r"\"[^\"]*\"", "", line.partition("=")[2].partition("#")[0])
        if re.search(r"\d", value):
            assert "# " in line, f"{path.name}:{number} has a number without a source: {line}"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("sustained = 0.92 ", "sustained = 1.2 ", "gpu.sustained = 1.2 is a share, at most 1"),
        ("fill_seconds = 0.75e-6", "fill_seconds = 0", "fill_seconds = 0.0 should be above 0"),
        ("multiprocessors = 80", "processors = 80", "did you mean gpu.multiprocessors?"),
    ],
)
def test_a_wrong_gpu_table_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = SUMMIT.read_text()
    assert old in text
    path = tmp_path / "summit.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(MachineError, match=re.escape(says)):
        machine.load(path)
