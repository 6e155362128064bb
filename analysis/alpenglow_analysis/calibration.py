"""What measured runs taught about a machine: a few factors on its file, and how sure they are.

A calibration is a TOML file that `alpenglow plan calibrate` writes and every other `alpenglow plan`
command takes with --calibration. Torch-free.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import tomli_w

from alpenglow.config import ConfigError, parse
from alpenglow.parallel.collectives import Library
from alpenglow.parallel.framework import Framework
from alpenglow.parallel.hardware import Hardware
from alpenglow.parallel.step_cost import StepCost
from alpenglow.parallel.step_parts import updates
from alpenglow_lsf.files import write_text

UNCALIBRATED = 0.15
"""Half of the 90 % interval of a step that is predicted from a machine file alone.

Of 295 published steps that set no constant, on A100s and V100s, nine in ten are off by no more
than 14.5 % (`python -m alpenglow.parallel.validation`, its last line); rounded up. They lean to one
side: nine in ten took between 8 % less and 21 % more time than predicted.
"""

FACTORS = ("rate", "memory", "operation", "host", "inside", "network", "latency", "update")
MEANINGS = {
    "rate": "share of the file's FLOP rate that matrix products reach",
    "memory": "share of the file's memory bandwidth that kernels reach",
    "operation": "least time of a kernel, in units of the file's",
    "host": "time in which the host starts an operation, in units of the file's",
    "inside": "share of the file's bandwidth of links inside a node",
    "network": "share of the file's bandwidth between nodes",
    "latency": "latency of messages and collectives, in units of the file's",
    "update": "bytes that the optimizer moves, in units of a fused Adam's",
    "beside": "speed of a core while all cores are busy, that of one alone being 1",
}


@dataclass(frozen=True)
class Calibration:
    """Factors on a machine file; 1 leaves a number as it is there.

    Args:
        machine: name of the machine that was measured.
        source: the run or runs.
        rate: share of the file's FLOP rate that products reach (fused attention and the cache's
            bandwidth scale with it).
        memory: share of its memory bandwidth that kernels reach.
        operation: least time of a kernel, in units of the file's `kernel_seconds`.
        host: time in which the host starts an operation, in units of `host_seconds`.
        inside: share of the file's bandwidths of links inside a node.
        network: share of its bandwidths between nodes.
        latency: latency of a message or collective, in units of the file's (or NCCL's own).
        update: bytes that the optimizer moves, in units of a fused Adam's.
        rest_s: seconds of a step that are in no pass, message, reduction or optimizer: engine,
            guard, the loss on its way to all.
        beside: on CPU ranks, speed of a core while all cores are busy; that of one alone is 1.
        error: half of the 90 % interval of a step predicted with it, as a share.
        kept: factors that the runs could not determine, by the reason.
    """

    machine: str
    source: str
    rate: float = 1.0
    memory: float = 1.0
    operation: float = 1.0
    host: float = 1.0
    inside: float = 1.0
    network: float = 1.0
    latency: float = 1.0
    update: float = 1.0
    rest_s: float = 0.0
    beside: float = 1.0
    error: float = UNCALIBRATED
    kept: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for name in (*FACTORS, "beside"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name)} should be above 0")
        if self.beside > 1:
            raise ValueError(f"beside = {self.beside} is a share, at most 1")
        if not 0 <= self.rest_s < float("inf"):
            raise ValueError(f"rest_s = {self.rest_s} should be 0 or more")
        if not 0 <= self.error < 1:
            raise ValueError(f"error = {self.error} should be 0 or more and below 1")

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read a file.

        Raises:
            ConfigError: no such file, or not a calibration.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
        return parse(cls, tables, str(path))

    def write(self, path: Path) -> None:
        """Write a file that `read` takes."""
        tables: dict[str, Any] = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value is not None:
                tables[spec.name] = float(f"{value:.6g}") if isinstance(value, float) else value
        write_text(path, tomli_w.dumps(tables))

    def applied(self, hardware: Hardware) -> Hardware:
        """The machine with the factors on it."""
        gpu, site, library = hardware.gpu, hardware.site, hardware.library
        gpu = replace(
            gpu,
            rate=self.rate * gpu.rate,
            cache_bandwidth=self.rate * gpu.cache_bandwidth,
            bandwidth=self.memory * gpu.bandwidth,
            kernel_s=self.operation * gpu.kernel_s,
            fill_s=self.operation * gpu.fill_s,
            host_s=self.host * gpu.host_s,
        )
        site = replace(
            site,
            nvlink=self.inside * site.nvlink,
            bus=None if site.bus is None else self.inside * site.bus,
            network=self.network * site.network,
            port=self.network * site.port,
        )
        library = Library(
            library.gloo,
            *(
                self.latency * value
                for value in (library.start, library.nvlink, library.bus, library.network)
            ),
        )
        return replace(hardware, gpu=gpu, site=site, library=library)

    def finished(self, cost: StepCost, how: Framework) -> StepCost:
        """A step's cost with what measured steps have beside its parts; it counts as optimizer."""
        more = self.rest_s
        if self.update != 1:
            more += (self.update - 1) * max(updates(cost, how))
        return replace(cost, seconds=cost.seconds + more, optimizer=cost.optimizer + more)
