"""`python -m alpenglow.jobs check jobs/pretrain_7b.lsf`; see alpenglow.jobs."""

from __future__ import annotations

import sys

from alpenglow.jobs import main

if __name__ == "__main__":
    sys.exit(main())
