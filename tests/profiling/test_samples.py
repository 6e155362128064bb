"""Samples of this very machine: real /proc, a real kill, real damage; and energy from them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from alpenglow_profiling.blocks import HEADER_BYTES
from alpenglow_profiling.energy import J_PER_MWH, energy, energy_mwh, power_curve, segment_power
from alpenglow_profiling.host import Host
from alpenglow_profiling.sample_log import SAMPLE, UNKNOWN, About, SampleLogFile
from alpenglow_profiling.sampler import Sampler
from alpenglow_profiling.samples import HOST, SamplesError, each, log_path, merge, read

SECOND = 10**9


def wait_for_bytes(path: Path, size: int) -> None:
    for _ in range(1000):
        if path.exists() and path.stat().st_size >= size:
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not reach {size} bytes")


def test_this_machine(tmp_path: Path) -> None:
    before = time.time_ns()
    sampler = Sampler(tmp_path, "h1", period_s=0.01, pids=[os.getpid(), 2**22 + 1], flush_s=0.05)
    wait_for_bytes(sampler.path, 20 * SAMPLE.itemsize)
    sampler.close()
    sampler.close()
    after = time.time_ns()
    assert sampler.failure is None
    (file,) = merge(tmp_path, node="h1", remove_log=True)
    assert [path.name for path in tmp_path.iterdir()] == ["h1.h5"] == [file.name]
    samples = read(tmp_path)
    assert (samples.nodes, samples.damages) == (("h1",), ())
    rows = samples.rows[samples.rows["device"] == HOST]
    assert len(rows) >= 10
    assert (np.diff(rows["monotonic_ns"]) > 0).all()
    assert before - SECOND < rows["time_ns"][0] <= rows["time_ns"][-1] < after + SECOND
    busy = rows["cpu_busy"][np.isfinite(rows["cpu_busy"])]
    assert len(busy)
    assert ((busy >= 0) & (busy <= 1)).all()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert ((rows["memory_bytes"] > 0) & (rows["memory_bytes"] < total)).all()
    assert ((rows["rss_bytes"] > 10e6) & (rows["rss_bytes"] < total)).all()
    assert (rows["load"] >= 0).all()
    assert np.isnan(rows["utilisation"]).all()
    assert (rows["throttle"] == -1).all()
    if not Path("/sys/class/powercap/intel-rapl:0").exists():
        assert np.isnan(rows["energy_j"]).all()
    if not Path("/sys/devices/system/cpu/cpufreq/policy0").exists():
        assert np.isnan(rows["cpu_clock_hz"]).all()


SAMPLING = """
import sys, time
from pathlib import Path
from alpenglow_profiling.sampler import Sampler
Sampler(Path(sys.argv[1]), "h1", period_s=0.01, flush_s=0.0)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The log of a process that was killed while it sampled."""
    folder = tmp_path_factory.mktemp("killed")
    paths = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", SAMPLING, folder], env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        wait_for_bytes(log_path(folder, "h1"), 12 * (SAMPLE.itemsize + HEADER_BYTES))
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    return log_path(folder, "h1").read_bytes()


def test_a_kill_loses_what_was_not_written(killed: bytes, tmp_path: Path) -> None:
    path = log_path(tmp_path, "h1")
    path.write_bytes(killed)
    whole = read(tmp_path)
    assert whole.damages == ()
    assert len(whole.rows) >= 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h1.h5", "h1.log"]
    path.unlink()  # the log is not needed any more
    assert read(tmp_path).rows.tobytes() == whole.rows.tobytes()


def test_a_cut_at_any_byte_gives_back_every_whole_block(killed: bytes, tmp_path: Path) -> None:
    path = log_path(tmp_path, "h1")
    path.write_bytes(killed)
    rows = len(read(tmp_path).rows)
    (tmp_path / "h1.h5").unlink()
    block = HEADER_BYTES + SAMPLE.itemsize  # without delay, each sample is a block
    for cut in (1, HEADER_BYTES, block - 1, block, block + 1):
        path.write_bytes(killed[:-cut])
        found = read(tmp_path)
        left = rows - (1 if cut <= block else 2)
        assert len(found.rows) == left
        assert len(found.damages) == (0 if cut == block else 1)
        (tmp_path / "h1.h5").unlink()
    # A rank that starts again appends to what was cut.
    path.write_bytes(killed[:-1] + killed)
    found = read(tmp_path)
    assert len(found.rows) == 2 * rows - 1
    assert "bytes belong to no whole block" in found.damages[0]


def write(folder: Path, node: str, rows: np.ndarray[Any, np.dtype[np.void]]) -> None:
    """A node's log, by the writer itself."""
    log = SampleLogFile(log_path(folder, node), About(node, folder.name, 1.0, 4))
    log.write(rows)
    log.close()


