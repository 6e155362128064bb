"""The run directory: what a run is, how far it is, and the line a step leaves.

    runs/NAME/run.toml                       what the run is; written once, checked by each segment
    runs/NAME/metrics.jsonl                  a line a step
    runs/NAME/batches.jsonl                  a line for the first global batch and each change of it
    runs/NAME/progress.json                  how far, for `follow`
    runs/NAME/segments/JOB.ATTEMPT.rank0.json   what the launch node's record takes from rank 0
    runs/NAME/checkpoints/  events/  samples/  traces/  errors/  logs/

Only rank 0 writes here, apart from these folders.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from alpenglow.config import ConfigError
from alpenglow.train.batch_history import BatchHistory
from alpenglow_lsf.chain import STOP
from alpenglow_lsf.files import write_text

RECENT = 5
"""Segments whose saves tell how long the next one takes."""

# Tables and keys of a recipe that may change between the segments of one run: they do not change
# what is learnt from which tokens in which order, up to rounding. The global batch changes how many
# tokens make an update: it is free so that a run may go on without a lost node, and its changes are
# recorded (see batch_history). What
# `guard.skip` leaves out is left out of the whole run: a checkpoint that has learnt of it is not
# gone on from.
FREE = frozenset(
    {
        "parallel",
        "precision",
        "reduction",
        "guard",
        "measure",
        "batch.global_batch_size",
        "batch.micro_batch_size",
        "data.catalogue",
        "data.optional",
        "data.validation_samples",
        "train.validate_every",
        "train.checkpoint_every",
        "checkpoint",
        "train.keep_last",
        "train.keep_every",
        "train.log_every",
        "train.recompute",
        "train.attention",
        "train.loss",
        "train.compile",
        "train.monitor",
        "train.collective_timeout_s",
    }
)


# Keys that came later, with what runs of before them did.
YOUNGER: Mapping[str, Any] = {"data.documents": "joined", "data.validation_fraction": 0.0}


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run, seen from one segment of it."""

    path: Path
    segment: str
    """JOBID.ATTEMPT."""

    @classmethod
    def of_environment(cls, recipe: Path, given: Path | None = None) -> RunDirectory:
        """The directory given, else the one that the launch node names, else `runs/RECIPE` here."""
        named = os.environ.get("ALPENGLOW_RUN")
        path = given or (Path(named) if named else Path("runs") / recipe.stem)
        return cls(path, os.environ.get("ALPENGLOW_SEGMENT") or _next_local_segment(path))

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.path / "checkpoints"

    @property
    def events(self) -> Path:
        """Folder of this segment's event logs."""
        return self.path / "events" / self.segment

    @property
    def samples(self) -> Path:
        """Folder of this segment's samples of its nodes."""
        return self.path / "samples" / self.segment

    @property
    def traces(self) -> Path:
        """Folder of this segment's kernel traces."""
        return self.path / "traces" / self.segment

    @property
    def errors(self) -> Path:
        """Folder of this segment's tracebacks."""
        return self.path / "errors" / self.segment

    @property
    def logs(self) -> Path:
        """Folder of what the libraries print in this segment, a file a node."""
        return self.path / "logs" / self.segment

    @property
    def stop(self) -> Path:
        """The file that ends a chain of segments at the next step border."""
        return self.path / STOP

    def measured(self) -> tuple[float, float, float] | None:
        """Longest save, drain and leaving of the run's last segments, in seconds.

        None where nobody has measured a save yet.
        """
        files = sorted((self.path / "segments").glob("*.rank0.json"), key=_modified)[-RECENT:]
        longest = dict.fromkeys(("save_s", "drain_s", "leave_s"), 0.0)
        for file in files:
            with suppress(OSError, ValueError):
                told = json.loads(file.read_text(encoding="utf-8"))
                for key, most in longest.items():
                    longest[key] = max(most, float(told.get(key) or 0.0))
        return (*longest.values(),) if longest["save_s"] else None  # type: ignore[return-value]

    def completed(self, samples_of: Callable[[int], int]) -> int | None:
        """Steps of the whole run if its last checkpoint is there; None where there is more to do.

        Args:
            samples_of: length of the run in samples, from the batch that it was begun with.
        """
        # The manifest is written last of all, and in it stands how far training was.
        for manifest in sorted(self.checkpoints.glob("step-*/manifest.json"), reverse=True):
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                state = json.loads(manifest.read_text(encoding="utf-8"))["state"]
                history = BatchHistory.of_state(state)
                if history is not None and state["samples"] >= samples_of(history.first):
                    return int(state["step"])
            return None
        return None

    def first_batch(self) -> int | None:
        """Global batch that the run was begun with; None where run.toml does not say. Rank 0."""
        try:
            tables = tomllib.loads((self.path / "run.toml").read_text(encoding="utf-8"))
            return int(tables["recipe"]["batch"]["global_batch_size"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def describe(self, tables: Mapping[str, Any]) -> None:
        """Write run.toml, or check that the run that is here is this one. Rank 0 only.

        Args:
            tables: what the file holds; `recipe`, `data.fingerprint` and `data.tokenizer_hash` must
                agree with a former segment's.

        Raises:
            ConfigError: the recipe or the data differs in what a run may not change.
        """
        path = self.path / "run.toml"
        if not path.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(path, tomli_w.dumps(dict(tables)))
            return
        try:
            former = tomllib.loads(path.read_text(encoding="utf-8"))
            difference = first_difference(former, tables)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): name another run") from None
        if difference is not None:
            key, then, now = difference
            if key in _OTHER_DATA:
                raise ConfigError(
                    f"{self.path} is a run on {_OTHER_DATA[key]} {then}, and "
                    f"{tables['data'].get('catalogue')} is of {now}: name the run's own catalogue "
                    "(data.catalogue), or another run directory (--run)"
                )
            raise ConfigError(
                f"{self.path} holds a run with {key} = {then!r}, this recipe says {now!r}: give it "
                "back its value, or name another run directory (--run)"
            )

    def report(self, **fields: Any) -> None:
        """Write what the segment's record takes from rank 0, with a heartbeat. Rank 0 only."""
        folder = self.path / "segments"
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(fields | {"heartbeat": time.time()}, indent=1) + "\n"
        write_text(folder / f"{self.segment}.rank0.json", text)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _next_local_segment(path: Path) -> str:
    """Name a segment that no scheduler numbered: local.1, local.2, ..."""
    numbers = [
        int(found.group(1))
        for folder in ("segments", "events")
        if (path / folder).is_dir()
        for entry in (path / folder).iterdir()
        if (found := re.match(r"local\.(\d+)", entry.name))
    ]
    return f"local.{max(numbers, default=0) + 1}"


def first_difference(
    former: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[str, Any, Any] | None:
    """First key, with both values, in which two run.toml tables describe different runs."""
    for key in _OTHER_DATA:
        name = key.removeprefix("data.")
        old, new = former["data"].get(name), now["data"].get(name)
        if old is not None and old != new:
            return key, old, new
    then = {**YOUNGER, **dict(_flat(former["recipe"]))}
    here = {**YOUNGER, **dict(_flat(now["recipe"]))}
    for key in [*then, *(key for key in here if key not in then)]:
        free = key in FREE or key.partition(".")[0] in FREE
        if not free and then.get(key) != here.get(key):
            return key, then.get(key), here.get(key)
    return None


_OTHER_DATA = {
    "data.tokenizer_hash": "shards of tokenizer",
    "data.fingerprint": "a catalogue of fingerprint",
}


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


class Metrics:
    """Appends to metrics.jsonl, a line a step."""

    def __init__(self, path: Path) -> None:
        whole = not path.exists() or path.stat().st_size == 0 or _ends_line(path)
        self._file = path.open("a", encoding="utf-8", buffering=1)
        if not whole:
            self._file.write("\n")  # a killed segment left half a line; readers skip it

    def append(self, **fields: Any) -> None:
        """Write one line."""
        self._file.write(json.dumps(fields, separators=(",", ":")) + "\n")

    def close(self) -> None:
        """Write to disk and close."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def find_named(run: Path, named: Path) -> Path:
    """A path of a run's recipe: from the folder that holds runs/, from the checkout, or from here.

    The first whose folder is there; as it is named where none is.
    """
    root = os.environ.get("ALPENGLOW_ROOT")
    bases = [run.absolute().parent.parent, *([Path(root)] if root else []), Path()]
    found = (base / named for base in bases)
    return next((path for path in found if path.parent.is_dir()), named)


def code_version() -> str:
    """The package's version, with the commit where the code is a git checkout."""
    version = importlib.metadata.version("alpenglow")
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{commit}"


def software() -> dict[str, str]:
    """Versions of Python and of the libraries that decide what is computed."""
    versions = {"python": platform.python_version()}
    for name in ("torch", "deepspeed", "numpy", "h5py", "apex"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def utc_now() -> str:
    """Now, ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
