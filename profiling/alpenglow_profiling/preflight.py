"""Pre-flight: time every node of a job before its hours are spent, and name the bad ones.

    jsrun -r1 -a6 -g6 -c42 ... python -m alpenglow_profiling.preflight --run runs/pretrain_7b
    jsrun ... python -m alpenglow_profiling.preflight --spare 2 -- python -m alpenglow.train RECIPE

Every rank runs this; with a command behind `--` each rank becomes that command once all is well.
The ranks of a node time a matrix product, a memory copy, transfers between each pair of them and an
all-reduce, on their GPUs (NCCL) or CPUs (gloo), and leave RUN/preflight/SEGMENT/HOST.json. Nodes do
not talk to each other: a bad one cannot hang the rest. Rank 0 compares like with like (local rank
3's GPU with local rank 3's elsewhere), writes verdict.json and says what is wrong.

Exit code 0: go. 3: a node is slower than the median by --factor, and no spare is left to stand in.
4: a node did not report. 1: it could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

FORMAT = 1
FAILED, SLOW, MISSING = 1, 3, 4
FEWEST_NODES = 3
"""Below this many nodes a median says nothing about which of them is slow."""
POLL_S = 0.05
REPEATS = 5

Metrics = dict[str, float]
"""Rates, larger is better: `gemm 0` (local rank 0), `copy 0`, `pair 0-1`, `allreduce`."""

UNITS = {"gemm": "GFLOP/s", "copy": "GB/s", "pair": "GB/s", "allreduce": "GB/s"}

_FAMILIES = (
    ("ALPENGLOW_RANK", "ALPENGLOW_WORLD_SIZE", "ALPENGLOW_LOCAL_RANK", "ALPENGLOW_LOCAL_SIZE"),
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)


class PreflightError(RuntimeError):
    """The node could not be measured; the message is one sentence."""


@dataclass(frozen=True)
class Place:
    """This rank in its step."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    host: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Place:
        """Read the launcher's variables; one rank of one without any.

        Raises:
            PreflightError: variables that are no numbers.
        """
        host = environ.get("ALPENGLOW_HOST") or socket.gethostname()
        for names in _FAMILIES:
            if all(name in environ for name in names):
                try:
                    rank, size, local_rank, local_size = (
                        int(environ[name].partition("(")[0]) for name in names
                    )
                    return cls(rank, size, local_rank, local_size, host)
                except ValueError:
                    raise PreflightError(
                        f"{', '.join(f'{n}={environ[n]!r}' for n in names)}: no rank numbers"
                    ) from None
        jsm = [environ.get(f"JSM_NAMESPACE_{name}", "") for name in ("RANK", "SIZE", "LOCAL_RANK")]
        if all(word.isdigit() for word in jsm):
            # JSM alone (--smpiargs=off) tells no local size; resource sets are spread evenly.
            rank, size, local_rank = map(int, jsm)
            return cls(rank, size, local_rank, size // max(1, len(expected_hosts(environ))), host)
        return cls(host=host)


def expected_hosts(environ: Mapping[str, str]) -> list[str]:
    """Compute hosts that LSF gave the job, in its order; empty where no list is there."""
    listing = environ.get("LSB_DJOB_HOSTFILE")
    names: list[str] = []
    if listing and Path(listing).is_file():
        names = Path(listing).read_text(encoding="utf-8").split()
    reserved = environ.get("ALPENGLOW_RESERVED_HOSTS", "batch,login").split(",")
    kept = [name for name in names if not name.startswith(tuple(filter(None, reserved)))]
    return list(dict.fromkeys(kept))


def measure(place: Place, store: Path, timeout_s: float) -> tuple[str, Metrics]:
    """Time this node together with its other local ranks.

    Args:
        place: this rank.
        store: file through which the node's ranks meet; torch removes it at the end.
        timeout_s: how long a rank waits for a silent neighbour.

    Returns:
        The device's name and, the same on every local rank, the node's rates.

    Raises:
        PreflightError: torch is missing, or a neighbour did not answer.
    """
    try:
        import torch
        import torch.distributed as dist
    except ImportError as error:
        raise PreflightError(f"{place.host}: no torch to measure with: {error}") from None
    cuda = torch.cuda.is_available()
    if cuda:
        # One GPU is visible in a resource set of its own, all of them in a set of a whole node.
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    device = torch.device("cuda" if cuda else "cpu")
    name = torch.cuda.get_device_name() if cuda else "cpu"
    together = place.local_size > 1
    try:
        if together:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                init_method=f"file://{store.absolute()}",
                rank=place.local_rank,
                world_size=place.local_size,
                timeout=timedelta(seconds=timeout_s),
            )
        rates = _own_rates(device, place.local_rank)
        if together:
            rates |= _shared_rates(device, place.local_rank, place.local_size)
            gathered: list[Any] = [None] * place.local_size
            dist.all_gather_object(gathered, rates)
            rates = {key: value for part in gathered for key, value in part.items()}
    except RuntimeError as error:
        first = str(error).strip().partition("\n")[0]
        raise PreflightError(
            f"{place.host}, local rank {place.local_rank}: its neighbours did not answer or its "
            f"device failed: {first}"
        ) from None
    finally:
        if together and dist.is_initialized():
            dist.destroy_process_group()
    return name, dict(sorted(rates.items()))


