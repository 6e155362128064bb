"""Where GPU time went, by traces of torch.profiler: a line a rank.

    python -m alpenglow_profiling.traces PATH [--steps A:B] [--rules hta] [--streams] [--json]
    [--jobs N]

PATH is a trace (.json or .json.gz) or a folder with one a rank. Times are exact; `--rules hta`
gives the figures that Holistic Trace Analysis 0.5.0 would print, by its rules (`trace_hta`).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from alpenglow_profiling.kineto import Trace, TraceError, read, trace_files
from alpenglow_profiling.trace_account import Account, account, window
from alpenglow_profiling.trace_collectives import Collective, Waits, collectives, waits
from alpenglow_profiling.trace_hta import HtaAccount, hta_account, step_names

Found = tuple[Account, list[Collective]]


def examine(path: Path, first: int | None = None, last: int | None = None) -> Found:
    """Read a trace and account for it; its columns are let go. Raises as `account` does."""
    trace = read(path)
    return account(trace, first, last), collectives(trace, window(trace, first, last))


def examine_by_hta_rules(path: Path) -> tuple[list[str], HtaAccount | None, HtaAccount | None]:
    """Names of steps, and the figures with and without the last one (all ranks decide which)."""
    trace: Trace = read(path)
    return (
        step_names(trace),
        hta_account(trace, drop_last=False),
        hta_account(trace, drop_last=True),
    )


@contextmanager
def workers(jobs: int, files: int) -> Iterator[Any]:
    """A map over files: in this process, or in some of their own so that ranks run side by side."""
    if min(jobs, files) < 2:
        yield map
        return
    import multiprocessing  # slow to import, and one file needs none

    with multiprocessing.get_context("fork").Pool(min(jobs, files)) as pool:
        yield partial(pool.imap, chunksize=1)


def _steps(text: str) -> tuple[int | None, int | None]:
    first, colon, last = text.partition(":")
    try:
        begin = int(first) if first else None
        end = (int(last) if last else None) if colon else int(first) + 1
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"steps are A:B, A: or :B in numbers of ProfilerStep, not {text!r}"
        ) from None
    return begin, end


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0, or 1 after one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m alpenglow_profiling.traces",
        description="Idle, compute and communication time by traces of torch.profiler.",
    )
    parser.add_argument("path", type=Path, help="a trace, or a folder with one a rank")
    parser.add_argument(
        "--steps",
        type=_steps,
        default=(None, None),
        metavar="A:B",
        help="ProfilerSteps A to before B",
    )
    parser.add_argument("--rules", choices=["exact", "hta"], default="exact")
    parser.add_argument(
        "--streams", action="store_true", help="also gaps by stream and their cause"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes, each reads a rank (1)"
    )
    options = parser.parse_args(arguments)
    try:
        files = trace_files(options.path)
        with workers(options.jobs, len(files)) as each:
            if options.rules == "hta":
                if options.steps != (None, None):
                    raise TraceError(
                        "--steps has no meaning with --rules hta, which chooses its steps itself"
                    )
                text = _hta_report(list(each(examine_by_hta_rules, files)), files, options.json)
            else:
                first, last = options.steps
                found = list(each(partial(examine, first=first, last=last), files))
                text = _report(found, options.json, options.streams)
    except (TraceError, OSError) as error:
        sys.stderr.write(f"alpenglow_profiling.traces: {error}\n")
        return 1
    sys.stdout.write(text)
    return 0


def _report(found: list[Found], as_json: bool, streams: bool) -> str:
    found.sort(key=lambda f: f[0].rank)
    notes = [note for one, _ in found for note in one.notes]
    ranks = [one.rank for one, _ in found]
    waiting = Waits()
    if len(ranks) > len(set(ranks)):
        notes.append(
            "several of these traces are of the same rank; their collectives are not matched"
        )
    elif len(ranks) > 1:
        waiting = waits([operations for _, operations in found])
    notes += waiting.notes
    for note in notes if as_json else ():
        sys.stderr.write(f"{note}\n")
    if as_json:
        ranks_json = [
            {**asdict(one), "exposed": one.exposed, "collectives": _sums(operations)}
            for one, operations in found
        ]
        return (
            json.dumps({"ranks": ranks_json, "waits": asdict(waiting), "notes": notes}, indent=1)
            + "\n"
        )
    lines = []
    gpu = [one for one, _ in found if one.span is not None]
    if gpu:
        lines.append(
            _row(
                "rank",
                "span ms",
                "idle %",
                "compute %",
                "non-compute %",
                "comm ms",
                "overlap %",
                "exposed ms",
            )
        )
        lines += [
            _row(
                a.rank,
                _ms(a.span),
                *(_share(part, a.span) for part in (a.idle, a.compute, a.non_compute)),
                _ms(a.communication),
                _share(a.overlap, a.communication),
                _ms(a.exposed),
            )
            for a in gpu
        ]
    host = [one for one, _ in found if one.span is None and one.host]
    if host:
        lines.append(_row("rank", "host ms", "operators ms", "comm ms", "both ms"))
        lines += [
            _row(
                a.rank, *(_ms(a.host[k]) for k in ("span", "operators", "communication", "overlap"))
            )
            for a in host
        ]
    if streams and gpu:
        lines.append(
            _row(
                "rank",
                "stream",
                "events",
                "busy ms",
                "idle ms",
                "host wait",
                "kernel wait",
                "other",
                "unlinked",
            )
        )
        lines += [
            _row(
                a.rank,
                s.stream,
                s.events,
                *map(_ms, (s.busy, s.idle, s.host_wait, s.kernel_wait, s.other, s.unlinked)),
            )
            for a in gpu
            for s in a.streams
        ]
    sums = [(one.rank, row) for one, operations in found for row in _sums(operations)]
    if sums:
        lines.append(_row("rank", "collective", "group", "count", "MB", "ms"))
        lines += [
            _row(
                rank,
                s["operation"],
                s["group"] or "?",
                s["count"],
                "?" if s["bytes"] is None else f"{s['bytes'] / 1e6:.3f}",
                _ms(s["time_ns"]),
            )
            for rank, s in sums
        ]
    if waiting.matched:
        lines.append(_row("rank", "wait ms", "transfer ms", "clock ahead ms"))
        lines += [
            _row(r, _ms(waiting.wait_ns[r]), _ms(waiting.transfer_ns[r]), _ms(waiting.offset_ns[r]))
            for r in sorted(waiting.wait_ns)
        ]
        lines.append(
            f"{waiting.matched} collectives matched; after aligning clocks by their ends, ends are "
            f"{waiting.residual_ns / 1e3:.1f} us apart (median), {waiting.disordered} stand before "
            "the last arrival"
        )
    return "\n".join([*lines, *notes]) + "\n"


def _sums(operations: list[Collective]) -> list[dict[str, Any]]:
    """Count, bytes and time of each operation in each group; bytes None if a size is unknown."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for c in operations:
        row = sums.setdefault(
            (c.operation, c.group),
            {"operation": c.operation, "group": c.group, "count": 0, "bytes": 0, "time_ns": 0},
        )
        row["count"] += 1
        row["time_ns"] += c.end_ns - c.begin_ns
        row["bytes"] = None if row["bytes"] is None or c.bytes is None else row["bytes"] + c.bytes
    return list(sums.values())


