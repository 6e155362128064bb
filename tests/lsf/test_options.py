from __future__ import annotations

import pytest

from alpenglow_lsf.geometry import GeometryError
from alpenglow_lsf.job import OPTIONS as BSUB
from alpenglow_lsf.job import JobSpec, parse_job
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.step import OPTIONS as JSRUN
from alpenglow_lsf.step import JobStep


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-nodes 4", "unknown option -nodes; did you mean -nnodes?"),
        ("--nnodes 4", "unknown option --nnodes"),
        ("-nnodes512", "unknown option -nnodes512; if -nnodes is meant, write -nnodes '512' apart"),
        ("-nnodes=512", "write -nnodes '512' apart"),
        ("-W2:00", "write -W '2:00' apart"),
        ("-Jname", "write -J 'name' apart"),
        ("-alloc_flag smt1", "did you mean -alloc_flags?"),
        ("-nnodes", "-nnodes needs a value"),
        ("-J -W 1:00", "-J needs a value"),
        ("-nnodes 0", "-nnodes 0 should be a whole number, 1 or more"),
        ("-nnodes four", "-nnodes four should be a whole number"),
        ("-W 1:00:00", "-W 1:00:00 has seconds"),
        ("-W 90s", "-W 90s should be [hours:]minutes"),
        ("-W 1:75", "75 minutes in an hour"),
        ("-W 0", "should be a minute or more"),
        (
            "-alloc_flags smt1 -alloc_flags nvme",
            "-alloc_flags is given twice; put the values into one",
        ),
        ("-alloc_flags fast", "-alloc_flags fast: choose from smt1"),
        ("-W 1:00 -W 2:00", "-W is given twice"),
        ("-wa URG", "-wa needs -wt"),
        ("-wt 2", "-wt needs -wa"),
        ("-wa SIGURG -wt 2", "-wa SIGURG: choose from"),
        ("-wa URG -wt 10 -W 10", "-wt 10 minutes is not before the end of -W 10 minutes"),
        ("-J a;b", "-J 'a;b': use letters"),
        ("-o a -oo b", "-o and -oo both name a file"),
    ],
)
def test_bsub_refuses_with_one_sentence(line: str, says: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_job(line.split(" "))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bsub_reads_a_full_command_line() -> None:
    line = "-P GEO123 -q batch -W 2:30 -nnodes 512 -J train -o o.%J -e e.%J"
    line += " -w ended(3) -wa URG -wt 2 -N"
    spec, rest = parse_job([*line.split(" "), "-alloc_flags", "gpumps smt4", "job.lsf", "-x"])
    assert spec == JobSpec(
        name="train", project="GEO123", queue="batch", walltime=150, nodes=512,
        alloc_flags=("gpumps", "smt4"), output="o.%J", error="e.%J", dependency="ended(3)",
        warning_action="URG", warning_time=2, others=(("-N", ""),),
    )  # fmt: skip
    assert rest == ["job.lsf", "-x"]


def test_a_command_line_goes_before_a_script() -> None:
    below = JobSpec(name="a", walltime=60, nodes=4, others=(("-N", ""), ("-G", "x")))
    above = JobSpec(walltime=30, others=(("-G", "y"),))
    assert above.over(below) == JobSpec(
        name="a", walltime=30, nodes=4, others=(("-N", ""), ("-G", "y"))
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--nsr 2 x", "unknown option --nsr; did you mean --nrs?"),
        ("-Z x", "unknown option -Z"),
        ("-rsix x", "-r six should be a whole number, 0 or more"),
        ("-r1", "no command to run"),
        ("-r 1 -r 2 x", "-r is given twice"),
        ("-n4 -p4 -a1 x", "-a and -p both give the number of tasks"),
        ("-EFOO x", "-E FOO should be VARIABLE=value"),
        ("-X2 x", "-X 2 should be 0 or 1"),
        ("--smpiargs=-gpu\t-disable_gpu_hooks x", "exclude each other"),
        ("--stdio_mode loud x", "choose individual or prepended"),
        ("--nrs= x", "--nrs needs a value"),
        ("--immediate=1 x", "--immediate takes no value"),
    ],
)
def test_jsrun_refuses_with_one_sentence(line: str, says: str) -> None:
    with pytest.raises(OptionError) as caught:
        JobStep.parse(line.split(" "))
    assert says in str(caught.value)


