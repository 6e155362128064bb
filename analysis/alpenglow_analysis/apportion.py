"""A whole number divided in given proportions, to the last unit."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Divide `total` by the method of largest remainders (Hamilton): the parts sum to it exactly.

    Args:
        total: what is divided, such as ns.
        weights: proportions; they need not sum to 1, some may be negative, all finite.

    Raises:
        ValueError: the weights sum to nothing, so that no proportion is given.
    """
    exact = {key: Fraction(weight) for key, weight in weights.items()}
    whole = sum(exact.values(), Fraction(0))
    if not whole:
        raise ValueError("weights that sum to 0 divide nothing")
    parts = {key: total * weight / whole for key, weight in exact.items()}
    found = {key: part.numerator // part.denominator for key, part in parts.items()}
    missing = total - sum(found.values())
    order = sorted(parts, key=lambda key: parts[key] - found[key], reverse=True)
    for key in order[:missing]:
        found[key] += 1
    return found
