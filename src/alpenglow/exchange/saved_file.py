"""Reading other programs' `.pt` files without running anything that is in them.

`torch.load(weights_only=True)` makes tensors and plain values only. DeepSpeed's optimizer files
also hold instances of four small classes; stand-ins without behaviour take their place, so that
neither DeepSpeed nor any code named in the file is called. This module is imported, never started.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from alpenglow.exchange.error import ExchangeError


class Fields:
    """What an object of a file held; attributes, no behaviour."""

    def __init__(self, *values: object) -> None:
        self.values = values


_STAND_INS = [
    "deepspeed.utils.tensor_fragment.fragment_address",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
]


def read(path: Path) -> Any:
    """Read a `.pt` file onto the CPU.

    Raises:
        ExchangeError: it is absent or damaged, or asks for anything but tensors, plain values and
            the four classes.
    """
    try:
        stand_ins = torch.serialization.safe_globals([(Fields, name) for name in _STAND_INS])
        with stand_ins, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at pickle protocols that torch itself does not write
            return torch.load(path, map_location="cpu", weights_only=True)
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
