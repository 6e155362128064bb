"""Run a function on several gloo ranks of this machine and get each rank's result.

    from distributed_ranks import run_ranks

    def worker(rank: int, size: int, degree: int) -> float: ...   # at module level

    results = run_ranks(worker, 4, 2, timeout=60)

Ranks are forked from a server process that has imported torch and DeepSpeed once and done nothing
else: forking pytest itself would copy its OpenMP and autograd threads half. Each rank has the
default process group ready (gloo over a FileStore, no port) and RANK, WORLD_SIZE, LOCAL_RANK and
LOCAL_SIZE set; `deepspeed.init_distributed()` then joins the same group.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

PRELOADED = [
    "torch",
    "torch.distributed",
    "deepspeed",
    "deepspeed.pipe",
    "alpenglow.train.pretrain",
]


class RanksFailed(RuntimeError):
    """A rank raised, died or did not end in time; the message has its traceback and output."""


def run_ranks(
    function: Callable[..., Any], size: int, *arguments: Any, timeout: float = 120.0
) -> list[Any]:
    """Call `function(rank, size, *arguments)` on `size` ranks.

    Args:
        function: defined at the top level of a module or test file.
        size: number of ranks, each a process with one thread.
        arguments: picklable; results are pickled too.
        timeout: seconds until every rank is killed.

    Returns:
        The results in rank order.

    Raises:
        RanksFailed: with the traceback and last output of the rank that failed first.
    """
    context = forkserver()
    pickled = pickle.dumps(arguments)  # as bytes, or each tensor would take a file descriptor
    target = (function.__module__, inspect.getfile(function), function.__qualname__)
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        processes, pipes = [], []
        try:
            for rank in range(size):
                here, there = context.Pipe(duplex=False)
                settings = (dict(os.environ), list(sys.path), folder, timeout)
                process = context.Process(
                    target=_rank, args=(there, target, rank, size, pickled, settings)
                )
                process.start()
                there.close()
                processes.append(process)
                pipes.append(here)
            results = _collect(pipes, folder, timeout)
            for process in processes:
                process.join(timeout=5)
            return results
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
            for pipe in pipes:
                pipe.close()


def forkserver() -> ForkServerContext:
    """Start the server that ranks are forked from, unless it runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # Read by DeepSpeed as the server imports it: these ranks talk gloo, so they compute on the CPU.
    with _environment(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1"):
        multiprocessing.forkserver.ensure_running()
    return context


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _collect(pipes: list[Connection], folder: str, timeout: float) -> list[Any]:
    deadline = time.monotonic() + timeout
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        open_pipes = [pipe for rank, pipe in enumerate(pipes) if rank not in results]
        ready = wait(open_pipes, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            late = [rank for rank in range(len(pipes)) if rank not in results]
            raise RanksFailed(f"ranks {late} did not end in {timeout} s\n{_tail(folder, late[0])}")
        for pipe in ready:
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                good, value = pickle.loads(pipes[rank].recv_bytes())
            except EOFError:
                raise RanksFailed(f"rank {rank} died\n{_tail(folder, rank)}") from None
            if not good:
                raise RanksFailed(f"rank {rank} raised\n{value}\n{_tail(folder, rank)}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _tail(folder: str, rank: int) -> str:
    path = Path(folder) / f"output-{rank}"
    text = path.read_text(errors="replace") if path.exists() else ""
    return f"--- last output of rank {rank} ---\n{text[-2000:]}"


def _rank(
    pipe: Connection,
    target: tuple[str, str, str],
    rank: int,
    size: int,
    arguments: bytes,
    settings: tuple[dict[str, str], list[str], str, float],
) -> None:
    environment, path, folder, timeout = settings
    output = os.open(f"{folder}/output-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    places = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_SIZE": size}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update(GLOO_SOCKET_IFNAME="lo", DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")
    sys.path[:] = path
    try:
        import torch
        from torch import distributed

        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo",
            store=distributed.FileStore(f"{folder}/store", size),  # type: ignore[attr-defined]
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout),
        )
        result = _load(target)(rank, size, *pickle.loads(arguments))
        message = pickle.dumps((True, result))
        distributed.barrier()  # nobody takes its sockets away while another still works
    except BaseException:
        message = pickle.dumps((False, traceback.format_exc()))
    pipe.send_bytes(message)
    pipe.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads and DeepSpeed's exit hooks have nothing left to do


def _load(target: tuple[str, str, str]) -> Callable[..., Any]:
    name, file, qualname = target
    if name in sys.modules or importlib.util.find_spec(name.split(".")[0]) is not None:
        try:
            value: Any = importlib.import_module(name)
        except ModuleNotFoundError:
            value = None
    else:
        value = None
    if value is None:  # a test file, which pytest imports under a name of its own
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        value = importlib.util.module_from_spec(spec)
        sys.modules[name] = value
        spec.loader.exec_module(value)
    for part in qualname.split("."):
        value = getattr(value, part)
    return value  # type: ignore[no-any-return]
