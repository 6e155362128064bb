"""Pre-flight: time every node of a job before its hours are spent, and leave the bad ones out.

    jsrun -r1 -a6 -g6 -c42 ... python -m alpenglow_profiling.preflight --run runs/pretrain_7b
    jsrun ... python -m alpenglow_profiling.preflight --spare 2 -- python -m alpenglow.train RECIPE

Every rank runs this. The ranks of a node time a matrix product, a memory copy, transfers between
each pair of them and an all-reduce, on their GPUs (NCCL) or CPUs (gloo), and leave
RUN/preflight/SEGMENT/HOST.json. Nodes do not talk to each other: a bad one cannot hang the rest.
Rank 0 compares like with like (local rank 3's GPU with local rank 3's elsewhere), writes
verdict.json and says what is wrong; where its own node is silent, the next node's first rank does.

With a command behind `--` the ranks of the nodes in use become that command, renumbered where nodes
were left out; the others stand aside with exit code 0. `--shrink 384,256` names smaller node counts
that will do where the spare nodes do not suffice; without it too few sound nodes end the step.

Exit code 0: go. 3: a node is slower than the median by --factor, and no spare is left to stand in.
4: a node did not report. 1: it could not be measured.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from alpenglow_profiling.order import Order, OrderError
from alpenglow_profiling.place import Place, PreflightError, expected_hosts, spare_here
from alpenglow_profiling.rates import measure
from alpenglow_profiling.reports import (
    POLL_S,
    VERDICT,
    Report,
    collect,
    read_reports,
    tell_end,
    write_first,
)
from alpenglow_profiling.understudy import run_beneath
from alpenglow_profiling.verdict import FAILED, FEWEST_NODES, FORMAT, Roster, Verdict, judge

BY_HAND = "by-hand"
"""Folder of a pre-flight outside a segment."""


def fly(place: Place, folder: Path, order: Order) -> Roster:
    """Measure, report, and wait for the verdict.

    Raises:
        PreflightError: no verdict came, or this rank's node is in use and could not be measured.
    """
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    verdict = folder / VERDICT
    if verdict.exists():
        if folder.name == BY_HAND:
            raise PreflightError(f"{verdict} is there already: remove {folder} to measure again")
        return Roster.read(verdict)  # this node is late, and was judged as missing
    problem: PreflightError | None = None
    try:
        # Half the time: a silent neighbour is to be told of before the node counts as silent.
        device, rates, ranks = measure(place, folder / f".{place.host}.store", order.timeout_s / 2)
    except PreflightError as error:
        problem = error
        Report(place.host, place.address, (), "", {}, str(error)).write(folder)
    else:
        if place.local_rank == 0:
            Report(place.host, place.address, ranks, device, rates).write(folder)
    if place.rank == 0:
        _conclude(place, folder, order, begin)
    patience = begin + 1.1 * order.timeout_s
    end = begin + 2 * order.timeout_s
    while not verdict.exists():
        now = time.monotonic()
        if now > end:
            raise PreflightError(f"{place.host}: rank 0 wrote no {verdict} in {end - begin:.0f} s")
        if now > patience and place.local_rank == 0 and _stands_in(place, folder):
            _conclude(place, folder, order, begin)
        time.sleep(POLL_S)
    roster = Roster.read(verdict)
    if problem is not None and roster.exit_code == 0 and place.host in roster.hosts:
        raise problem
    return roster


def _stands_in(place: Place, folder: Path) -> bool:
    """Whether the node of rank 0 is silent and this one is the first that is not."""
    firsts = {min(r.ranks): r.host for r in read_reports(folder).values() if r.ranks}
    return bool(firsts) and 0 not in firsts and firsts[min(firsts)] == place.host


def _conclude(place: Place, folder: Path, order: Order, begin: float) -> None:
    left = order.timeout_s - (time.monotonic() - begin)
    expected = expected_hosts(os.environ)
    reports, missing = collect(folder, place.nodes, expected, max(1.0, left))
    spare = spare_here(order.spare, place.nodes, os.environ)
    cut = spare != order.spare
    sound = {host: report.rates for host, report in reports.items() if report.error is None}
    verdict = judge(
        sound,
        missing,
        order.factor,
        spare,
        failed=[host for host in reports if host not in sound],
        shrink=() if cut else order.shrink,
    )
    lines = _lines(verdict, reports, order, place.nodes)
    if cut:
        lines.insert(
            0, f"{place.nodes} nodes stand in for more: --spare {order.spare} becomes {spare}"
        )
    took = time.monotonic() - begin
    lines[-1] += f"; {took:.1f} s"
    ranks = sorted(rank for host in verdict.hosts for rank in reports[host].ranks)
    holders = (reports[host] for host in verdict.hosts if ranks and ranks[0] in reports[host].ranks)
    told = {
        "format": FORMAT,
        "exit_code": verdict.exit_code,
        "slow": [{**vars(s), "factor": s.factor} for s in verdict.slow],
        "missing": list(verdict.missing),
        "failed": list(verdict.failed),
        "left_out": list(verdict.left_out),
        "hosts": list(verdict.hosts),
        "ranks": ranks,
        "master": next((report.address for report in holders), ""),
        "text": lines,
    }
    if write_first(folder / VERDICT, told):
        sys.stdout.writelines(f"preflight: {line}\n" for line in lines)
        sys.stdout.flush()


def _lines(verdict: Verdict, reports: Mapping[str, Report], order: Order, nodes: int) -> list[str]:
    lines = [str(slowness) for slowness in verdict.slow]
    lines += [f"{host}: did not report in {order.timeout_s:.0f} s" for host in verdict.missing]
    lines += [str(reports[host].error) for host in verdict.failed]
    lines += [f"{host}: left out" for host in verdict.left_out]
    if verdict.exit_code == 0 and (verdict.left_out or verdict.missing):
        lines.append(f"{len(verdict.hosts)} of {nodes} nodes in use: {' '.join(verdict.hosts)}")
    measured = len(reports) - len(verdict.failed)
    comparison = (
        f"{len(verdict.slow)} slower than {order.factor:g} times the median"
        if measured >= FEWEST_NODES
        else "too few to compare"
    )
    return [*lines, f"{measured} of {nodes} nodes measured, {comparison}"]


def become(place: Place, folder: Path, roster: Roster, command: Sequence[str]) -> int:
    """Become the command, or stand aside; returns an exit code where this process goes on."""
    environ = dict(os.environ)
    if not roster.whole:
        if place.host not in roster.hosts:
            if place.local_rank == 0:
                sys.stdout.write(f"preflight: {place.host} stands aside\n")
            return 0
        environ |= place.among(roster.ranks).environment(roster.master)
    sys.stdout.flush()
    if not roster.waits:
        os.execvpe(command[0], list(command), environ)
    # A silent node's ranks may hang for ever, and the launcher with them: the parent of the step
    # ends it once all others have told their end.
    code = run_beneath(command, environ)
    tell_end(folder, place.host, place.rank, code)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run on one rank; see the module's text."""
    try:
        order = Order.parse(sys.argv[1:] if arguments is None else arguments)
        run = order.run or os.environ.get("ALPENGLOW_RUN")
        if not run:
            raise PreflightError("say --run DIR, or start this through alpenglow_lsf.run")
        place = Place.from_environment(os.environ)
        if spare_here(order.spare, place.nodes, os.environ) >= place.nodes:
            raise PreflightError(f"--spare {order.spare} leaves none of {place.nodes} nodes")
        folder = Path(run) / "preflight" / (os.environ.get("ALPENGLOW_SEGMENT") or BY_HAND)
        roster = fly(place, folder, order)
        if roster.exit_code or not order.command:
            return roster.exit_code
        return become(place, folder, roster, order.command)
    except (OrderError, PreflightError, OSError) as error:
        sys.stderr.write(f"preflight: {error}\n")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
