"""Rehearse a pipeline schedule on this computer: the real engine, with passes that only take time.

    python -m alpenglow.train.rehearsal runs/rehearsal                     1F1B against ZB-H1
    python -m alpenglow.train.rehearsal runs/try --case 4x1:8 --forward 40 --backward-weight 30

A case PIPELINExDATA:MICRO_BATCHES starts that many ranks, forked after one import of torch, and
leaves a run directory like a training run's for each schedule (runs/rehearsal/pp12-m8-zb-h1), which
`alpenglow report` and `python -m alpenglow_analysis.comparison` draw. DeepSpeed's engine, messages,
reductions and optimizer are real; a pass sleeps what is left of its modelled length
(alpenglow.train.pacing). The table sets the measured bubble beside that of
alpenglow.parallel.timeline with blocking messages of the length measured here; a second table
predicts every case from one (alpenglow.train.rehearsal_prediction). Exit code 1 where a
pass is shorter than 50 messages (unless --anyway): then the computer would be measured rather than
the schedule.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from alpenglow.config import ConfigError, to_tables
from alpenglow.model.config import ModelConfig
from alpenglow.parallel.layout import Layout, LayoutError
from alpenglow.parallel.timeline import Durations
from alpenglow.train.recipe import (
    BatchRecipe,
    DataRecipe,
    OptimizerRecipe,
    ParallelRecipe,
    PrecisionRecipe,
    PretrainRecipe,
    TrainRecipe,
)
from alpenglow.train.rehearsal_outcome import Outcome, outcome, table
from alpenglow.train.rehearsal_prediction import prediction_table
from alpenglow.train.run_directory import code_version, utc_now
from alpenglow_lsf.files import write_text
from alpenglow_lsf.ranks import Ranks
from alpenglow_profiling.events import merge, read

if TYPE_CHECKING:
    from alpenglow.train.pacing import Case

MESSAGES_A_PASS = 50
"""A pass must last at least so many messages."""
CASES = ("12x2:8", "12x2:16", "6x2:8")
SCHEDULES = ("1f1b", "zb-h1")
SEGMENT = "local.1"
HOST = "node00"
WIDTH = 64
"""Floats of an activation."""


class RehearsalError(RuntimeError):
    """A rehearsal that cannot go on; the message is one sentence for the user."""


def recipe(layout: Layout, micro_batches: int, schedule: Any) -> PretrainRecipe:
    """The recipe that DeepSpeed's engine is configured from; the model is as small as can be."""
    return PretrainRecipe(
        model=ModelConfig(
            num_layers=layout.pipeline,
            hidden_size=WIDTH,
            num_attention_heads=1,
            vocab_size=16,
            max_position_embeddings=1,
        ),
        batch=BatchRecipe(micro_batches * layout.data, micro_batch_size=1, sequence_length=1),
        optimizer=OptimizerRecipe(lr=1e-3),
        data=DataRecipe({"none": 1.0}),
        train=TrainRecipe(steps=1),
        parallel=ParallelRecipe(layout.pipeline, 1, schedule=schedule),
        precision=PrecisionRecipe(dtype="fp32"),
    )


def describe(case: Case) -> dict[str, Any]:
    """The tables of run.toml, as a training run's."""
    layout, batch = case.layout, case.recipe.batch
    return {
        "run": {
            "name": case.run.name,
            "activity": "rehearsal",
            "created": utc_now(),
            "code_version": code_version(),
        },
        "machine": {
            "name": "rehearsal",
            "nodes": 1,
            "ranks": layout.world,
            "ranks_per_node": layout.world,
            "gpus_per_node": 0,
        },
        "layout": dataclasses.asdict(layout),
        "batch": {
            "micro_batch_size": batch.micro_batch_size,
            "micro_batches": case.recipe.micro_batches(layout),
            "sequence_length": batch.sequence_length,
            "tokens_per_step": batch.tokens_per_step,
        },
        "data": {"catalogue": "none", "fingerprint": "none", "tokenizer": "none"},
        "recipe": to_tables(case.recipe),
        "rehearsal": {
            name: list(value) if isinstance(value, Sequence) else value
            for name, value in dataclasses.asdict(case.took).items()
        },
    }


