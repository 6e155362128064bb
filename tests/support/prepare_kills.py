"""Prepare shards with kills in between, beside a run without: the files must be the same bytes.

    python tests/support/prepare_kills.py FOLDER [--kills 5] [--files 24]

Two workers, killed together with their client, or one worker alone, each time a few more files of
documents are there; a run of one worker, never disturbed, is what they are compared with. Prints a
line for each start. The text is Python's own documentation and library, so it needs no network.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics

import psutil
import tomli_w

DEADLINE_S = 300


def write_raw(folder: Path, files: int) -> None:
    """Books of real prose, some of them twice, and source files."""
    texts = sorted(topics.topics.items())
    books, code = folder / "books", folder / "github"
    books.mkdir(parents=True)
    code.mkdir()
    for number in range(files):
        body = "\n\n".join(text for _, text in texts[number::files])
        (books / f"{number:03d}.txt").write_text(body, encoding="utf-8")
        if number % 5 == 0:
            (books / f"{number:03d}-again.txt").write_text(body, encoding="utf-8")
    modules = sorted(Path(os.__file__).parent.glob("*.py"))[: 4 * files]
    for path in modules:
        (code / path.name).write_bytes(path.read_bytes())


def write_recipe(path: Path, raw: Path) -> None:
    """A recipe whose units are small, so that there are many."""
    slices = {
        name: {"input": str(raw / name), "licence": "PSF-2.0", "rules": rules}
        for name, rules in (("books", {}), ("github", {"licences": ["psf"]}))
    }
    tables = {
        "shard_tokens": 60_000,
        "unit_bytes": 40_000,
        "slices": slices,
        "tokenizer": {"vocab_size": 600, "sample_bytes": 200_000},
        "cluster": {"protocol": "tcp"},
    }
    path.write_text(tomli_w.dumps(tables))


def start(recipe: Path, name: str, workers: int) -> subprocess.Popen[bytes]:
    """Start the job, in a process group of its own, so that all of it can be killed."""
    folder = recipe.parent
    command = [sys.executable, "-m", "alpenglow.data.pipeline", str(recipe),
               f"output={folder / name}", f"run={folder / f'run-{name}'}",
               f"cluster.workers={workers}"]  # fmt: skip
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def done(folder: Path, name: str) -> int:
    """How many files of documents, columns and tokens are there, whole."""
    documents = folder / f"run-{name}" / "documents"
    if not documents.exists():
        return 0
    return sum(not path.name.startswith(".") for path in documents.iterdir())


def wait(job: subprocess.Popen[bytes], folder: Path, files: int) -> bool:
    """Wait until so many files are there; False if the job ended before."""
    deadline = time.monotonic() + DEADLINE_S
    while job.poll() is None:
        if done(folder, "killed") >= files:
            return True
        if time.monotonic() > deadline:
            os.killpg(job.pid, signal.SIGKILL)
            raise TimeoutError(f"nothing came of the job for {DEADLINE_S} s")
        time.sleep(0.01)
    return False


def kill_all(job: subprocess.Popen[bytes]) -> None:
    """Kill client, nannies and workers, wherever they are."""
    processes = [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes)
    job.wait()


def kill_a_worker(job: subprocess.Popen[bytes]) -> None:
    """Kill one process that works; its nanny starts another."""
    working = [
        process
        for process in psutil.Process(job.pid).children(recursive=True)
        if "spawn_main" in " ".join(process.cmdline())
        or "forkserver" in " ".join(process.cmdline())
    ]
    max(working, key=lambda process: sum(process.cpu_times()[:2])).kill()


def disturbed(recipe: Path, kills: int, seed: int = 0) -> Iterator[str]:
    """Run with kills until it is done; yields a sentence for each start and kill."""
    folder, choose = recipe.parent, random.Random(seed)
    for number in range(kills):
        before = done(folder, "killed")
        job = start(recipe, "killed", 2)
        target = before + choose.randint(2, 9)
        if not wait(job, folder, target):
            yield f"start {number + 1}: finished before it could be killed, code {job.returncode}"
            return
        if number % 3 == 2:
            kill_a_worker(job)
            wait(job, folder, done(folder, "killed") + 3)
            what = "one worker, later everything"
        else:
            what = "everything"
        if job.poll() is None:
            kill_all(job)
        yield f"start {number + 1}: {before} files there, killed {what} at {target} or more"
    before = done(folder, "killed")
    job = start(recipe, "killed", 2)
    code = job.wait(DEADLINE_S)
    yield f"last start: {before} files there, ended with code {code}"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def main() -> int:
    """Do it; the exit code is 1 where the files differ."""
    parser = argparse.ArgumentParser(description="Prepare with kills, compare with a quiet run.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--files", type=int, default=24)
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True)
    write_raw(folder / "raw", options.files)
    recipe = folder / "prepare.toml"
    write_recipe(recipe, folder / "raw")
    for sentence in disturbed(recipe, options.kills):
        print(sentence, flush=True)  # noqa: T201
    code = start(recipe, "quiet", 1).wait(DEADLINE_S)
    killed, quiet = digests(folder / "killed"), digests(folder / "quiet")
    for name in sorted(killed.keys() | quiet.keys()):
        same = "same" if killed.get(name) == quiet.get(name) else "DIFFERS"
        print(f"{name:<20}{killed.get(name, '-')[:16]}  {quiet.get(name, '-')[:16]}  {same}")  # noqa: T201
    return int(code != 0 or killed != quiet)


if __name__ == "__main__":
    sys.exit(main())