def rows_of(device: int, times_s: Any, **columns: Any) -> np.ndarray[Any, np.dtype[np.void]]:
    rows = np.repeat(UNKNOWN, len(times_s))
    rows["device"] = device
    rows["monotonic_ns"] = np.asarray(times_s) * SECOND
    rows["wall_ns"] = rows["monotonic_ns"] + 1_700_000_000 * SECOND
    for name, values in columns.items():
        rows[name] = values
    return rows


def test_a_second_start_keeps_what_was_put_away(tmp_path: Path) -> None:
    write(tmp_path, "h1", rows_of(HOST, range(3), load=1))
    merge(tmp_path, remove_log=True)
    write(tmp_path, "h1", rows_of(HOST, range(10, 12), load=2))
    assert read(tmp_path).rows["load"].tolist() == [1, 1, 1, 2, 2]
    merge(tmp_path, remove_log=True)
    assert read(tmp_path).rows["load"].tolist() == [1, 1, 1, 2, 2]


def test_a_wall_clock_that_is_set_moves_no_sample(tmp_path: Path) -> None:
    rows = rows_of(HOST, range(9))
    rows["wall_ns"][7:] -= 3600 * SECOND
    write(tmp_path, "h1", rows)
    assert np.diff(read(tmp_path).rows["time_ns"]).tolist() == [SECOND] * 8


def test_bad_files_are_named_and_the_others_read(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="no such folder of samples"):
        read(tmp_path / "nowhere")
    write(tmp_path, "good", rows_of(HOST, range(3)))
    (tmp_path / "empty.log").touch()
    (tmp_path / "text.h5").write_text("no HDF5")
    write(tmp_path, "later", rows_of(HOST, range(3)))
    merge(tmp_path, node="later", remove_log=True)
    with h5py.File(tmp_path / "later.h5", "r+") as file:
        file.attrs["format_version"] = 9
    found = read(tmp_path)
    assert found.nodes == ("good",)
    assert len(found.damages) == 3
    for text in (
        "empty.log: no whole block, 0 bytes",
        "text.h5: not a readable file of samples: ",
        "later.h5: not a readable file of samples: format version 9, this code reads 1",
    ):
        assert any(text in damage for damage in found.damages)


def test_what_cannot_be_written_ends_the_sampling_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Sampler(tmp_path / "file", "h1")


def powercap(root: Path, name: str, zone: str, energy: int, largest: int = 1000_000) -> Path:
    folder = root / "sys/class/powercap" / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{largest}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    return folder / "energy_uj"


def sample(host: Host, second: int) -> Any:
    row = UNKNOWN.copy()[0]
    row["monotonic_ns"] = second * SECOND
    host.sample(row)
    return row


def test_counters_of_packages_are_summed_and_unwrapped(tmp_path: Path) -> None:
    one = powercap(tmp_path, "package-0", "intel-rapl:0", 900_000)
    two = powercap(tmp_path, "dram", "intel-rapl:0:1", 100_000)
    powercap(tmp_path, "core", "intel-rapl:0:0", 1)
    powercap(tmp_path, "psys", "intel-rapl:1", 1)
    for number in range(9):
        folder = tmp_path / f"sys/devices/system/cpu/cpufreq/policy{number}"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{2_000_000 + number * 1000}\n")
    host = Host(root=tmp_path)
    first = sample(host, 1)
    assert (first["energy_j"], host.notes) == (1.0, [])
    assert np.isnan(first["power_w"])
    assert first["cpu_clock_hz"] == np.float32((2_000_000 + 3000) * 1e3)  # of 0, 3 and 6
    one.write_text("50000\n")  # 900,000 -> 1,000,000 = 0 -> 50,000
    two.write_text("350000\n")
    second = sample(host, 3)
    assert second["energy_j"] == pytest.approx(1.4)
    assert second["power_w"] == np.float32(0.2)
    assert np.isnan(second["cpu_busy"])  # there is no /proc here
    assert np.isnan(second["memory_bytes"])


def test_counters_that_may_not_be_read_are_one_note(tmp_path: Path) -> None:
    file = powercap(tmp_path, "package-0", "intel-rapl:0", 1)
    file.unlink()
    file.mkdir()
    host = Host(root=tmp_path)
    assert np.isnan(sample(host, 1)["energy_j"])
    assert np.isnan(sample(host, 2)["energy_j"])
    assert host.notes == [
        "the energy of the host is not known: RAPL cannot be read: Is a directory"
    ]


