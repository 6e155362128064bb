"""A worker keeps freed memory, whatever Dask's nanny sets: fewer pages are cleared for arrays."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import numpy as np
from alpenglow.data import heap
if sys.argv[1] == "keep":
    assert heap.keep()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    np.ones(1 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_pages_are_kept() -> None:
    nanny = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", COUNT, word], env=nanny))
        for word in ("keep", "no")
    )
    assert kept < given_back / 10
