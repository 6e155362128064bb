"""Traces of torch.profiler (Kineto's Chrome JSON), plain or gzip, as columns: the front door.

    from alpenglow_profiling.kineto import read, trace_files

    trace = read(Path("rank0.json.gz"))
    trace.begin_ns, trace.names[trace.name[0]], trace.stream, trace.step

A file is read as a stream and never becomes Python objects (`kineto_scan`). Format: "Trace Event
Format" (Google, 2016), as Kineto's output_json.cpp writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow_profiling.kineto_file import BLOCK, TraceError, TraceFile
from alpenglow_profiling.kineto_scan import NUMBERS, Names, Stretch, close_colons, scan

__all__ = ["Trace", "TraceError", "read", "trace_files"]

GPU_CATEGORIES = frozenset(
    ("kernel", "gpu_memcpy", "gpu_memset", "Kernel", "Memcpy", "Memset", "mtia_ccp_events")
)
STEP = re.compile(r"ProfilerStep\s*#\s*(\d+)")
_LONGEST_HEAD = 1 << 28
_EVENTS = re.compile(rb'"traceEvents"\s*:\s*\[')
_SPACED = re.compile(rb'"(?:ph|ts|name|cat)"\s+:')
_RANK_IN_NAME = re.compile(r"rank[-_.]?(\d+)", re.IGNORECASE)
_NOT_A_TRACE = "no trace of torch.profiler (a JSON object with a list traceEvents is expected)"

Integers = NDArray[np.signedinteger[Any]]


@dataclass
class Trace:
    """The complete events of one rank: a row an event, in the order of the file.

    `begin_ns`, `end_ns`: ns since `base_ns` (Unix time; 0 in traces that hold absolute times).
    `name`, `category`: indices into `names`, `categories`. `pid`, `tid`, `stream`, `correlation`,
    `external`: as in the file, -1 where absent or not a number. `step`: number of the ProfilerStep,
    of a GPU event that of its launch; -1 outside. `launch`: row of the call that launched a GPU
    event, else -1. `collectives`: args of the events of communication by row. `meta`: what stands
    beside the events. `whole_times`: no time in the file has a fraction. `damages`: sentences about
    what could not be read.
    """

    path: Path
    rank: int
    meta: dict[str, Any]
    begin_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    name: NDArray[np.int32]
    category: NDArray[np.int16]
    pid: Integers
    tid: Integers
    stream: Integers
    correlation: Integers
    external: Integers
    names: list[str]
    categories: list[str]
    collectives: dict[int, dict[str, Any]]
    whole_times: bool
    damages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.launch = self._launches()
        self.step = self._steps()

    def __len__(self) -> int:
        return len(self.begin_ns)

    @property
    def base_ns(self) -> int:
        """What is added to a time to get Unix time in ns."""
        return int(self.meta.get("baseTimeNanoseconds", 0))

    def in_categories(self, wanted: Iterable[str]) -> NDArray[np.bool_]:
        """Which rows are of these categories."""
        chosen = set(wanted)
        return np.array([c in chosen for c in self.categories], dtype=bool)[self.category]

    def named(self, test: re.Pattern[str]) -> NDArray[np.bool_]:
        """Which rows have a name that begins with this pattern; each name is looked at once."""
        return np.array([bool(test.match(name)) for name in self.names], dtype=bool)[self.name]

    @property
    def on_gpu(self) -> NDArray[np.bool_]:
        """Kernels, copies and sets; not annotations, and not waits for events (cuda_sync)."""
        return self.in_categories(GPU_CATEGORIES)

    @property
    def steps(self) -> dict[int, tuple[int, int]]:
        """Begin and end in ns of each ProfilerStep on the host."""
        rows = np.flatnonzero(self.named(STEP) & ~self.in_categories(("gpu_user_annotation",)))
        found: dict[int, tuple[int, int]] = {}
        for row in rows.tolist():
            match = STEP.match(self.names[self.name[row]])
            if match:
                found[int(match[1])] = (int(self.begin_ns[row]), int(self.end_ns[row]))
        return dict(sorted(found.items()))

    def _launches(self) -> NDArray[np.int32]:
        gpu = self.on_gpu
        launch = np.full(len(self), -1, dtype=np.int32)
        calls = np.flatnonzero(~gpu & (self.correlation >= 0) & (self.stream < 0))
        if not len(calls):
            return launch
        calls = calls[np.argsort(self.correlation[calls], kind="stable")]
        ids = self.correlation[calls]
        rows = np.flatnonzero(gpu & (self.correlation >= 0))
        at = np.minimum(np.searchsorted(ids, self.correlation[rows]), len(ids) - 1)
        found = ids[at] == self.correlation[rows]
        launch[rows[found]] = calls[at[found]]
        return launch

    def _steps(self) -> NDArray[np.int32]:
        step = np.full(len(self), -1, dtype=np.int32)
        gpu = self.on_gpu
        for number, (begin, end) in self.steps.items():
            step[~gpu & (self.begin_ns >= begin) & (self.begin_ns < end)] = number
        linked = np.flatnonzero(self.launch >= 0)
        step[linked] = step[self.launch[linked]]
        return step


def trace_files(path: Path) -> list[Path]:
    """The file itself, or the traces in a folder, by name.

    Raises `TraceError` where there is none.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.name.endswith((".json", ".json.gz")))
        if not files:
            raise TraceError(
                f"{path}: no *.json or *.json.gz in this folder; name a trace or a folder of them"
            )
        return files
    if not path.exists():
        raise TraceError(f"{path}: no such file or folder")
    return [path]


