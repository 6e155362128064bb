"""Reading other programs' `.pt` files without running anything that is in them.

`torch.load(weights_only=True)` makes tensors and plain values only. DeepSpeed's optimizer files
also hold instances of four small classes, GPT-NeoX's engine files numpy's random state, and layers
of Transformer Engine a buffer of bytes; stand-ins without behaviour take their place, so that
neither DeepSpeed nor any code named in the file is called. This module is imported, never started.
"""

from __future__ import annotations

import pickle
import re
import threading
import warnings
from pathlib import Path
from typing import Any

import torch

from alpenglow.exchange.error import ExchangeError


class Fields:
    """What an object of a file held; attributes, no behaviour."""

    def __init__(self, *values: object) -> None:
        self.values = values


class Opaque(Fields):
    """What an object of a file that nobody here needs would be made of."""

    def __setstate__(self, state: object) -> None:
        """Keep it as it is, whatever it is."""
        self.state = state


_STAND_INS: list[tuple[type, str]] = [
    (Fields, "deepspeed.utils.tensor_fragment.fragment_address"),
    (Fields, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (Fields, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (Fields, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (Opaque, "numpy.core.multiarray._reconstruct"),
    (Opaque, "numpy._core.multiarray._reconstruct"),
    (Opaque, "numpy.core.multiarray.scalar"),
    (Opaque, "numpy._core.multiarray.scalar"),
    (Opaque, "numpy.ndarray"),
    (Opaque, "numpy.dtype"),
    (Opaque, "_io.BytesIO"),
]
_ZIP = b"PK\x03\x04"
_lock = threading.Lock()  # torch keeps the list of stand-ins in one place for all threads


def read(path: Path) -> Any:
    """Read a `.pt` file onto the CPU; may be called from several threads at once.

    Tensors of a zip file (what torch has written since 1.6) are mapped, so that only bytes that
    are looked at are read, and only while the tensors live. An older file is read whole.

    Raises:
        ExchangeError: it is absent or damaged, or asks for anything but tensors, plain values and
            the classes that stand-ins are known for.
    """
    try:
        with path.open("rb") as file:
            mapped = file.read(len(_ZIP)) == _ZIP
        stand_ins = torch.serialization.safe_globals(_STAND_INS)  # type: ignore[arg-type]
        with _lock, stand_ins, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at pickle protocols that torch itself does not write
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise ExchangeError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)|`?([\w.]+)`? was not an allowed global", str(error))
        asked = next((name for name in named.groups() if name), None) if named else None
        if asked is None:
            raise ExchangeError(f"{path}: not a file of tensors and plain values") from None
        raise ExchangeError(
            f"{path}: refused: it asks for {asked}, which could run code; only tensors and plain "
            "values are read"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        text = " ".join(str(error).split()).partition(". ")[0]
        raise ExchangeError(f"{path}: damaged ({text})") from None


def scaler_numbers(scaler: Any) -> dict[str, Any] | None:
    """The numbers of a dynamic loss scale read from a file; None where it is none."""
    if not getattr(scaler, "dynamic", False):
        return None
    names = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
    return {name: getattr(scaler, name) for name in names}
