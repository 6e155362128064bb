"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alpenglow.release.conversion import CONVERSION
from alpenglow.release.error import ReleaseError


def check_replaceable(output: Path) -> None:
    """Refuse an output that `put_in_place` would not replace; writes nothing.

    Raises:
        ReleaseError: `output` exists, is not empty and is not a release.
    """
    if not output.exists() or (output / CONVERSION).is_file():
        return
    if not output.is_dir() or any(output.iterdir()):
        raise ReleaseError(
            f"{output}: exists and is not a release ({CONVERSION} is absent); it is not "
            "replaced, name another output"
        )


def check_room(output: Path, needed: int) -> None:
    """Refuse a disk that is too full; a former release stays until the new one is whole.

    Args:
        output: a folder to be; the nearest folder above it that exists is asked.
        needed: bytes.

    Raises:
        ReleaseError: fewer are free.
    """
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ReleaseError(
            f"{output}: needs {needed:,} bytes of disk and {free:,} are free; make room, or name "
            "another output"
        )


@contextmanager
def put_in_place(output: Path) -> Iterator[Path]:
    """Give a folder to fill; when the block ends well it becomes `output`, else it goes.

    An earlier release at `output` stays until the new one is whole.

    Raises:
        ReleaseError: `output` exists and is not a release, or the file system refuses.
    """
    building = output.with_name(f"{output.name}.tmp")
    former = output.with_name(f"{output.name}.former")
    try:
        if former.exists() and not output.exists():
            former.rename(output)  # a kill came between the two renames below
        check_replaceable(output)
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)
        building.mkdir(parents=True)
        try:
            yield building
            for path in (*building.iterdir(), building):
                _sync(path)
            if output.exists():
                output.rename(former)
            building.rename(output)
            _sync(output.parent)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise ReleaseError(f"{error.filename or output}: {error.strerror or error}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