def test_jsrun_refuses_tasks_that_do_not_divide() -> None:
    with pytest.raises(GeometryError, match="-p 5 tasks do not divide over -n 2 sets"):
        JobStep.parse(["-n2", "-p5", "x"])


@pytest.mark.parametrize(
    "line",
    [
        "-n4 -r2 -a3 -c21 -g3 -bpacked:7 -dcyclic -lgpu-cpu -Ea=1 -Eb=2 -X1 -oO -kE "
        "--smpiargs=-gpu cmd -n9",
        "-n 4 -r 2 -a 3 -c 21 -g 3 -b packed:7 -d cyclic -l gpu-cpu -E a=1 -E b=2 -X 1 -o O -k E "
        "--smpiargs -gpu cmd -n9",
        "--nrs=4 --rs_per_host=2 --tasks_per_rs=3 --cpu_per_rs=21 --gpu_per_rs=3 --bind=packed:7 "
        "--launch_distribution=cyclic --latency_priority=gpu-cpu --env=a=1 --env=b=2 "
        "--exit_on_error=1 --stdio_stdout=O --stdio_stderr=E --smpiargs=-gpu cmd -n9",
    ],
)
def test_jsrun_reads_short_glued_and_long_forms_alike(line: str) -> None:
    step = JobStep.parse(line.split())
    request = step.request
    assert (request.sets, request.per_host, request.tasks, request.cores, request.gpus) == (
        4,
        2,
        3,
        21,
        3,
    )
    assert (request.bind, request.distribution, request.latency) == (
        "packed:7",
        "cyclic",
        "gpu-cpu",
    )
    assert step.environment == (("a", "1"), ("b", "2"))
    assert (step.stdout, step.stderr, step.smpiargs) == ("O", "E", "-gpu")
    assert step.command == ("cmd", "-n9")


def test_only_python_m_mpi4py_needs_mpirun() -> None:
    def starts(text: str) -> bool:
        return JobStep.parse(text.split()).starts_mpi

    assert starts("-n1 python -u -m mpi4py x.py")
    assert starts("-n1 /opt/bin/python3.11 -m mpi4py -m alpenglow.data.pipeline")
    assert not starts("-n1 python -m alpenglow.train -m mpi4py")
    assert not starts("-n1 python x.py -m mpi4py")
    assert not starts("-n1 echo -m mpi4py")


def test_the_options_are_a_closed_list() -> None:
    assert {o.name for o in BSUB if o.emulated} == {
        "-P", "-q", "-W", "-nnodes", "-alloc_flags", "-J", "-o", "-e", "-oo", "-eo", "-w", "-wa",
        "-wt", "-cwd", "-N", "-B", "-u", "-r", "-rn", "-G", "-U", "-core_isolation",
        "-step_cgroup", "-jsm", "-Q",
    }  # fmt: skip
    assert "".join(sorted(o.name[1] for o in JSRUN if o.emulated)) == "EMXabcdeghklmnoprt"


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("-alloc_flags nvme -alloc_flags smt1", "alloc_flags"),
        ("-W 1:00:00", "walltime"),
        ("-wt 1:99 -wa URG", "warning"),
        ("-wa URG", "warning"),
        ("-J a/b", "name"),
        ("-nnodes two", "nodes"),
        ("-x -x", "option"),
    ],
)
def test_an_error_says_which_rule_it_broke(line: str, rule: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_job(line.split())
    assert caught.value.rule == rule
