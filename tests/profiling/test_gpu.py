"""GPUs through NVML: the real loader on a real absence, a compiled stand-in, and a real driver."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from alpenglow_profiling import sampler
from alpenglow_profiling.energy import energy_mwh
from alpenglow_profiling.gpu import LIBRARY, Nvml, NvmlError
from alpenglow_profiling.sample_log import SAMPLE, UNKNOWN
from alpenglow_profiling.sampler import NodeReader, Sampler
from alpenglow_profiling.samples import HOST, merge, read

SOURCE = Path(__file__).parents[1] / "support/nvml_stand_in.c"


def driver() -> bool:
    """Whether this machine has NVML."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvml")


def stand_in(folder: Path, *options: str) -> str:
    """Compile the stand-in; returns its path."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here to compile the stand-in for NVML")
    path = folder / f"nvml{''.join(options)}.so"
    if not path.exists():
        subprocess.run(["gcc", "-shared", "-fPIC", *options, "-o", path, SOURCE], check=True)
    return str(path)


@pytest.mark.skipif(driver(), reason="this machine has NVML, so its absence cannot be tested")
def test_without_a_driver_there_are_no_gpus_and_one_note() -> None:
    with pytest.raises(NvmlError, match=r"^no GPU is sampled: libnvidia-ml\.so\.1: cannot open"):
        Nvml()
    reader = NodeReader()
    assert len(reader.take()) == 1
    assert [note for note in reader.take_notes() if "GPU" in note]
    reader.take()
    assert reader.take_notes() == []
    reader.close()


def test_a_driver_that_does_not_start(folder: Path) -> None:
    with pytest.raises(NvmlError, match="NVML does not start: Driver Not Loaded"):
        Nvml(stand_in(folder, "-DNO_DRIVER"))


def test_something_that_is_no_nvml(folder: Path) -> None:
    (folder / "text.so").write_text("no library")
    with pytest.raises(NvmlError, match="no GPU is sampled: "):
        Nvml(str(folder / "text.so"))
    with pytest.raises(NvmlError, match="NVML does not start: NVML error 13"):
        Nvml("libc.so.6")


def test_every_column_in_its_unit_and_the_rest_unknown(folder: Path) -> None:
    nvml = Nvml(stand_in(folder))
    assert [(d["index"], d["name"], d["uuid"]) for d in nvml.devices] == [
        (0, "first", "GPU-0"),
        (1, "second", "GPU-1"),
    ]
    readings = []
    for _ in range(3):
        rows = np.repeat(UNKNOWN, 2)
        nvml.sample(rows)
        readings.append(rows)
    first, second = readings[0]
    assert first["device"] == 0
    assert first["utilisation"] == np.float32(0.87)
    assert first["power_w"] == np.float32(251.5)
    assert [rows["energy_j"][0] for rows in readings] == [5001.0, 5002.0, 5003.0]
    assert first["sm_clock_hz"] == np.float32(1530e6)
    assert first["memory_clock_hz"] == np.float32(877e6)
    assert first["memory_bytes"] == 9 << 30
    assert first["temperature_c"] == 61
    assert (first["throttle"], second["throttle"]) == (0x44, 1)
    assert second["utilisation"] == 0
    assert math.isnan(second["energy_j"])
    assert math.isnan(second["power_w"])
    # A column of the host is none of a GPU's, and a reading that failed once comes back.
    assert math.isnan(first["cpu_busy"])
    assert [math.isnan(rows["temperature_c"][1]) for rows in readings] == [False, True, False]
    assert sorted(nvml.notes) == [
        "GPU 1: energy_j is not known: Not Supported",
        "GPU 1: power_w is not known: Insufficient Permissions",
        "GPU 1: temperature_c is not known: GPU is lost",
    ]
    nvml.close()


def test_an_old_driver_lacks_a_column(folder: Path) -> None:
    nvml = Nvml(stand_in(folder, "-DOLD"))
    assert nvml.notes == ["this driver's NVML has no nvmlDeviceGetTotalEnergyConsumption"]
    rows = np.repeat(UNKNOWN, 2)
    nvml.sample(rows)
    assert np.isnan(rows["energy_j"]).all()
    assert rows["power_w"][0] == np.float32(251.5)


def test_gpus_of_a_node_in_its_file(folder: Path, tmp_path: Path) -> None:
    sampling = Sampler(tmp_path, "h1", period_s=0.01, flush_s=0.0, library=stand_in(folder))
    for _ in range(1000):
        if sampling.path.stat().st_size > 12 * SAMPLE.itemsize:
            break
        time.sleep(0.01)
    sampling.close()
    assert sampling.failure is None
    merge(tmp_path, node="h1", remove_log=True)
    samples = read(tmp_path)
    assert [device["uuid"] for device in samples.about[0].devices] == ["GPU-0", "GPU-1"]
    assert sorted(set(samples.rows["device"])) == [HOST, 0, 1]
    assert "h1: GPU 1: energy_j is not known: Not Supported" in samples.notes
    (node,) = energy_mwh(samples)
    by_device = {device.device: device for device in node.devices}
    count = int((samples.rows["device"] == 0).sum())
    assert count > 2
    assert (by_device[0].joules, by_device[0].how) == (count - 1, "counter")
    assert 1 in node.unknown


def test_a_driver_that_never_answers_holds_no_shutdown_up(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "LEAVE_S", 0.3)
    hung = Sampler(tmp_path, "h1", library=stand_in(folder, "-DHANGS"))
    hung.close()
    assert hung.failure is not None
    assert hung.failure.endswith("the driver does not answer, the last samples are missing")
    assert read(tmp_path).damages == ()


@pytest.mark.gpu
@pytest.mark.skipif(not driver(), reason="no NVIDIA driver here, so no real GPU can be sampled")
def test_a_real_gpu() -> None:
    nvml = Nvml()
    rows = np.repeat(UNKNOWN, len(nvml.devices))
    nvml.sample(rows)
    assert len(rows) >= 1
    assert [row["device"] for row in rows] == [device["index"] for device in nvml.devices]
    known = {name: np.isfinite(rows[name]).all() for name in ("utilisation", "memory_bytes")}
    for name, good in known.items():
        assert good or any(name in note for note in nvml.notes)
    assert ((rows["utilisation"] >= 0) & (rows["utilisation"] <= 1) | ~known["utilisation"]).all()
    before = rows["energy_j"].copy()
    nvml.sample(rows)
    assert (np.isnan(before) | (rows["energy_j"] >= before)).all()
    nvml.close()
