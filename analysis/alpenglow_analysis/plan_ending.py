"""How a command of `alpenglow plan` ends: its exit code, and one sentence where it cannot be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from alpenglow.config import ConfigError
from alpenglow.parallel.disturbance import DisturbanceError
from alpenglow.parallel.layout import LayoutError
from alpenglow_analysis.calibration_run import CalibrationError
from alpenglow_analysis.campaign_job import CampaignError
from alpenglow_analysis.planned_run import PlanError
from alpenglow_analysis.scaling_study import StudyError
from alpenglow_analysis.segment import RunError
from alpenglow_lsf.machine import MachineError

FAULTS = (
    CalibrationError, CampaignError, ConfigError, DisturbanceError, LayoutError, MachineError,
    PlanError, RunError, StudyError, OSError,
)  # fmt: skip
"""What a plan can end with; each message is one sentence for the user."""


def ended(
    command: str, run: Callable[[Sequence[str]], None], arguments: Sequence[str] | None
) -> int:
    """Run a command; 0, or 1 after one sentence on stderr, 2 for wrong usage.

    Args:
        command: its word after `alpenglow plan`.
        run: does what the arguments say, or raises one of `FAULTS`.
        arguments: of the command line; None takes this process's.
    """
    try:
        run(sys.argv[1:] if arguments is None else arguments)
    except SystemExit as end:  # argparse has said why
        return end.code if isinstance(end.code, int) else 2
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"alpenglow plan {command}: {error.name} is not installed: "
            "pip install 'alpenglow[report]'\n"
        )
        return 1
    except FAULTS as error:
        sys.stderr.write(f"alpenglow plan {command}: {error}\n")
        return 1
    return 0
