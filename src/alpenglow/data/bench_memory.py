"""A worker's memory while it prepares an input far larger than that memory.

    python -m alpenglow.data.bench_memory FOLDER --gigabytes 5 [--files 2] [--scratch DIR]

FOLDER holds real text (any files; what is not text is left out). It is written as JSON lines, over
and over with a number in front, so that no two documents are equal, and prepared by a job of its
own with two workers; their resident memory is looked at ten times a second. Each file is one unit:
a unit far above the usual 256 MB, on purpose.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import tomli_w

from alpenglow.data.slices.source import decode

WORKERS = 2
EVERY_S = 0.1
DOCUMENT = 20_000
"""Characters of a document at most: a long file becomes several."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is the job's."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.data.bench_memory")
    parser.add_argument("folder", type=Path, help="real text")
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--files", type=int, default=WORKERS)
    parser.add_argument("--scratch", type=Path, help="where twice the input finds room")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json; absent: one is trained")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="memory-") as name:
        scratch = Path(name)
        size = _write(options.folder, scratch / "raw", int(options.gigabytes * 1e9), options.files)
        recipe = _recipe(scratch, options.tokenizer)
        began = time.monotonic()
        job = subprocess.Popen([sys.executable, "-m", "alpenglow.data.pipeline", str(recipe)])
        peaks = _watch(job)
        seconds = time.monotonic() - began
        said = ", ".join(f"{peak / 1e6:.0f}" for peak in sorted(peaks, reverse=True)[:WORKERS])
        print(
            f"{size / 1e9:.2f} GB in {options.files} units, {WORKERS} workers, {seconds:.0f} s: "
            f"peak resident memory of a worker {said} MB"
        )
        return int(job.returncode)


def _write(folder: Path, raw: Path, size: int, files: int) -> int:
    raw.mkdir()
    texts = [text for path in sorted(folder.rglob("*")) if path.is_file() for text in _texts(path)]
    if not texts:
        raise SystemExit(f"{folder}: holds no text")
    total = 0
    for number in range(files):
        with (raw / f"{number:03d}.jsonl").open("w", encoding="utf-8") as file:
            for count, text in enumerate(itertools.cycle(texts)):
                url = f"https://a.example/{number}/{count}"
                total += file.write(json.dumps({"text": f"{url} {text}", "url": url}) + "\n")
                if total >= size * (number + 1) / files:
                    break
    return total


def _texts(path: Path) -> Iterator[str]:
    text = decode(path.read_bytes()) or ""
    for begin in range(0, len(text), DOCUMENT):
        yield text[begin : begin + DOCUMENT]


def _recipe(scratch: Path, tokenizer: Path | None) -> Path:
    tables = {
        "output": str(scratch / "shards"),
        "run": str(scratch / "run"),
        "slices": {"c4": {"input": str(scratch / "raw")}},
        "cluster": {"protocol": "tcp", "workers": WORKERS},
    }
    if tokenizer is not None:
        tables["tokenizer"] = {"origin": "file", "file": str(tokenizer)}
    path = scratch / "prepare.toml"
    path.write_text(tomli_w.dumps(tables))
    return path


def _watch(job: subprocess.Popen[bytes]) -> list[int]:
    """Return the peak of each process below the job, its own left out."""
    peaks: dict[str, int] = {}
    while job.poll() is None:
        for identity in _below(job.pid):
            peak = _peak(identity)
            if peak:
                peaks[identity] = max(peak, peaks.get(identity, 0))
        time.sleep(EVERY_S)
    return list(peaks.values())


def _below(parent: int) -> list[str]:
    found, waiting = list[str](), [str(parent)]
    while waiting:
        folder = Path("/proc", waiting.pop(), "task")
        for task in folder.glob("*/children"):
            try:
                children = task.read_text().split()
            except OSError:
                continue
            found += children
            waiting += children
    return found


def _peak(identity: str) -> int:
    """Bytes that a process had in memory at most (Linux: VmHWM)."""
    try:
        status = Path("/proc", identity, "status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    os.environ.pop("ALPENGLOW_RUN", None)
    sys.exit(main())
