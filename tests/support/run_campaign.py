"""Start a fault campaign and print its table: `python tests/support/run_campaign.py --faults 200`.

Apart from `fault_campaign`, which forked ranks import by name.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fault_campaign import campaign, table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Faults along chained runs, compared at the end.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--pipeline", type=int, default=2)
    parser.add_argument("--data", type=int, default=2)
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        met = campaign(
            Path(folder),
            options.seed,
            options.faults,
            pipeline=options.pipeline,
            data=options.data,
        )
    sys.stdout.write(table(met) + "\n")
    sys.stdout.write(
        f"{len(met)} faults (seed {options.seed}) on {options.pipeline} stages x {options.data} "
        f"replicas in {time.monotonic() - begin:.0f} s: every chain's last checkpoint equals its "
        "quiet run's bit for bit, and every sample was applied once\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
