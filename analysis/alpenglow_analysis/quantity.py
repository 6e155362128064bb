"""Numbers as JSON: with their unit, and with what they are measured against."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def quantity(value: float, unit: str, baseline: str) -> dict[str, Any]:
    """A number with its unit and what it is measured against."""
    return {"value": plain(value), "unit": unit, "baseline": baseline}


def plain(value: Any) -> Any:
    """A number as JSON knows it: what is not finite is null."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
