"""What a measured run taught about a machine: a few factors on its file, and how sure they are.

A calibration is a TOML file that `alpenglow plan calibrate` writes and every other `alpenglow plan`
command takes with --calibration. Torch-free.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from alpenglow.config import ConfigError, parse
from alpenglow.parallel.framework import Framework
from alpenglow.parallel.hardware import Hardware

UNCALIBRATED = 0.15
"""Half of the 90 % interval of a step that is predicted from a machine file alone.

Of 295 published steps that set no constant, on A100s and V100s, nine in ten are off by no more
than 14.5 % (`python -m alpenglow.parallel.validation`, its last line); rounded up. They lean to one
side: nine in ten took between 8 % less and 21 % more time than predicted.
"""


@dataclass(frozen=True)
class Calibration:
    """Factors on a machine file.

    Args:
        machine: name of the machine that was measured.
        source: the run or runs.
        efficiency: share of the file's rates that products and kernels reach.
        host: the file's `host_seconds` times this.
        links: share of the file's bandwidths that messages and collectives reach.
        error: half of the 90 % interval of a step predicted with it, as a share.
    """

    machine: str
    source: str
    efficiency: float = 1.0
    host: float = 1.0
    links: float = 1.0
    error: float = UNCALIBRATED

    def __post_init__(self) -> None:
        for name in ("efficiency", "host", "links"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)} should be above 0")
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

    def applied(self, hardware: Hardware, how: Framework) -> tuple[Hardware, Framework]:
        """Machine and framework with the factors on them."""
        gpu = replace(hardware.gpu, host_s=self.host * hardware.gpu.host_s)
        site = hardware.site
        site = replace(
            site,
            nvlink=self.links * site.nvlink,
            bus=None if site.bus is None else self.links * site.bus,
            network=self.links * site.network,
            port=self.links * site.port,
        )
        return (
            replace(hardware, gpu=gpu, site=site),
            replace(how, efficiency=self.efficiency * how.efficiency, note=""),
        )
