"""Faults along chained runs, and the proof that they left no trace in what was learnt.

    python tests/support/fault_campaign.py --seed 1 --faults 200

A chain is one run of the real trainer on real processes, started again whenever it ends before the
last step, as a chain of jobs does. Ranks are forked from a server that has imported torch once, so
that a start costs a second or two. At its end each chain has, bit for bit, the checkpoint of a
quiet run that skips the same samples, and its log shows every other sample applied exactly once.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import h5py
from applied_samples import applied_samples, read_lines
from distributed_ranks import forkserver
from free_port import free_port
from rank_faults import FILLER, KILLS, SAVES, STOPPING, Fault
from small_recipe import small_recipe
from small_shards import write_small_shards

EVERY = 4
"""Steps between checkpoints."""
BATCH = 8
PATIENCE = 3
"""Segments in a row without a fault that may end before the run is complete."""


_GONE = r"rank \d on node\d stood in [^\n;]*, and is gone"
_PASSED_OVER = r"checkpoint step-\d+ is damaged and passed over: [^\n]*"
SENTENCES = {
    **dict.fromkeys((*KILLS, "kill in save", "kill in drain"), _GONE),
    **dict.fromkeys(STOPPING, r"stopped at step \d+/\d+ \(signal (TERM|URG|USR2)\)"),
    "hang": r"no progress for \d+ s: rank \d on node\d stood in [^\n]* gives no sign of life",
    "NaN once": r"gradients were not finite on rank \d [^\n]*; run again from the same state",
    "NaN always": r"gradients are not finite on rank \d [^\n]*, twice; samples \d+ to \d+ are",
    "disk full": r"the checkpoint was not written: [^\n]*No space left on device",
    "quota": r"the checkpoint was not written: [^\n]*File too large",
    "clock ahead": r"the wall clock jumped ahead by 7,\d\d\d s; the deadline stays",
    "clock back": r"the wall clock jumped back by 7,\d\d\d s; the deadline stays",
    "checkpoint cut": _PASSED_OVER,
    "checkpoint flipped": _PASSED_OVER,
    "manifest flipped": _PASSED_OVER,
    "shard cut": r"github-00000.h5: \d+ bytes where the catalogue lists \d+",
    "shard flipped": r"github-00000.h5: MiB block 0 of its tokens does not have its checksum",
}
"""Kind -> what some rank must say of it."""
FILES = frozenset(kind for kind in SENTENCES if kind.endswith((" cut", " flipped")))
"""Kinds that strike a file between two segments, of which the first ends by a kill."""
GOES_ON = frozenset({"NaN once", "NaN always", "disk full", "quota", "clock ahead", "clock back"})
"""Kinds that end no segment."""


@dataclass
class Met:
    """How a chain met one fault."""

    fault: Fault
    said: str
    """The sentence that names it."""
    recovered_s: float | None = None
    """From the fault to the next step after it; None where the segment went on."""
    lost: int = 0
    """Steps that had to be trained again."""


@dataclass
class Chain:
    """One run, segment after segment until it is complete."""

    folder: Path
    steps: int
    faults: Sequence[Fault] = ()
    pipeline: int = 2
    data: int = 2
    met: list[Met] = field(default_factory=list)
    segments: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.world = self.pipeline * self.data
        self.run = self.folder / "run"
        train = {"steps": self.steps, "checkpoint_every": EVERY, "keep_last": 3, "log_every": 1000}
        text = small_recipe(
            {**train, "collective_timeout_s": 60},
            parallel={"pipeline": self.pipeline},
            guard={"hang_s": 3},
        )
        (self.folder / "recipe.toml").write_text(text)
        if not (self.folder / "shards").exists():
            write_small_shards(self.folder / "shards")

    def segment(self, *overrides: str) -> tuple[list[int], str]:
        """Run all ranks once; returns their exit codes and what they said."""
        self.segments += 1
        output = self.folder / f"output/{self.segments:03d}"
        output.mkdir(parents=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ALPENGLOW_", "JSM_"))}
        environment = kept | {
            "JSM_NAMESPACE_SIZE": str(self.world),
            "JSM_NAMESPACE_LOCAL_SIZE": str(self.world),
            "ALPENGLOW_HOST": "node0",
            "ALPENGLOW_MASTER_PORT": str(free_port()),
            "ALPENGLOW_SEGMENT": f"{self.segments}.1",
            "ALPENGLOW_DEADLINE": str(time.time() + 3600),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        processes = []
        for rank in range(self.world):
            own = {"JSM_NAMESPACE_RANK": str(rank), "JSM_NAMESPACE_LOCAL_RANK": str(rank)}
            arguments = (str(self.folder), str(output / str(rank)), environment | own)
            process = forkserver().Process(
                target=run_rank, args=(*arguments, list(self.faults), rank, overrides, sys.path)
            )
            process.start()
            processes.append(process)
        end = time.monotonic() + 120
        for process in processes:
            process.join(timeout=max(0.0, end - time.monotonic()))
        late = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for process in processes:
            process.kill()
            process.join()
        said = "".join(p.read_text(errors="replace") for p in sorted(output.iterdir()))
        assert not late, f"{self.folder}: ranks {late} did not end\n{said}"
        return [process.exitcode or 0 for process in processes], said

    def go(self, *overrides: str) -> None:
        """Go on until the run is complete; what the faults did is in `met`.

        Raises:
            AssertionError: a fault that nobody named, or segments that end for no reason.
        """
        quiet = 0
        struck: list[Fault] = []
        while True:
            before = self._fired()
            codes, said = self.segment(*overrides)
            new = [f for f in self.faults if f.number in self._fired().keys() - before.keys()]
            for fault in (*struck, *(f for f in new if f.kind not in FILES)):
                self._named(fault, said)
            if set(codes) == {0}:
                break
            quiet = 0 if new or struck else quiet + 1
            assert quiet < PATIENCE, f"{self.folder}: segment {self.segments} {codes}\n{said}"
            (self.run / "checkpoints" / FILLER).unlink(missing_ok=True)
            struck = [fault for fault in new if fault.kind in FILES]
            for fault in [f for f in struck if f.kind.startswith("shard")]:
                self._refuse(fault)
                struck.remove(fault)
            for fault in struck:
                self._damage(fault)
        missing = {f.number for f in self.faults} - self._fired().keys()
        assert not missing, f"{self.folder}: faults {sorted(missing)} never came"
        self._account()

    def _fired(self) -> dict[int, tuple[float, str]]:
        """When each fault came, unix seconds, and in which segment."""
        folder = self.folder / "fired"
        found = {}
        for path in folder.iterdir() if folder.is_dir() else ():
            seconds, segment = path.read_text().split()
            found[int(path.name)] = (float(seconds), segment)
        return found

    def _named(self, fault: Fault, said: str) -> None:
        found = re.search(SENTENCES[fault.kind], said)
        assert found is not None, f"{self.folder}: nobody named {fault}\n{said}"
        self.met.append(Met(fault, found[0]))

    def _refuse(self, fault: Fault) -> None:
        """Damage a shard, see that a segment refuses it, and mend it."""
        shard = self.folder / "shards/github-00000.h5"
        whole = shard.read_bytes()
        with h5py.File(shard, "r") as file:
            tokens = file["tokens"]
            begin = tokens.id.get_offset()
            end = begin + tokens.nbytes
        shard.write_bytes(spoilt(whole, fault, begin, end))
        codes, said = self.segment()
        assert 0 not in codes, f"{self.folder}: a damaged shard was read\n{said}"
        self._named(fault, said)
        shard.write_bytes(whole)

    def _damage(self, fault: Fault) -> None:
        """Damage the newest checkpoint."""
        manifests = sorted((self.run / "checkpoints").glob("step-*/manifest.json"))
        victim = manifests[-1]
        if fault.kind.startswith("checkpoint"):
            victim = sorted(victim.parent.glob("*.fragments"))[-1]
        whole = victim.read_bytes()
        least = min(64, len(whole) // 2)
        victim.write_bytes(spoilt(whole, fault, least, len(whole) - len(whole) // 4))

    def _account(self) -> None:
        """Fill in what each fault cost, from the run's own records."""
        lines = read_lines(self.run / "metrics.jsonl")
        fired = self._fired()
        for met in self.met:
            if met.fault.kind in GOES_ON:
                continue
            came, segment = fired[met.fault.number]
            own = [line for line in lines if line["segment"] == segment]
            # A rank that dies in a save, or is told to stop, takes some steps more.
            ended = max([came, *(line["time"] for line in own)])
            after = next(line for line in lines if line["time"] > ended)
            met.recovered_s = after["time"] - ended
            met.lost = max(0, max((line["step"] for line in own), default=0) - after["step"] + 1)


