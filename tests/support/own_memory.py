"""How much memory this process holds, for tests of what is read and kept."""

from __future__ import annotations

import re
from pathlib import Path


def anonymous() -> int:
    """Bytes in memory that no file stands behind."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found.group(1)) * 1024
