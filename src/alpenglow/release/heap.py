"""What the C library keeps of memory that was freed."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE = 1 << 20


def return_freed_tensors() -> None:
    """Have every block above 1 MiB go back to the system when it is freed, in this process.

    glibc raises that limit to the size of what was freed last, up to 32 MiB, and keeps smaller
    blocks in a heap of each thread (mallopt(3), M_MMAP_THRESHOLD): threads that read tensors of
    such sizes in turn would hold several that nobody uses. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