def play(cases: Sequence[Case], messages_a_pass: float) -> list[Outcome]:
    """Rehearse cases of one layout, one after the other on the same forked ranks.

    Args:
        cases: what to play.
        messages_a_pass: a pass must be as long as so many messages.

    Raises:
        RehearsalError: a rank failed, or passes are too short for this computer.
    """
    for case in cases:
        case.run.mkdir(parents=True)
        write_text(case.run / "run.toml", tomli_w.dumps(describe(case)))
    messages = _fork(cases, cases[0].layout.world, messages_a_pass)
    for case in cases:
        merge(case.run / "events" / SEGMENT, remove_logs=True)
    return [
        outcome(case, read(case.run / "events" / SEGMENT).rows, message)
        for case, message in zip(cases, messages, strict=True)
    ]


def _fork(cases: Sequence[Case], world: int, messages_a_pass: float) -> list[float]:
    """Fork the ranks and collect the message times that they measured."""
    import alpenglow.train.pacing  # noqa: F401 - imported once, before the ranks are forked

    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder, _ended() as processes:
        pipes: list[Connection] = []
        for rank in range(world):
            here, there = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank, args=(rank, world, folder, cases, messages_a_pass, there)
            )
            process.start()
            there.close()
            processes.append(process)
            pipes.append(here)
        answers: dict[int, list[float]] = {}
        while len(answers) < world:
            for pipe in wait([p for rank, p in enumerate(pipes) if rank not in answers]):
                rank = pipes.index(pipe)  # type: ignore[arg-type]
                try:
                    answer = pipes[rank].recv()
                except EOFError:
                    raise RehearsalError(f"rank {rank} ended without a word") from None
                if isinstance(answer, str):
                    raise RehearsalError(answer)
                answers[rank] = answer
        return answers[0]


@contextlib.contextmanager
def _ended() -> Iterator[list[Any]]:
    """A list of processes of which none is left behind."""
    processes: list[Any] = []
    try:
        yield processes
    except BaseException:
        for process in processes:
            process.kill()
        raise
    finally:
        for process in processes:
            process.join()


def _rank(
    rank: int,
    world: int,
    folder: str,
    cases: Sequence[Case],
    messages_a_pass: float,
    pipe: Connection,
) -> None:
    """One rank, from fork to end."""
    from datetime import timedelta

    from torch import distributed

    from alpenglow.train.engine import start
    from alpenglow.train.environment import prepare
    from alpenglow.train.pacing import rehearse

    answer: str | list[float]
    try:
        ranks = Ranks(rank, rank, world, world, HOST, "127.0.0.1", 29500)
        prepare(ranks)
        timeout = cases[0].recipe.train.collective_timeout_s
        distributed.init_process_group(
            "gloo",
            store=distributed.FileStore(f"{folder}/store", world),  # type: ignore[attr-defined]
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=timeout),
        )
        start(ranks, timeout_s=timeout)
        answer = [
            rehearse(case, SEGMENT, HOST, _too_short(case.took, messages_a_pass)) for case in cases
        ]
        distributed.barrier()
    except ValueError as error:
        answer = str(error)
    except BaseException:
        answer = f"rank {rank} failed:\n{traceback.format_exc()}"
    pipe.send(answer)
    pipe.close()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads and DeepSpeed's exit hooks have nothing left to do


def _too_short(took: Durations, messages_a_pass: float) -> Callable[[float], str | None]:
    """What refuses passes that are not long beside a message."""
    lengths = (took.forward, took.backward_input, took.backward_weight)
    shortest = min(min(each) if isinstance(each, Sequence) else each for each in lengths)

    def check(message_s: float) -> str | None:
        if shortest >= messages_a_pass * message_s:
            return None
        return (
            f"the shortest pass lasts {1e3 * shortest:g} ms, less than {messages_a_pass:g} "
            f"messages of {1e3 * message_s:.2f} ms on this computer: give passes of at least "
            f"{1e3 * messages_a_pass * message_s:.0f} ms, or fewer ranks"
        )

    return check