def spoilt(whole: bytes, fault: Fault, begin: int, end: int) -> bytes:
    """The file cut, or with one bit the other way, at a byte from `begin` to before `end`."""
    draw = random.Random(fault.number)
    place = draw.randrange(begin, end)
    if fault.kind.endswith("cut"):
        return whole[:place]
    return whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :]


def run_rank(
    folder: str,
    output: str,
    environment: dict[str, str],
    faults: list[Fault],
    rank: int,
    overrides: tuple[str, ...],
    path: list[str],
) -> None:
    """One rank of a segment, in a process of its own that ends here."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = path
    # A rank that is killed on purpose leaves no core behind.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from rank_faults import arm

    from alpenglow.train import __main__ as program

    program.STARTED = time.time()
    arm(faults, Path(folder) / "fired", rank)
    code = program.main(["recipe.toml", "--run", "run", *overrides])
    sys.stdout.flush()
    os._exit(code)


def prove(chain: Chain, quiet: Chain) -> list[list[int]]:
    """Compare a chain that met faults with a quiet one; returns the skipped ranges.

    Raises:
        AssertionError: another bit in any tensor, or a sample lost or applied twice.
    """
    from training_ranks import assert_same_checkpoint

    skips = [[s["first"], s["last"]] for s in read_lines(chain.run / "skips.jsonl")]
    quiet.go(f"guard.skip={skips}")
    assert quiet.segments == 1
    last = f"checkpoints/step-{chain.steps:08d}"
    assert_same_checkpoint(chain.run / last, quiet.run / last)
    applied, passed = applied_samples(chain.run)
    assert applied_samples(quiet.run) == (applied, passed)
    assert passed == [n for first, last in skips for n in range(first, last + 1)]
    assert sorted(applied + passed) == [*range(BATCH * chain.steps)]
    return skips


def plan(
    seed: int, count: int, world: int, kinds: Sequence[str], numbers: Iterator[int]
) -> tuple[list[Fault], int]:
    """Draw faults for one chain, far enough apart that each can be told; returns its steps, too."""
    draw = random.Random(seed)
    order = [kinds[i % len(kinds)] for i in range(count)]
    draw.shuffle(order)
    step, faults = EVERY + 1, []
    for kind in order:
        step += draw.randint(1, 3)
        rank = 0 if kind.startswith("clock") else draw.randrange(kind == "quota", world)
        detail = draw.randrange(6 if kind == "kill in drain" and rank == 0 else 2)
        faults.append(Fault(next(numbers), kind, step, rank, detail, draw.random() < 0.5))
        # These show at the next save, which comes within EVERY steps; a few more for the drain.
        if kind in ("kill in save", "kill in drain", "quota", "disk full"):
            step += 2 * EVERY + SAVES
        if kind in FILES:
            step += EVERY  # or the next to be struck might be the last whole checkpoint
    return faults, step + EVERY


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Put a file system of 8 MiB at a folder; False where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def campaign(
    folder: Path, seed: int, count: int, *, a_chain: int = 10, pipeline: int = 2, data: int = 2
) -> list[Met]:
    """Run chains until `count` faults are met; every kind comes as often as any other."""
    numbers = iter(range(count))
    met: list[Met] = []
    for index, first in enumerate(range(0, count, a_chain)):
        place = folder / f"chain-{index:03d}"
        with small_disk(place / "run/checkpoints") as mounted:
            able = [kind for kind in SENTENCES if mounted or kind != "disk full"]
            kinds = [able[(first + i) % len(able)] for i in range(min(a_chain, count - first))]
            faults, steps = plan(seed + index, len(kinds), pipeline * data, kinds, numbers)
            chain = Chain(place, steps, faults, pipeline, data)
            chain.go()
            prove(chain, Chain(folder / f"quiet-{index:03d}", steps, (), pipeline, data))
        met += chain.met
    return met


def table(met: Sequence[Met]) -> str:
    """What the campaign showed, a line a kind."""
    rows = [("fault", "count", "recovered in", "steps lost", "named by")]
    for kind in SENTENCES:
        some = [one for one in met if one.fault.kind == kind]
        if not some:
            continue
        seconds = [one.recovered_s for one in some if one.recovered_s is not None]
        took = f"{median(seconds):.1f} s ({max(seconds):.1f})" if seconds else "no restart"
        lost = f"{median(one.lost for one in some):g} ({max(one.lost for one in some)})"
        said = some[0].said if len(some[0].said) < 90 else some[0].said[:87] + "..."
        rows.append((kind, str(len(some)), took, lost, said))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]])
        for row in rows
    )
