"""Options that the real command has and its stand-in does not: refused by name, not as unknown."""

from __future__ import annotations

from alpenglow_lsf.options import OptionError, Parsed


def refuse_not_emulated(found: Parsed, program: str) -> None:
    """Refuse the first such option.

    Raises:
        OptionError: it was given.
    """
    for option, _ in found:
        if not option.emulated:
            raise OptionError(f"{program}: {option.name} is not emulated on this computer")
