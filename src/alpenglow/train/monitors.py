"""Where a run's curves go: metrics.jsonl always, CSV, TensorBoard and W&B by `train.monitor`.

    runs/NAME/metrics.jsonl     a line a step
    runs/NAME/metrics.csv       the same as a table
    runs/NAME/tensorboard/      `tensorboard --logdir runs`
    runs/NAME/wandb/            W&B offline; `wandb sync` is the user's own business

After a restart steps repeat. JSON and CSV say which segment a line is from; TensorBoard is told to
forget the steps from the restart on; W&B gets one run a segment, in one group. Nothing here ever
calls a service.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from alpenglow.config import ConfigError
from alpenglow.train.run_directory import Metrics, RunDirectory

PACKAGES = {"csv": None, "tensorboard": "tensorboard", "wandb": "wandb"}
"""What each monitor needs to be installed."""


class Monitor(Protocol):
    """Takes the fields of each step."""

    def append(self, fields: Mapping[str, Any]) -> None:
        """Write one step: `step`, `segment`, and numbers; None is a number that there is not."""

    def close(self) -> None:
        """Write to disk and close."""


def check_monitors(names: Sequence[str]) -> None:
    """Refuse monitors whose package is not installed here.

    Raises:
        ConfigError: naming the package and the key.
    """
    for name in names:
        package = PACKAGES[name]
        if package is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"train.monitor names {name}, but the package {package} is not installed here: "
                f"install it or take {name} out of train.monitor"
            )


def open_monitors(names: Sequence[str], run: RunDirectory, step: int) -> list[Monitor]:
    """Open metrics.jsonl and the named monitors for a segment that goes on from `step`.

    Raises:
        ConfigError: a package is not installed.
    """
    check_monitors(names)
    monitors: list[Monitor] = [JsonLines(run.path / "metrics.jsonl")]
    for name in dict.fromkeys(names):
        if name == "csv":
            monitors.append(CsvTable(run.path / "metrics.csv"))
        elif name == "tensorboard":
            monitors.append(TensorBoard(run.path / "tensorboard", step))
        else:
            monitors.append(WandbOffline(run))
    return monitors


class JsonLines:
    """metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self._metrics = Metrics(path)

    def append(self, fields: Mapping[str, Any]) -> None:
        """See `Monitor.append`."""
        self._metrics.append(**fields)

    def close(self) -> None:
        """See `Monitor.close`."""
        self._metrics.close()


class CsvTable:
    """A table with the columns of its first line; what is missing stays empty.

    Half a line that a killed segment left is cut off. A later segment keeps to the header that is
    there, whatever fields it has.
    """

    def __init__(self, path: Path) -> None:
        self._columns: list[str] = []
        if path.exists():
            text = path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if whole != text:
                os.truncate(path, len(whole))
            header = whole.split(b"\n", 1)[0].decode()
            self._columns = next(csv.reader([header]), [])
        self._file = path.open("a", encoding="utf-8", newline="")

    def append(self, fields: Mapping[str, Any]) -> None:
        """See `Monitor.append`."""
        # One write a line: a kill leaves a line or none, save in the middle of the write itself.
        text = io.StringIO(newline="")
        first = not self._columns
        self._columns = self._columns or list(fields)
        writer = csv.DictWriter(
            text, self._columns, restval="", extrasaction="ignore", lineterminator="\n"
        )
        if first:
            writer.writeheader()
        writer.writerow(fields)
        self._file.write(text.getvalue())
        self._file.flush()

    def close(self) -> None:
        """See `Monitor.close`."""
        os.fsync(self._file.fileno())
        self._file.close()


class TensorBoard:
    """Event files with a scalar for each number.

    Args:
        folder: of the run's event files; each segment adds one.
        step: where the segment begins: what an earlier one wrote beyond it is purged.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=step + 1)

    def append(self, fields: Mapping[str, Any]) -> None:
        """See `Monitor.append`."""
        step, when = fields["step"], fields.get("time")
        for name, value in numbers(fields).items():
            self._writer.add_scalar(f"train/{name}", value, step, walltime=when)

    def close(self) -> None:
        """See `Monitor.close`."""
        self._writer.close()


class WandbOffline:
    """W&B's files without W&B's service: offline whatever the environment says."""

    def __init__(self, run: RunDirectory) -> None:
        # Read by every part of the package, its background process included.
        os.environ["WANDB_MODE"] = "offline"
        os.environ["WANDB_SILENT"] = "true"
        import wandb

        self._run = wandb.init(
            mode="offline",
            project="alpenglow",
            group=run.path.name,
            name=f"{run.path.name}.{run.segment}",
            dir=str(run.path),
            settings=wandb.Settings(console="off", x_disable_stats=True),
        )

    def append(self, fields: Mapping[str, Any]) -> None:
        """See `Monitor.append`."""
        self._run.log(numbers(fields), step=fields["step"])

    def close(self) -> None:
        """See `Monitor.close`."""
        self._run.finish()


def numbers(fields: Mapping[str, Any]) -> dict[str, float]:
    """The fields that make a curve over the steps."""
    return {
        name: float(value)
        for name, value in fields.items()
        if isinstance(value, int | float) and name not in ("step", "time")
    }
