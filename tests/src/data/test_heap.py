"""A worker keeps freed memory: fewer pages are cleared for arrays that come and go."""

from __future__ import annotations

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
    np.ones(4 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_pages_are_kept() -> None:
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", COUNT, word])) for word in ("keep", "no")
    )
    assert kept < given_back / 10
