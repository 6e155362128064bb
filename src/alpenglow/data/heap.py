"""Freed memory of a worker stays with it: numpy's arrays of megabytes come and go all the time.

Dask's nanny sets MALLOC_TRIM_THRESHOLD_ to 64 KiB, and glibc then maps every array of 128 KiB or
more anew and gives it back, so that the kernel clears every page again: preparing text took a third
longer for it (`bench_workers`). Elsewhere than on glibc this does nothing.
"""

from __future__ import annotations

import ctypes
import functools

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt (malloc.h)."""
LARGEST = 32 << 20
"""Bytes of an allocation that comes from the heap; glibc allows no more."""
KEPT = 256 << 20
"""Free bytes at the heap's end that are kept."""


@functools.cache
def keep() -> bool:
    """Set it, once a process; tells whether it could be."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))