def _own_rates(device: Any, local_rank: int) -> Metrics:
    import torch

    cuda = device.type == "cuda"
    size = 4096 if cuda else 384
    left = torch.ones(size, size, device=device, dtype=torch.float16 if cuda else torch.float32)
    product = torch.empty_like(left)
    seconds = _best(lambda: torch.mm(left, left, out=product), device)
    rates = {f"gemm {local_rank}": 2 * size**3 / seconds / 1e9}
    block = torch.ones((256 if cuda else 8) << 20, dtype=torch.uint8, device=device)
    copy = torch.empty_like(block)
    seconds = _best(lambda: copy.copy_(block), device)
    # Each byte is read once and written once.
    rates[f"copy {local_rank}"] = 2 * block.numel() / seconds / 1e9
    return rates


def _shared_rates(device: Any, local_rank: int, local_size: int) -> Metrics:
    import torch
    import torch.distributed as dist

    cuda = device.type == "cuda"
    message = torch.ones((64 if cuda else 1) << 20, dtype=torch.uint8, device=device)
    rates: Metrics = {}
    for first in range(local_size):
        for second in range(first + 1, local_size):
            # One pair at a time: links that are shared would otherwise measure each other.
            dist.barrier()
            if local_rank not in (first, second):
                continue

            def there_and_back(first: int = first, second: int = second) -> None:
                for sender, receiver in ((first, second), (second, first)):
                    if local_rank == sender:
                        dist.send(message, receiver)
                    else:
                        dist.recv(message, sender)

            seconds = _best(there_and_back, device)
            if local_rank == first:
                rates[f"pair {first}-{second}"] = 2 * message.numel() / seconds / 1e9
    reduced = torch.ones((16 if cuda else 1) << 18, dtype=torch.float32, device=device)
    dist.barrier()
    seconds = _best(lambda: dist.all_reduce(reduced), device)
    if local_rank == 0:
        rates["allreduce"] = 4 * reduced.numel() / seconds / 1e9
    return rates


def _best(work: Callable[[], object], device: Any) -> float:
    """Seconds of the fastest of REPEATS, after one to warm up: others may share the machine."""
    import torch

    best = float("inf")
    for repeat in range(REPEATS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if repeat:
            best = min(best, time.perf_counter() - begin)
    return best


@dataclass(frozen=True)
class Slowness:
    """A rate of a node that is below the median of all nodes."""

    host: str
    metric: str
    rate: float
    median: float

    @property
    def factor(self) -> float:
        """How many times slower than the median."""
        return self.median / max(self.rate, 1e-30)

    def __str__(self) -> str:
        unit = UNITS[self.metric.partition(" ")[0]]
        return (
            f"{self.host}: {self.metric} reaches {self.rate:.3g} {unit}, the median is "
            f"{self.median:.3g}: {self.factor:.2f} times slower"
        )


@dataclass(frozen=True)
class Verdict:
    """Which nodes to use."""

    slow: tuple[Slowness, ...]
    """The worst rate of each node that is too slow, the slowest node first."""
    missing: tuple[str, ...]
    hosts: tuple[str, ...]
    """Nodes to use: all that reported, less the spare ones."""
    left_out: tuple[str, ...]
    spare: int = 0

    @property
    def exit_code(self) -> int:
        """What the ranks exit with; a bad node that a spare one replaces does no harm."""
        if len(self.missing) > self.spare:
            return MISSING
        return SLOW if any(s.host in self.hosts for s in self.slow) else 0


def judge(
    reports: Mapping[str, Metrics], missing: Sequence[str], factor: float, spare: int
) -> Verdict:
    """Compare the nodes.

    Args:
        reports: host -> its rates, in the order of the hosts.
        missing: hosts that did not report.
        factor: a node is slow when a rate of the median node is this many times its own.
        spare: how many nodes may be left out; missing ones count first, then the slowest.
    """
    rates: dict[str, list[float]] = {}
    for metrics in reports.values():
        for metric, rate in metrics.items():
            rates.setdefault(metric, []).append(rate)
    medians = {metric: statistics.median(values) for metric, values in rates.items()}
    worst = [
        max(
            (Slowness(host, metric, rate, medians[metric]) for metric, rate in metrics.items()),
            key=lambda slowness: slowness.factor,
        )
        for host, metrics in reports.items()
        if metrics
    ]
    worst.sort(key=lambda slowness: slowness.factor, reverse=True)
    enough = len(reports) >= FEWEST_NODES
    slow = tuple(s for s in worst if enough and s.factor > factor)
    left_out = [s.host for s in worst[: max(0, spare - len(missing))]]
    kept = tuple(host for host in reports if host not in left_out)
    return Verdict(slow, tuple(missing), kept, tuple(left_out), spare)


def collect(
    folder: Path, nodes: int, expected: Sequence[str], wait_s: float
) -> tuple[dict[str, Metrics], list[str]]:
    """Wait for the nodes' reports.

    Returns:
        Rates by host, in the order of `expected` where it names them, and the missing ones.
    """
    end = time.monotonic() + wait_s
    found: dict[str, Metrics] = {}
    while True:
        for path in sorted(folder.glob("*.json")):
            if path.stem not in found and path.name != "verdict.json":
                found[path.stem] = json.loads(path.read_text(encoding="utf-8"))["rates"]
        if len(found) >= nodes or time.monotonic() > end:
            break
        time.sleep(POLL_S)
    order = {host: place for place, host in enumerate(expected)}
    found = dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))
    missing = [host for host in expected if host not in found][: max(0, nodes - len(found))]
    nameless = nodes - len(found) - len(missing)
    return found, missing + [f"unnamed node {i + 1}" for i in range(nameless)]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def fly(place: Place, folder: Path, options: argparse.Namespace) -> int:
    """Measure, report, wait for the verdict; returns the exit code."""
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    verdict = folder / "verdict.json"
    if verdict.exists():
        raise PreflightError(f"{verdict} is there already: remove {folder} to measure again")
    store = folder / f".{place.host}.store"
    device, rates = measure(place, store, options.timeout)
    if place.local_rank == 0:
        report = {"format": FORMAT, "host": place.host, "device": device, "time": time.time()}
        write_json(folder / f"{place.host}.json", {**report, "units": UNITS, "rates": rates})
    if place.rank == 0:
        _conclude(place, folder, options, begin)
    end = begin + 2 * options.timeout
    while not verdict.exists():
        if time.monotonic() > end:
            raise PreflightError(f"{place.host}: rank 0 wrote no {verdict} in {end - begin:.0f} s")
        time.sleep(POLL_S)
    return int(json.loads(verdict.read_text(encoding="utf-8"))["exit_code"])