def test_energy_by_counter_power_or_not_at_all(tmp_path: Path) -> None:
    t = np.arange(10)
    nan = np.nan
    counters = np.array([5e6, nan, nan, *(5e6 + 300 * np.arange(3, 8)), nan, nan])
    reset = np.array([700.0, 800, 900, 1000, 50, 150, 250, 350, 450, 550])
    rows = [
        rows_of(HOST, t),
        rows_of(0, t, energy_j=1e9 + 250.0 * t, power_w=999),  # the counter comes first
        rows_of(1, t, energy_j=counters, power_w=300),  # unknown at the end: there by power
        rows_of(2, t, energy_j=reset, power_w=100),
        rows_of(3, [0, 1, 2, 3, 60, 61], power_w=[100, 200, 100, 200, 100, 200]),
        rows_of(4, t, energy_j=[nan, 7, *[nan] * 8]),
        rows_of(5, [4], energy_j=1, power_w=100),
        rows_of(6, [0, 1, 2, 600], energy_j=[0, 100, 200, 60_000]),  # a gap is no loss here
    ]
    write(tmp_path, "h1", np.concatenate(rows))
    write(tmp_path, "h2", rows_of(0, t, energy_j=2.0 * t))
    write(tmp_path, "h3", rows_of(HOST, t))
    samples = read(tmp_path)
    found = {(one.node, one.device): one for one in energy(samples)}
    expected: dict[int, tuple[float, str, float, int]] = {
        0: (9 * 250, "counter", 9, 0),
        1: (9 * 300, "counter and power", 9, 0),
        2: (9 * 100, "counter and power", 9, 1),
        3: (3 * 150 + 150, "power", 4, 0),
        6: (60_000, "counter", 600, 0),
    }
    for device, (joules, how, covered, resets) in expected.items():
        one = found["h1", device]
        assert one.joules == pytest.approx(joules), device
        assert (one.how, one.resets) == (how, resets)
        assert one.covered_s == pytest.approx(covered)
    for device in (HOST, 4, 5):
        one = found["h1", device]
        assert (one.how, one.covered_s, np.isnan(one.joules)) == ("unknown", 0, True)
    h1, h2, h3 = energy_mwh(samples)
    total = sum(joules for joules, *_ in expected.values())
    assert h1.mwh == pytest.approx(total / J_PER_MWH)
    assert (h1.how, h1.unknown) == ("counter and power", (HOST, 4, 5))
    assert h2.mwh == pytest.approx(18 / J_PER_MWH)
    assert (h2.how, h2.unknown) == ("counter", ())
    assert np.isnan(h3.mwh)
    assert h3.how == "unknown"


def test_the_power_curve_is_a_sum_of_means(tmp_path: Path) -> None:
    t = np.arange(0, 20, 0.5)  # the wall clock begins at a multiple of 10 s
    write(
        tmp_path,
        "h1",
        np.concatenate([rows_of(0, t, power_w=200), rows_of(1, t, power_w=100 + 10 * (t >= 10))]),
    )
    write(tmp_path, "h2", rows_of(0, t[:20:5], power_w=40))
    curve = power_curve(read(tmp_path), period_s=10)
    assert curve["power_w"].tolist() == pytest.approx([340, 310])
    assert curve["devices"].tolist() == [3, 2]
    assert np.diff(curve["time_ns"]).tolist() == [10 * SECOND]
    write(tmp_path, "h3", rows_of(HOST, t))
    (tmp_path / "h4.h5").write_text("no HDF5")
    found = segment_power(tmp_path, period_s=10)
    assert found.curve.tobytes() == curve.tobytes()
    everything = read(tmp_path)
    assert [node.node for node in found.nodes] == ["h1", "h2", "h3"]
    assert found.nodes[:2] == energy_mwh(everything)[:2]
    assert found.mwh == sum(node.mwh for node in found.nodes[:2])
    assert found.damages == everything.damages
    assert len(found.damages) == 1


def test_nodes_one_by_one_are_the_same_as_together(tmp_path: Path) -> None:
    rows = np.concatenate([rows_of(d, range(50), power_w=d, load=3) for d in (1, HOST, 0)])
    for name in ("h2", "h1"):
        write(tmp_path, name, rows[np.argsort(rows["monotonic_ns"], kind="stable")])
    merge(tmp_path, node="h1", remove_log=True)
    (tmp_path / "h0.log").write_bytes(b"x" * 99)
    together = read(tmp_path)
    assert together.nodes == ("h1", "h2")
    keys = np.stack([together.rows[name] for name in ("node", "device", "time_ns")])
    assert (np.lexsort(keys[::-1]) == np.arange(300)).all()
    for columns in (None, ("power_w",)):
        parts = list(each(tmp_path, columns))
        assert [part.nodes for part in parts] == [(), ("h1",), ("h2",)]
        assert parts[0].damages == together.damages
        for number, part in enumerate(parts[1:]):
            own = together.rows[together.rows["node"] == number]
            for name in part.rows.dtype.names or ():
                if name != "node":
                    assert part.rows[name].tolist() == pytest.approx(
                        own[name].tolist(), nan_ok=True
                    )
            assert ("load" in (part.rows.dtype.names or ())) == (columns is None)
