"""Numbers as people read them: with a unit, and no more digits than they carry."""

from __future__ import annotations

import math


def count(value: float) -> str:
    """An amount with its SI prefix: 4.19 M, 73.3 k, 812."""
    if not math.isfinite(value):
        return "unknown"
    for factor, prefix in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= factor:
            scale = 1e3 if prefix == " k" else factor
            return f"{value / scale:.3g}{prefix}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def size(value: float) -> str:
    """Bytes with their prefix, decimal: 3.82 TB, 12.3 kB, 812 B."""
    text = count(value)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def billions(value: float) -> str:
    """Parameters and tokens in the field's words: 6.86 billion, 120 million."""
    for factor, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {word}"
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """A duration: 12 ms, 3.42 s, 4 min 10 s, 2 h 05 min."""
    if not math.isfinite(value):
        return "unknown"
    if value < 1:
        return f"{1e3 * value:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    whole = round(value)
    if value < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def hours(value: float) -> str:
    """Hours of nodes, GPUs or ranks: 0.0231, 4.52, 128, 12,288."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def work(ns: float, of: float, unit: str) -> str:
    """Time of ranks or GPUs: hours, or seconds where all of it, `of` ns, is under ten hours."""
    if of >= 3.6e13:
        return f"{hours(ns / 3.6e12).replace('-', '−')} {unit}-hours"
    if 0 < abs(ns) < 1e6:
        return f"{'<' if ns > 0 else '> −'} 0.001 {unit}-s".replace("− ", "−")
    text = f"{ns / 1e9:,.0f}" if ns >= 1e11 else f"{ns / 1e9:.3g}"
    return f"{text.replace('-', '−')} {unit}-s"


def percent(fraction: float) -> str:
    """A share: 41.3 %, 0.02 %, 0 %; the space does not break."""
    value = 100 * fraction
    if value == 0:
        return "0\u00a0%"
    if abs(value) < 0.001:
        return "<\u00a00.001\u00a0%" if value > 0 else ">\u00a0−0.001\u00a0%"
    text = f"{value:.1f}" if abs(value) >= 0.1 else f"{value:.2g}"
    return f"{text.replace('-', '−')}\u00a0%"


def amount(value: float) -> str:
    """A number of equivalents: 30.3, 0.0335, 1,779; one that is all but none reads as that."""
    if abs(value) < 0.001:
        return "0" if value == 0 else "< 0.001" if value > 0 else "> −0.001"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")