def _conclude(place: Place, folder: Path, options: argparse.Namespace, begin: float) -> None:
    nodes = -(-place.world_size // place.local_size)
    left = options.timeout - (time.monotonic() - begin)
    reports, missing = collect(folder, nodes, expected_hosts(os.environ), max(1.0, left))
    verdict = judge(reports, missing, options.factor, options.spare)
    lines = [str(slowness) for slowness in verdict.slow]
    lines += [f"{host}: did not report in {options.timeout:.0f} s" for host in missing]
    lines += [f"{host}: left out" for host in verdict.left_out]
    comparison = (
        f"{len(verdict.slow)} slower than {options.factor:g} times the median"
        if len(reports) >= FEWEST_NODES
        else "too few to compare"
    )
    took = time.monotonic() - begin
    lines.append(f"{len(reports)} of {nodes} nodes measured, {comparison}; {took:.1f} s")
    write_json(
        folder / "verdict.json",
        {
            "format": FORMAT,
            "exit_code": verdict.exit_code,
            "slow": [{**vars(s), "factor": s.factor} for s in verdict.slow],
            "missing": list(verdict.missing),
            "left_out": list(verdict.left_out),
            "hosts": list(verdict.hosts),
            "text": lines,
        },
    )
    sys.stdout.writelines(f"preflight: {line}\n" for line in lines)
    if options.spare:
        sys.stdout.write(f"preflight: hosts {' '.join(verdict.hosts)}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run on one rank; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow_profiling.preflight")
    parser.add_argument("--run", type=Path, help="run directory; default $ALPENGLOW_RUN")
    parser.add_argument("--factor", type=float, default=1.5, help="how much slower is bad (1.5)")
    parser.add_argument("--spare", type=int, default=0, help="nodes that may be left out (0)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for a node")
    words = list(sys.argv[1:] if arguments is None else arguments)
    command: list[str] = []
    if "--" in words:
        at = words.index("--")
        words, command = words[:at], words[at + 1 :]
    options = parser.parse_args(words)
    run = options.run or os.environ.get("ALPENGLOW_RUN")
    try:
        if not run:
            raise PreflightError("say --run DIR, or start this through alpenglow_lsf.run")
        if options.spare < 0 or not options.factor > 1:
            raise PreflightError("--spare must not be negative, and --factor more than 1")
        place = Place.from_environment(os.environ)
        folder = Path(run) / "preflight" / (os.environ.get("ALPENGLOW_SEGMENT") or "by-hand")
        code = fly(place, folder, options)
        if code == 0 and command:
            sys.stdout.flush()
            os.execvp(command[0], command)
    except (PreflightError, OSError) as error:
        sys.stderr.write(f"preflight: {error}\n")
        return FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
