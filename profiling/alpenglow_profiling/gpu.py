"""GPUs of a node through NVML, by the driver's own library (`libnvidia-ml.so.1`) and ctypes.

Loaded only when a `Nvml` is made; nothing needs to be installed, and a driver too old for a call
lacks that column alone. Signatures and numbers are those of NVIDIA's NVML API reference. What
`utilisation` is: the share of the driver's own sample window (1 s or less) in which any kernel ran,
so a rank that spins in a collective counts as busy; the power tells more of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

LIBRARY = "libnvidia-ml.so.1"

_SM_CLOCK, _MEMORY_CLOCK = 1, 2  # nvmlClockType_t
_CORE_SENSOR = 0  # nvmlTemperatureSensors_t
_NEVER = frozenset({3, 4, 13})
"""nvmlReturn_t: not supported, no permission, function not found: asking again is of no use."""
_NO_FUNCTION = 13

THROTTLE_REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap (software)",
    0x8: "slowdown (hardware)",
    0x10: "sync boost",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake (hardware)",
    0x100: "display clocks",
}
"""Bit -> why clocks are below their highest (nvmlClocksThrottleReason*)."""


class NvmlError(RuntimeError):
    """There is no NVML to be had; the message is one sentence."""


class _Utilisation(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


@dataclass(frozen=True)
class _Field:
    """How one column is asked for."""

    column: str
    names: tuple[str, ...]
    """Functions that give it: the first that the library has."""
    result: type[Any]
    value: Callable[[Any], float]
    """The result in the column's unit."""
    before: tuple[int, ...] = ()
    """Arguments between the device and the result."""


_FIELDS = (
    _Field(
        "utilisation",
        ("nvmlDeviceGetUtilizationRates",),
        _Utilisation,
        lambda found: found.gpu / 100,
    ),
    _Field("power_w", ("nvmlDeviceGetPowerUsage",), ctypes.c_uint, lambda mw: mw.value / 1e3),
    _Field(
        "energy_j",
        ("nvmlDeviceGetTotalEnergyConsumption",),
        ctypes.c_ulonglong,
        lambda mj: mj.value / 1e3,
    ),
    _Field(
        "sm_clock_hz",
        ("nvmlDeviceGetClockInfo",),
        ctypes.c_uint,
        lambda mhz: mhz.value * 1e6,
        (_SM_CLOCK,),
    ),
    _Field(
        "memory_clock_hz",
        ("nvmlDeviceGetClockInfo",),
        ctypes.c_uint,
        lambda mhz: mhz.value * 1e6,
        (_MEMORY_CLOCK,),
    ),
    _Field("memory_bytes", ("nvmlDeviceGetMemoryInfo",), _Memory, lambda found: found.used),
    _Field(
        "temperature_c",
        ("nvmlDeviceGetTemperature",),
        ctypes.c_uint,
        lambda found: found.value,
        (_CORE_SENSOR,),
    ),
    _Field(
        "throttle",
        (
            "nvmlDeviceGetCurrentClocksThrottleReasons",
            "nvmlDeviceGetCurrentClocksEventReasons",  # its name since driver 535
        ),
        ctypes.c_ulonglong,
        lambda mask: mask.value,
    ),
)


class Nvml:
    """All GPUs that the driver shows on this node, whichever of them a rank uses.

    Args:
        library: name or path of NVML's library.

    Raises:
        NvmlError: there is none, or it does not start (no driver, no GPU).
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise NvmlError(f"no GPU is sampled: {error}") from None
        self._start()
        self.notes: list[str] = []
        """Sentences about what could not be read, each once; whoever writes them empties it."""
        self._handles: list[ctypes.c_void_p] = []
        self.devices: tuple[dict[str, Any], ...] = tuple(self._find())
        """index, name and uuid of each GPU."""
        self._fields = [
            (field, function)
            for field in _FIELDS
            if (function := self._function(field.names)) is not None
        ]
        self._never: set[tuple[int, str]] = set()
        self._told: set[tuple[int, str, int]] = set()

    def _start(self) -> None:
        init = getattr(self._library, "nvmlInit_v2", None)
        code = _NO_FUNCTION if init is None else int(init())
        if code:
            raise NvmlError(f"no GPU is sampled: NVML does not start: {self._error(code)}")

    def _find(self) -> list[dict[str, Any]]:
        count = ctypes.c_uint(0)
        code = int(self._library.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        if code:
            raise NvmlError(f"no GPU is sampled: NVML does not count them: {self._error(code)}")
        found = []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            code = int(
                self._library.nvmlDeviceGetHandleByIndex_v2(
                    ctypes.c_uint(index), ctypes.byref(handle)
                )
            )
            if code:
                self.notes.append(f"GPU {index} is not sampled: {self._error(code)}")
                continue
            self._handles.append(handle)
            found.append(
                {
                    "index": index,
                    "name": self._text("nvmlDeviceGetName", handle),
                    "uuid": self._text("nvmlDeviceGetUUID", handle),
                }
            )
        return found

    def _function(self, names: tuple[str, ...]) -> Any:
        for name in names:
            function = getattr(self._library, name, None)
            if function is not None:
                return function
        self.notes.append(f"this driver's NVML has no {names[0]}")
        return None

    def _text(self, name: str, handle: ctypes.c_void_p) -> str:
        function = getattr(self._library, name, None)
        buffer = ctypes.create_string_buffer(96)
        if function is None or function(handle, buffer, ctypes.c_uint(len(buffer))):
            return ""
        return buffer.value.decode(errors="replace")

    def _error(self, code: int) -> str:
        function = getattr(self._library, "nvmlErrorString", None)
        if function is None:
            return f"NVML error {code}"
        function.restype = ctypes.c_char_p
        return str((function(ctypes.c_int(code)) or b"").decode(errors="replace"))

    def sample(self, rows: np.ndarray[Any, np.dtype[np.void]]) -> None:
        """Read every GPU.

        Args:
            rows: dtype `SAMPLE`, one for each of `devices`, in which nothing is known; filled in.
        """
        for row, device, handle in zip(rows, self.devices, self._handles, strict=True):
            index = int(device["index"])
            row["device"] = index
            for field, function in self._fields:
                if (index, field.column) in self._never:
                    continue
                result = field.result()
                before = [ctypes.c_uint(number) for number in field.before]
                code = int(function(handle, *before, ctypes.byref(result)))
                if code == 0:
                    row[field.column] = field.value(result)
                else:
                    self._failed(index, field.column, code)

    def _failed(self, index: int, column: str, code: int) -> None:
        if code in _NEVER:
            self._never.add((index, column))
        if (index, column, code) not in self._told:
            self._told.add((index, column, code))
            self.notes.append(f"GPU {index}: {column} is not known: {self._error(code)}")

    def close(self) -> None:
        """Give the library back."""
        self._library.nvmlShutdown()
