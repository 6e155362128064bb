from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.lsf.conftest import Site

RANK = "JSM_NAMESPACE_RANK"


def test_ranks_get_the_variables_of_jsrun_and_spectrum_mpi(site: Site) -> None:
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    done = site.call(
        "jsrun", "-r1", "-a6", "-g6", "-c42", "-b", "packed:7", "-E", "MINE=a b",
        sys.executable, "-c", program, LSB_JOBID="7", OMPI_COMM_WORLD_NODE_RANK="9",
        ALPENGLOW_RANK="5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = sorted(
        (json.loads(line) for line in done.stdout.splitlines()), key=lambda e: int(e[RANK])
    )
    assert [int(e[RANK]) for e in ranks] == list(range(8))
    for number, environ in enumerate(ranks):
        for prefix in ("JSM_NAMESPACE_", "OMPI_COMM_WORLD_"):
            found = [environ[prefix + n] for n in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")]
            assert found == [str(number), "8", str(number % 4), "4"]
        assert environ["ALPENGLOW_HOST"] == f"node{1 + number // 4}"
        assert environ["ALPENGLOW_HOST_ADDRESS"] == f"127.0.0.{2 + number // 4}"
        assert environ["ALPENGLOW_MASTER_ADDR"] == "127.0.0.2"
        assert environ["ALPENGLOW_STEP_NODES"] == "2"
        assert environ["OMP_NUM_THREADS"] == "1"
        assert environ["MINE"] == "a b"
        assert "OMPI_COMM_WORLD_NODE_RANK" not in environ
    said = "jsrun: laptop stands in for summit: 12 ranks on 2 nodes become 8 ranks on "
    assert done.stderr == said + "2 pretend nodes\n"


def test_a_step_that_fits_the_laptop_is_not_cut_and_says_nothing(site: Site) -> None:
    done = site.call("jsrun", "-n1", "-a2", "-c2", "sh", "-c", "echo $ALPENGLOW_HOST")
    assert (done.stdout, done.stderr) == ("node1\nnode1\n", "")


def test_lines_of_ranks_never_mix(site: Site) -> None:
    program = (
        "import os, sys, time\n"
        f"r = os.environ['{RANK}']\n"
        "for i in range(60):\n"
        "    for part in (r * 20, r * 20, '\\n'):\n"
        "        sys.stdout.write(part); sys.stdout.flush()\n"
        "    time.sleep(0.001)\n"
        "sys.stdout.write('end' + r)\n"
    )
    done = site.call("jsrun", "-r1", "-a4", "-c4", sys.executable, "-c", program)
    lines = done.stdout.splitlines()
    assert sorted({line for line in lines if line[0] != "e"}) == [str(r) * 40 for r in range(8)]
    assert sorted(line for line in lines if line[0] == "e") == [f"end{r}" for r in range(8)]
    assert len(lines) == 8 * 61


@pytest.mark.parametrize(
    ("act", "code", "words"),
    [("exit 7", 7, "exited with code 7"), ("kill -SEGV $$", 139, "was killed by SIGSEGV")],
)
def test_a_failing_rank_ends_the_step(site: Site, act: str, code: int, words: str) -> None:
    body = f"[ ${RANK} = 2 ] && {act}; exec sleep 50"
    done = site.call("jsrun", "-r1", "-a2", "-c2", "sh", "-c", body)
    assert done.returncode == code
    assert done.stderr == f"jsrun: rank 2 on node2 {words}; the other ranks were ended\n"


def test_ranks_that_do_not_heed_term_are_killed(site: Site) -> None:
    body = f"trap '' TERM; [ ${RANK} = 1 ] && exit 5; while :; do sleep 0.1; done"
    program = (
        "import os\nfrom alpenglow_lsf.launch import StepRun\n"
        "from alpenglow_lsf.geometry import Place\n"
        "from alpenglow_lsf.step import JobStep\n"
        f"step = JobStep.parse(['-n1', '-a2', '-c2', 'sh', '-c', {body!r}])\n"
        "places = [Place(0, 0, 0, 2), Place(1, 0, 1, 2)]\n"
        "raise SystemExit(StepRun(step, places, ['node1'], os.environ, grace_s=0.5).run())\n"
    )
    assert site.call(sys.executable, "-c", program).returncode == 5


def test_with_x_0_the_others_finish(site: Site) -> None:
    body = f"[ ${RANK} = 0 ] && exit 3; sleep 0.5; echo finished"
    done = site.call("jsrun", "-X0", "-n1", "-a2", "-c2", "sh", "-c", body)
    assert (done.returncode, done.stdout) == (3, "finished\n")


def test_more_to_do_is_passed_on_without_alarm(site: Site) -> None:
    done = site.call("jsrun", "-n1", "-a2", "-c2", "sh", "-c", "exit 85")
    assert (done.returncode, done.stderr) == (85, "")
    mixed = site.call("jsrun", "-n1", "-a2", "-c2", "sh", "-c", f"exit $((85 * ${RANK}))")
    assert mixed.returncode == 85
    assert "1 of 2 ranks ended with 0" in mixed.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("-r7", "-g1", "x"), 1, "7 GPUs, but a node has 6"),
        (("--fast", "x"), 1, "jsrun: unknown option --fast"),
        (("--erf_input", "f", "x"), 1, "jsrun: --erf_input is not emulated on laptop"),
        (("-n1", "no-such-program"), 127, "jsrun: cannot start no-such-program: No such file"),
        (("-n1", "-h", "/no/such/folder", "true"), 127, "jsrun: cannot open /no/such/folder"),
    ],
)
def test_what_cannot_run_is_one_sentence(
    site: Site, words: tuple[str, ...], code: int, says: str
) -> None:
    done = site.call("jsrun", *words)
    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_stand_in_does_not_pose_as_a_real_machine_s(site: Site) -> None:
    done = site.call("jsrun", "-n1", "true", ALPENGLOW_MACHINE="summit")
    assert done.returncode == 1
    assert "machine summit has its own" in done.stderr


