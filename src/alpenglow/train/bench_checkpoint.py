"""What a save costs a step: our snapshot, a plain memory copy, and DeepSpeed's torch engine.

    python -m alpenglow.train.bench_checkpoint [--megabytes 500] [--ranks 2] [--rate 250]

Ranks are processes of this computer, one pipeline stage each, with the real engine and optimizer
state. In each round, one after the other: the bytes of the state copied once in memory (one
contiguous copy a rank); our `Saver.begin`, the time that a training step would stand still, with
its drain waited for outside the measurement; and DeepSpeed's `save_checkpoint` with its torch
checkpoint engine, each file synced. Both write to real files on the same rate-limited target: a
token bucket a rank delays every write of either (ours through `os.pwrite`, DeepSpeed's through
the file object that `torch.save` is given), so that all ranks together write `--rate` MB/s. The
time of a round is that of its slowest rank.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

HIDDEN = 1024
VOCABULARY = 4096
COLUMNS = ("memory copy", "snapshot", "DeepSpeed")


class TokenBucket:
    """Delays writes so that they do not pass a rate; a bucket holds a tenth of a second.

    Args:
        rate: bytes a second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = time.monotonic()

    def take(self, nbytes: int) -> None:
        """Wait until so many bytes may be written."""
        now = time.monotonic()
        self._free = max(self._free, now - 0.1) + nbytes / self._rate
        if self._free > now:
            time.sleep(self._free - now)


class LimitedFile:
    """A binary file whose writes wait for a token bucket; what `torch.save` is given."""

    def __init__(self, file: BinaryIO, bucket: TokenBucket) -> None:
        self._file = file
        self._bucket = bucket

    def write(self, data: Any) -> int:
        """Write once there are tokens."""
        self._bucket.take(memoryview(data).nbytes)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    megabytes: int
    ranks: int
    rate: float
    rounds: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the ranks; rank 0 prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow.train.bench_checkpoint", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--megabytes", type=int, default=500, help="state of all ranks")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rate", type=float, default=250.0, help="MB/s of the target, all ranks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="of the target; default: the temporary one")
    options = parser.parse_args(arguments)
    sizes = Sizes(options.megabytes, options.ranks, options.rate * 1e6, options.rounds)
    rank = os.environ.get("ALPENGLOW_RANK")
    if rank is not None:
        return _rank(sizes, options.folder)
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = sys.argv[1:] if arguments is None else [*arguments]
    with tempfile.TemporaryDirectory(prefix="checkpoint-bench-", dir=options.folder) as folder:
        command = [sys.executable, "-m", "alpenglow.train.bench_checkpoint", *given]
        ranks = [
            subprocess.Popen(
                [*command, "--folder", folder],
                env=os.environ | _environment(number, options.ranks, port),
            )
            for number in range(options.ranks)
        ]
        try:
            codes = [rank.wait() for rank in ranks]
        finally:
            for process in ranks:
                process.kill()
    return max(codes)


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        "ALPENGLOW_RANK": str(rank),
        "ALPENGLOW_WORLD_SIZE": str(size),
        "ALPENGLOW_LOCAL_RANK": str(rank),
        "ALPENGLOW_LOCAL_SIZE": str(size),
        "ALPENGLOW_MASTER_ADDRESS": "127.0.0.1",
        "ALPENGLOW_MASTER_PORT": str(port),
        "ALPENGLOW_HOST": "node00",
        "OMP_NUM_THREADS": "1",
    }


def _rank(sizes: Sizes, folder: Path) -> int:
    from alpenglow.train.environment import prepare
    from alpenglow_lsf.ranks import Ranks

    ranks = Ranks.from_environment()
    prepare(ranks)
    from alpenglow.train.checkpoint import DistributedGroup
    from alpenglow.train.engine import start

    start(ranks, timeout_s=600)
    group = DistributedGroup(ranks.host)
    bench = _Bench(sizes, folder, group)
    took: dict[str, list[float]] = {name: [] for name in COLUMNS}
    drains = []
    bench.timed(bench.snapshot)  # the first meets every page of the state for the first time
    for number in range(1, sizes.rounds + 1):
        bench.step = number
        for name, act in zip(COLUMNS, (bench.copy, bench.snapshot, bench.deepspeed), strict=True):
            took[name].append(bench.timed(act))
        drains.append(bench.drain_s)
    if ranks.rank == 0:
        sys.stdout.write(_table(bench, took, drains))
        sys.stdout.flush()
    group.barrier()
    import torch.distributed

    torch.distributed.destroy_process_group()
    return 0


