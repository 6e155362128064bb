"""A call that fails so many times: workers import it, so it stands in no test file."""

from __future__ import annotations

from pathlib import Path

from alpenglow.data.document import DataError


def write(folder: str, name: str, fails: int) -> str:
    """Fail so many times, then give the name; each try leaves a file."""
    tries = len(list(Path(folder).glob(f"{name}.*")))
    Path(folder, f"{name}.{tries}").touch()
    if tries < fails:
        raise KeyError(name) if name == "defect" else DataError(f"{name} is damaged")
    return name