def _lengths(text: str) -> float | tuple[float, ...]:
    """Milliseconds, one number or one a stage, as seconds."""
    values = tuple(float(each) / 1e3 for each in text.split(","))
    if not all(value > 0 for value in values):
        raise argparse.ArgumentTypeError(f"{text}: lengths in ms must be greater than 0")
    return values if len(values) > 1 else values[0]


def _case(text: str) -> tuple[Layout, int]:
    """Read PIPELINExDATA:MICRO_BATCHES."""
    try:
        shape, count = text.split(":")
        pipeline, data = shape.split("x")
        layout = Layout(int(pipeline), 1, int(data))
        if int(count) < 1 or layout.pipeline < 2:
            raise ValueError
    except (ValueError, LayoutError):
        raise argparse.ArgumentTypeError(
            f"{text}: write PIPELINExDATA:MICRO_BATCHES with two stages or more, such as 12x2:8"
        ) from None
    return layout, int(count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rehearse and print the table; 0, or 1 after one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m alpenglow.train.rehearsal")
    parser.add_argument("runs", type=Path, help="folder to be made for the run directories")
    parser.add_argument(
        "--case", type=_case, action="append", metavar="PxD:M", help=f"default {' '.join(CASES)}"
    )
    parser.add_argument("--schedule", choices=SCHEDULES, action="append", help="default: both")
    for name in ("forward", "backward-input", "backward-weight"):
        parser.add_argument(
            f"--{name}",
            type=_lengths,
            default=0.2,
            metavar="MS",
            help="one number, or one a stage; default 200",
        )
    parser.add_argument("--anyway", action="store_true", help="play passes that are too short")
    parser.add_argument("--steps", type=int, default=6, help="the first is not counted")
    options = parser.parse_args(arguments)
    took = Durations(options.forward, options.backward_input, options.backward_weight)
    try:
        outcomes = _study(options, took)
    except (RehearsalError, ConfigError, OSError) as error:
        sys.stderr.write(f"alpenglow.train.rehearsal: {error}\n")
        return 1
    text = table(outcomes, took)
    if len(outcomes) > 1:
        text += "\n" + prediction_table(outcomes, took)
    write_text(options.runs / "table.md", text)
    sys.stdout.write(text)
    return 0


def _study(options: argparse.Namespace, took: Durations) -> list[Outcome]:
    if options.runs.exists():
        raise RehearsalError(f"{options.runs} exists: name a folder that can be made")
    if options.steps < 2:
        raise RehearsalError(f"--steps {options.steps}: at least 2, since the first is not counted")
    wanted: list[tuple[Layout, int]] = options.case or [_case(text) for text in CASES]
    for layout, _ in wanted:
        for length in (took.forward, took.backward_input, took.backward_weight):
            if isinstance(length, Sequence) and len(length) != layout.pipeline:
                raise RehearsalError(
                    f"{len(length)} lengths are given for {layout.pipeline} stages"
                )
    os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")  # before torch is imported
    from alpenglow.train.pacing import Case

    by_layout: dict[Layout, list[Case]] = {}
    for layout, count in wanted:
        for name in options.schedule or SCHEDULES:
            run = options.runs / f"pp{layout.pipeline}-m{count}-{name}"
            case = Case(recipe(layout, count, name), layout, took, options.steps, run)
            by_layout.setdefault(layout, []).append(case)
    outcomes = []
    for layout, cases in by_layout.items():
        began = time.monotonic()
        outcomes += play(cases, 0 if options.anyway else MESSAGES_A_PASS)
        sys.stderr.write(
            f"{len(cases)} rehearsals of {layout.pipeline} stages x {layout.data}: "
            f"{time.monotonic() - began:.0f} s\n"
        )
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