class _Bench:
    def __init__(self, sizes: Sizes, folder: Path, group: Any) -> None:
        import torch

        from alpenglow.train.engine import Engine
        from alpenglow.train.restart import rank_fragments
        from alpenglow.train.saver import Saver
        from alpenglow_profiling.events import NullRecorder

        self.sizes, self.group, self.folder = sizes, group, folder
        recipe = _recipe(sizes)
        layout = recipe.layout(sizes.ranks)
        device = torch.device("cpu")
        self.engine = Engine.build(recipe, layout, NullRecorder(), device)
        self._fragments = rank_fragments
        self._bucket = TokenBucket(sizes.rate / sizes.ranks)
        bucket = self._bucket

        def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
            piece = data[: 1 << 20]
            bucket.take(len(piece))
            return os.pwrite(descriptor, piece, offset)

        self._saver = Saver(
            folder / "ours",
            group,
            NullRecorder(),
            keep_last=1,
            local=folder / "local" / f"rank-{group.rank}.section",
            pwrite=pwrite,
        )
        own = self._fragments(self.engine, group.rank)
        self._saver.prepare(own)
        self.nbytes = sum(fragment.nbytes for fragment, _ in own)
        self._source = torch.ones(self.nbytes, dtype=torch.uint8)
        self._target = torch.ones(self.nbytes, dtype=torch.uint8)
        self._limit_deepspeed()
        self.step = 0
        self.drain_s = 0.0

    def _limit_deepspeed(self) -> None:
        """Give DeepSpeed's engine a torch checkpoint engine that writes to the same target."""
        import torch
        from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

        bucket = self._bucket

        class Limited(TorchCheckpointEngine):
            def save(self, state_dict: Any, path: str) -> None:
                with Path(path).open("wb", buffering=1 << 20) as file:
                    torch.save(
                        state_dict,
                        LimitedFile(file, bucket),  # type: ignore[arg-type]
                        _use_new_zipfile_serialization=self.zipfile_serialization,
                    )
                    file.flush()
                    os.fsync(file.fileno())

        self.engine.inner.checkpoint_engine = Limited(self.engine.inner._config)

    def timed(self, act: Callable[[], None]) -> float:
        """Seconds of the slowest rank."""
        self.group.barrier()
        begin = time.monotonic()
        act()
        own = time.monotonic() - begin
        (slowest,) = self.group.all_reduce_max([int(own * 1e9)])
        if self._saver.draining:
            outcome = self._saver.finish()
            self.drain_s = getattr(outcome, "drain_s", float("nan"))
        return float(slowest) / 1e9

    def copy(self) -> None:
        """Copy as many bytes as this rank's state has."""
        self._target.copy_(self._source)

    def snapshot(self) -> None:
        """What `Trainer` does at a step border."""
        own = self._fragments(self.engine, self.group.rank)
        self._saver.begin(self.step, own, {})

    def deepspeed(self) -> None:
        """DeepSpeed's own save."""
        target = self.folder / "deepspeed"
        if self.group.rank == 0:
            shutil.rmtree(target, ignore_errors=True)
        self.group.barrier()
        with contextlib.redirect_stdout(None):
            self.engine.inner.save_checkpoint(str(target), tag="bench")


def _recipe(sizes: Sizes) -> Any:
    from alpenglow.model.config import ModelConfig
    from alpenglow.train.recipe import (
        BatchRecipe,
        DataRecipe,
        OptimizerRecipe,
        ParallelRecipe,
        PrecisionRecipe,
        PretrainRecipe,
        TrainRecipe,
    )

    # fp32: weights and two moments, 12 bytes a parameter.
    wanted = sizes.megabytes * 1e6 / 12
    layer = 12 * HIDDEN**2 + 13 * HIDDEN
    layers = max(sizes.ranks, round((wanted - 2 * HIDDEN * VOCABULARY) / layer))
    return PretrainRecipe(
        model=ModelConfig(
            num_layers=layers,
            hidden_size=HIDDEN,
            num_attention_heads=8,
            vocab_size=VOCABULARY,
            max_position_embeddings=128,
        ),
        batch=BatchRecipe(global_batch_size=1, micro_batch_size=1, sequence_length=128),
        optimizer=OptimizerRecipe(lr=1e-3),
        data=DataRecipe({"github": 1.0}),
        train=TrainRecipe(steps=1),
        parallel=ParallelRecipe(pipeline=sizes.ranks),
        precision=PrecisionRecipe(dtype="fp32"),
    )


def _table(bench: _Bench, took: dict[str, list[float]], drains: list[float]) -> str:
    sizes = bench.sizes
    copy = took["memory copy"]
    lines = [
        f"state {bench.engine.layout.world} ranks, {bench.nbytes / 1e6:,.0f} MB on rank 0; target "
        f"{sizes.rate / 1e6:,.0f} MB/s for all ranks; {sizes.rounds} rounds, interleaved",
        f"{'':12}  {'median s':>9}  {'min to max s':>17}",
    ]
    for name, values in [*took.items(), ("our drain", drains)]:
        spread = f"{min(values):.3f} to {max(values):.3f}"
        lines.append(f"{name:12}  {statistics.median(values):9.3f}  {spread:>17}")
    for name, base, text in (
        ("snapshot", copy, "snapshot / memory copy"),
        ("snapshot", took["DeepSpeed"], "snapshot / DeepSpeed"),
    ):
        ratios = [one / other for one, other in zip(took[name], base, strict=True)]
        lines.append(
            f"{text}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), "
            f"of the fastest rounds {min(took[name]) / min(base):.3f}"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