def _hta_report(
    found: list[tuple[list[str], HtaAccount | None, HtaAccount | None]],
    files: list[Path],
    as_json: bool,
) -> str:
    steps = {name for names, _, _ in found for name in names}
    chosen = [dropped if len(steps) > 1 else whole for _, whole, dropped in found]
    for path, one in zip(files, chosen, strict=True):
        if one is None:
            sys.stderr.write(
                f"{path}: no GPU kernels in this trace; Holistic Trace Analysis takes none such\n"
            )
    accounts = sorted((one for one in chosen if one is not None), key=lambda a: a.rank)
    if not accounts:
        raise TraceError(f"{files[0].parent}: no trace with GPU kernels")
    if as_json:
        return json.dumps([asdict(one) for one in accounts], indent=1) + "\n"
    lines = [_row("rank", "idle us", "compute us", "non-compute us", "kernel us", "overlap %")]
    lines += [
        _row(a.rank, *(f"{v:.0f}" for v in (a.idle, a.compute, a.non_compute, a.span)),
             "-" if math.isnan(a.overlap_percent) else f"{a.overlap_percent:.2f}")
        for a in accounts
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _row(*cells: object) -> str:
    return f"{cells[0]!s:>5}" + "".join(f" {cell!s:>14}" for cell in cells[1:])


def _ms(ns: int | None) -> str:
    return "-" if ns is None else f"{ns / 1e6:.3f}"


def _share(part: int | None, whole: int | None) -> str:
    return f"{100 * part / whole:.2f}" if part is not None and whole else "-"


if __name__ == "__main__":
    sys.exit(main())