def test_output_files_and_prepended_ranks(site: Site) -> None:
    body = "echo out; echo err >&2"
    done = site.call(
        "jsrun", "-n1", "-a2", "-c2", "-o", "o", "-k", "e", "-e", "prepended", "sh", "-c", body
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert sorted((site.folder / "o").read_text().splitlines()) == ["0: out", "1: out"]
    assert sorted((site.folder / "e").read_text().splitlines()) == ["0: err", "1: err"]


@pytest.mark.parametrize("name", ["USR1", "USR2", "URG", "TERM", "INT"])
def test_signals_reach_the_ranks(site: Site, name: str) -> None:
    program = (
        "import signal, sys\n"
        f"signal.signal(signal.SIG{name}, lambda *a: sys.exit(85))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    step = site.start("jsrun", "-n1", "-a2", "-c2", sys.executable, "-c", program)
    assert step.stdout is not None
    assert [step.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    step.send_signal(getattr(signal, f"SIG{name}"))
    assert step.wait(60) == 85
    step.communicate()


def test_a_stopped_step_says_by_what(site: Site) -> None:
    step = site.start("jsrun", "-n1", "-a2", "-c2", "sh", "-c", "echo ready; exec sleep 50")
    assert step.stdout is not None
    assert [step.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    step.terminate()
    assert step.wait(60) == 143
    assert "was killed by SIGTERM after jsrun got SIGTERM" in step.communicate()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
@pytest.mark.parametrize("mpi", [False, pytest.param(True, marks=pytest.mark.mpi)])
def test_a_killed_jsrun_leaves_no_orphans(
    site: Site, is_alive: Callable[[int], bool], mpi: bool
) -> None:
    program = site.folder / "wait.py"
    program.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(50)\n")
    words = ["-m", "mpi4py", str(program)] if mpi else [str(program)]
    step = site.start("jsrun", "-n1", "-a2", "-c2", sys.executable, *words)
    assert step.stdout is not None
    ranks = [int(step.stdout.readline()) for _ in range(2)]
    assert all(is_alive(rank) for rank in ranks)
    step.kill()
    step.wait()
    site.until(lambda: not any(is_alive(rank) for rank in ranks))
    step.communicate()


ALLREDUCE = """
import os, sys
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(world.rank)
local, host = os.environ["JSM_NAMESPACE_LOCAL_RANK"], os.environ["ALPENGLOW_HOST"]
assert os.environ["JSM_NAMESPACE_RANK"] == str(world.rank), os.environ["JSM_NAMESPACE_RANK"]
sys.stdout.write(f"{world.rank} of {world.size} on {host} as {local}: {total}\\n")
"""


@pytest.mark.mpi
def test_mpi4py_runs_under_mpirun(site: Site) -> None:
    (site.folder / "a.py").write_text(ALLREDUCE)
    done = site.call("jsrun", "-r1", "-a2", "-c2", "python", "-m", "mpi4py", "a.py")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f"{rank} of 4 on node{1 + rank // 2} as {rank % 2}: 6" for rank in range(4)
    ]
    assert done.stderr == ""


@pytest.mark.mpi
@pytest.mark.skipif(os.geteuid() != 0, reason="a network of one's own needs root")
def test_mpi_needs_no_interface_but_loopback(site: Site) -> None:
    (site.folder / "a.py").write_text(ALLREDUCE)
    bare = ("unshare", "-n", "sh", "-c", 'ip link set lo up && "$@"', "sh")
    if subprocess.run([*bare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    done = site.call(*bare, "jsrun", "-n1", "-a2", "-c2", "python", "-m", "mpi4py", "a.py")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("act", "code", "words"),
    [
        ("os._exit(9)", 9, "exited with code 9"),
        ("os.kill(os.getpid(), 9)", 137, "was killed by SIGKILL"),
        ("raise ValueError('no such shard')", 1, "exited with code 1"),
        ("MPI.COMM_WORLD.Abort(4)", 4, "exited with code 4"),
    ],
)
def test_a_failing_mpi_rank_is_named(site: Site, act: str, code: int, words: str) -> None:
    program = f"from mpi4py import MPI\nimport os, time\nif MPI.COMM_WORLD.rank == 1: {act}\n"
    (site.folder / "f.py").write_text(program + "time.sleep(50)\n")
    done = site.call("jsrun", "-r1", "-a1", "-c1", "python", "-m", "mpi4py", "f.py")
    assert done.returncode == code, done.stderr
    assert f"jsrun: rank 1 on node2 {words}" in done.stderr.splitlines()[-1]
    if "ValueError" in act:
        assert "no such shard" in done.stderr