def read(path: Path, block: int = BLOCK) -> Trace:
    """Read the trace of one rank.

    The rank is `distributedInfo.rank`, else the number behind "rank" in the file's name, else 0.
    `block` bytes are looked at at a time. Whole events of a cut file are kept; `damages` says so.

    Raises `TraceError` (one sentence that names the file) for what is no trace and for a file
    damaged before its first event; `OSError` where it cannot be read.
    """
    reader = _Reader(path)
    file = TraceFile(path, block)
    for piece in file:
        reader.feed(piece)
    return reader.finish(file.damage)


class _Reader:
    """Takes blocks of a file: first its head, then events, then what is behind them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names, self.categories = Names(), Names()
        self.categories.update({b'"': self.categories[b'"']})  # number 0: without a category
        self.head, self.rest = b"", b""
        self.inside = self.over = self.spaced = False
        self.parts: list[Stretch] = []
        self.events = 0

    def feed(self, block: bytes) -> None:
        """Read on; `TraceError` as soon as the file turns out to be something else."""
        self.rest = self.rest + block if self.rest else block
        if not self.inside and not self._enter():
            return
        if self.over:
            return
        if (
            not self.events and not self.spaced
        ):  # the first whole event shows how the file is spelled
            self.spaced = bool(_SPACED.search(self.rest[: 1 << 16]))
        if self.spaced:
            self.rest = close_colons(self.rest)
        part = scan(self.rest, self.names, self.categories)
        if part.problem:
            raise TraceError(
                f"{self.path}: traceEvents {part.problem} "
                f"behind its event {self.events + part.events}"
            )
        self.events += part.events
        self.over = part.over
        self.rest = self.rest[part.used :]
        if part.events:
            self.parts.append(part)

    def _enter(self) -> bool:
        """Whether the list of events has begun; what stands before it goes to `head`."""
        start = self.rest.lstrip(b"\xef\xbb\xbf \n\r\t")
        if start and start[:1] not in (b"{", b"["):
            raise TraceError(f"{self.path}: {_NOT_A_TRACE}")
        if start[:1] == b"[":
            self.head, self.rest = b"{", start[1:]
        else:
            match = _first_key(self.rest)
            if match is None:
                if len(self.rest) > _LONGEST_HEAD:
                    raise TraceError(f"{self.path}: {_NOT_A_TRACE}")
                return False
            self.head, self.rest = (
                start[: match.start() - len(self.rest) + len(start)],
                self.rest[match.end() :],
            )
        self.inside = True
        return True

    def finish(self, damage: str) -> Trace:
        if not self.inside:
            if damage:
                raise TraceError(
                    f"{self.path}: {damage} before the first event; copy it again from its source"
                )
            if not self.rest.strip():
                raise TraceError(f"{self.path}: the file is empty")
            try:
                json.loads(self.rest)
            except ValueError:
                raise TraceError(
                    f"{self.path}: {_NOT_A_TRACE}, or it was cut before its events"
                ) from None
            raise TraceError(f"{self.path}: {_NOT_A_TRACE}")
        damages = []
        if damage or not self.over:
            cause = damage or "the file ends within the list of events"
            damages.append(f"{self.path}: {cause}; its first {self.events} events are used")
        meta = self._meta()
        columns = {name: self._joined(name) for name in ("begin", "duration", "name", "category")}
        begin = columns["begin"]
        numbers = {label: self._joined(label) for label, _, _ in NUMBERS}
        details: dict[int, dict[str, Any]] = {}
        first = 0
        for part in self.parts:
            details.update((first + row, args) for row, args in part.details)
            first += len(part.begin)
        whole = all(part.whole_times for part in self.parts)
        self.parts.clear()
        end = np.add(begin, columns.pop("duration"), dtype=np.int64)
        return Trace(
            path=self.path,
            rank=_rank(meta, self.path),
            meta=meta,
            begin_ns=begin,
            end_ns=end,
            name=columns["name"].astype(np.int32, copy=False),
            category=columns["category"].astype(np.int16, copy=False),
            names=self.names.decoded(),
            categories=self.categories.decoded(),
            collectives=details,
            whole_times=whole,
            damages=damages,
            **numbers,
        )

    def _joined(self, name: str) -> NDArray[Any]:
        """One column of all parts, which give theirs up."""
        pieces = []
        for part in self.parts:
            holder = part.numbers if name in part.numbers else part.__dict__
            pieces.append(holder[name])
            holder[name] = holder[name][:0] if name != "begin" else holder[name]
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)

    def _meta(self) -> dict[str, Any]:
        """What stands before and behind the events; of a cut file only what came before."""
        meta: dict[str, Any] = {}
        head = self.head.rstrip(b" \n\r\t,") + b"}"
        tail = b"{" + self.rest.lstrip(b" \n\r\t,") if self.over else b"{}"
        for text in (head, tail if tail.strip() != b"{" else b"{}"):
            try:
                meta.update(json.loads(text))
            except ValueError:
                continue
        return meta


def _first_key(text: bytes) -> re.Match[bytes] | None:
    """The key traceEvents of the outermost object (not one inside a string or another object)."""
    for match in _EVENTS.finditer(text):
        head = text[: match.start()].lstrip(b"\xef\xbb\xbf").rstrip(b" \n\r\t,")
        try:
            json.loads(head + b"}")
        except ValueError:
            continue
        return match
    return None


def _rank(meta: dict[str, Any], path: Path) -> int:
    info = meta.get("distributedInfo")
    if isinstance(info, dict) and isinstance(info.get("rank"), int):
        return int(info["rank"])
    match = _RANK_IN_NAME.search(path.name)
    return int(match[1]) if match else 0
