from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpenglow_lsf.geometry import GeometryError
from alpenglow_lsf.job import SIGNALS, JobSpec
from alpenglow_lsf.machine import Machine, Node, load
from alpenglow_lsf.options import OptionError
from alpenglow_lsf.script import Script
from alpenglow_lsf.slurm_script import header, parse_header, parse_job, quoted, translate
from alpenglow_lsf.srun import SrunStep, find_step
from alpenglow_lsf.step import JobStep

MACHINE = """
name = "cluster"
description = "a Slurm cluster"
scheduler = "slurm"
[node]
nodes = 64
cores = 56
sockets = 2
smt = 2
gpus = 8
memory_bytes = 512e9
gpu_memory_bytes = 64e9
gpu_memory_bandwidth = 1.6e12
[links]
nvlink = 50e9
socket = 36e9
network = 100e9
[signals]
kill_after_minutes = 1
bkill_interval_seconds = 30
[[queues]]
name = "batch"
chains = true
bins = [{ nodes = [1, 64], hours = 2 }]
[[queues]]
name = "debug"
chains = false
partition = "gpu"
qos = "debug"
constraint = "gpu&hbm"
bins = [{ nodes = [1, 64], hours = 2 }]
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    path = tmp_path_factory.mktemp("machine") / "cluster.toml"
    path.write_text(MACHINE)
    return load(path)


name = st.from_regex(r"[A-Za-z0-9_.+@-]{1,20}", fullmatch=True)
# Whatever a path may hold that prints: quotes, blanks, $(), #, backslashes, percent signs.
file = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=" "),
    min_size=1, max_size=30,
).filter(lambda text: "%J" not in text and "%I" not in text)  # fmt: skip


@st.composite
def specs(draw: st.DrawFn) -> JobSpec:
    walltime = draw(st.integers(11, 5000))
    warns = draw(st.booleans())
    return JobSpec(
        name=draw(st.none() | name),
        project=draw(st.none() | name),
        queue=draw(st.sampled_from([None, "batch", "debug"])),
        walltime=walltime,
        nodes=draw(st.none() | st.integers(1, 64)),
        alloc_flags=draw(st.sampled_from([(), ("smt1",), ("smt2",)])),
        output=draw(st.none() | file | st.just("x.%J.out")),
        error=draw(st.none() | file),
        dependency=draw(
            st.sampled_from([None, "done(12)", "ended(3) && done(4)", "exit(3) || started(4)"])
        ),
        warning_action=draw(st.sampled_from(SIGNALS)) if warns else None,
        warning_time=draw(st.integers(1, 10)) if warns else None,
        folder=draw(st.none() | file),
        others=draw(st.sampled_from([(), (("-r", ""),), (("-rn", ""),), (("-U", "res 1"),)])),
    )


@given(specs())
def test_what_is_rendered_parses_back(spec: JobSpec) -> None:
    machine = _machine()
    assert parse_job(header(spec, machine)) == spec


def _machine(cache: list[Machine] = []) -> Machine:  # noqa: B006 - one machine for all examples
    if not cache:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cluster.toml"
            path.write_text(MACHINE)
            cache.append(load(path))
    return cache[0]


@given(st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=40))
def test_any_printable_value_survives_sbatch_s_quoting(value: str) -> None:
    text = f"#SBATCH --output={quoted(value)} --requeue\n"
    assert parse_header(text) == [("--output", value), ("--requeue", "")]


def test_a_script_for_sbatch(machine: Machine) -> None:
    script = Script.read(ROOT / "jobs" / "pretrain_7b.lsf")
    over = JobSpec(nodes=64, walltime=120, project="GEO123", dependency="ended(41)")
    text = translate(script, over, machine, ["a b", "$(touch x)"])
    lines = text.splitlines()
    assert lines[:12] == [
        "#!/bin/bash",
        "#SBATCH --account=GEO123",
        "#SBATCH --partition=batch",
        "#SBATCH --time=2:00:00",
        "#SBATCH --nodes=64",
        "#SBATCH --job-name=pretrain_7b",
        "#SBATCH --output=pretrain_7b.%j.out",
        "#SBATCH --error=pretrain_7b.%j.out",
        "#SBATCH --dependency=afterany:41",
        "#SBATCH --signal=URG@600",
        "#SBATCH --threads-per-core=2",
        "#SBATCH --open-mode=append",
    ]
    assert "set -- 'a b' '$(touch x)'" in lines
    assert "#BSUB" not in text
    assert "jsrun" not in text.partition("exec ")[2]
    step = find_step(shlex.split(text.partition("-- \\\n")[2]))
    assert isinstance(step, SrunStep)
    assert (step.nodes, step.tasks_per_node, step.gpus_per_node) == (64, 6, 6)
    # packed:7 under smt4, of which this machine has two threads a core
    assert (step.cpus_per_task, step.threads_per_core, step.cpu_bind) == (14, 2, "cores")
    assert step.command == ("python", "-m", "alpenglow.train", "jobs/pretrain_7b.toml")
    assert len(step.places(machine, 64)) == 384
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.lsf")), ids=lambda p: p.stem)
def test_every_shipped_job_can_be_asked_of_slurm(path: Path, machine: Machine) -> None:
    text = translate(Script.read(path), JobSpec(nodes=4), machine)
    assert "srun --nodes=" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-r6 -a1 -c7 -g1 -b rs x", "--nodes=4 --ntasks=24 --ntasks-per-node=6 --cpus-per-task=7 "
         "--threads-per-core=1 --gpus-per-task=1 --cpu-bind=cores --distribution=block"),
        ("-r1 -a6 -g6 -c42 -b packed:7 x", "--nodes=4 --ntasks=24 --ntasks-per-node=6 "
         "--cpus-per-task=7 --threads-per-core=1 --gpus-per-node=6 --gpu-bind=none "
         "--cpu-bind=cores --distribution=block"),
        ("-r2 -a3 -g3 -c21 -b rs -d cyclic x", "--nodes=4 --ntasks=24 --ntasks-per-node=6 "
         "--cpus-per-task=7 --threads-per-core=1 --gpus-per-node=6 --gpu-bind=none "
         "--cpu-bind=none --distribution=plane=2"),
        ("-r1 -a4 -c8 -b packed:2 -d cyclic x", "--nodes=4 --ntasks=16 --ntasks-per-node=4 "
         "--cpus-per-task=2 --threads-per-core=1 --cpu-bind=cores --distribution=cyclic"),
        ("-n1 -a1 -c42 -b rs x", "--nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=42 "
         "--threads-per-core=1 --cpu-bind=cores --distribution=block"),
    ],
)  # fmt: skip
def test_sets_become_tasks_of_a_node(line: str, words: str, machine: Machine) -> None:
    step = SrunStep.of(JobStep.parse(line.split()), machine.compute, 4)
    assert " ".join(step.words()) == f"srun {words} --kill-on-bad-exit=1 x"


@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3),
    st.sampled_from(["packed", "cyclic", "plane:2"]), st.sampled_from(["none", "rs", "packed:2"]),
    st.lists(st.text(min_size=1).filter(lambda t: not t.startswith("-")), min_size=1, max_size=3),
)  # fmt: skip
def test_a_step_keeps_its_ranks_and_parses_back(
    sets: int, tasks: int, gpus: int, nodes: int, order: str, bind: str, command: list[str]
) -> None:
    line = [f"-r{sets}", f"-a{tasks}", f"-c{2 * tasks}", f"-g{gpus}", "-d", order, "-b", bind]
    step = JobStep.parse([*line, *command])
    machine = _machine()
    try:
        srun = SrunStep.of(step, machine.compute, nodes)
    except GeometryError as error:
        assert "unevenly" in str(error)
        return
    assert SrunStep.parse(srun.words()[1:]) == srun
    ours = [p.host for p in srun.places(machine, nodes)]
    assert ours == [p.host for p in step.places(machine, nodes)]


@pytest.mark.parametrize(
    ("options", "body", "says"),
    [
        ("-nnodes 1 -Q 85", "", "which exit codes requeue a job is the site's setting in Slurm"),
        ("-nnodes 1 -q special", "", "cluster has no queue special; known: batch, debug"),
        ("-nnodes 1 -w done(nightly)", "", "Slurm takes job numbers only"),
        ("-nnodes 1 -w 'exit(3, 85)'", "", "asks for an exit code"),
        ("-nnodes 1 -w 'done(1) && (done(2) || done(3))'", "", "mixes && and ||"),
        ("-nnodes 1 -W 30:00 -wa URG -wt 20:00", "", "Slurm warns 1092 or less before"),
        ("-W 10", "jsrun -n1 true", "-nnodes is missing, so jsrun cannot become srun"),
        ("-nnodes 1", "jsrun -n $N true", "jsrun: -n $N should be a whole number"),
        ("-nnodes 1", "jsrun -n1 -o $F true", "a variable among jsrun's options"),
        ("-nnodes 1", "jsrun -r9 -g1 true", "9 GPUs, but a node has 8"),
        ("-nnodes 2", "jsrun -n3 -c28 true", "unevenly"),
    ],
)
def test_what_slurm_cannot_be_asked_for(
    options: str, body: str, says: str, machine: Machine
) -> None:
    script = Script.parse(f"#!/bin/bash\n#BSUB {options}\n{body}\n", "x.lsf")
    with pytest.raises(OptionError) as error:
        translate(script, JobSpec(), machine)
    assert says in str(error.value)


def test_the_words_of_a_command_stay_as_they_are_written(machine: Machine) -> None:
    words = 'sh -c \'echo "$1  x"\' \\\n   "$(echo a  b)" && echo done # jsrun -x\n'
    body = f"jsrun -n1 -E 'A=b c' {words}"
    script = Script.parse(f"#!/bin/bash\n#BSUB -nnodes 1\n{body}", "x.lsf")
    text = translate(script, JobSpec(), machine)
    assert text.endswith(f" env 'A=b c' {words}")


def test_a_node_without_hardware_threads_says_nothing_of_them() -> None:
    node = Node(2, 8, 2, 1, 0, 1e9, 0.0, 0.0)
    words = SrunStep.of(JobStep.parse(["-r2", "-c4", "x"]), node, 2).words()
    assert not [word for word in words if "threads" in word or "gpu" in word]


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_preamble_quotes_what_slurm_says(shell: str, machine: Machine, tmp_path: Path) -> None:
    folder = "/a  b/$(touch x)'\""
    script = Script.parse(
        'printf "%s|" "$LS_SUBCWD" "$LSB_JOBID" "$1" "$ALPENGLOW_SCRIPT"\n', "a 'b"
    )
    text = translate(script, JobSpec(nodes=1), machine, ["$(touch y)"])
    environ = dict.fromkeys(("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES"), "7")
    environ |= dict.fromkeys(("SLURM_JOB_NAME", "SLURM_SUBMIT_DIR", "SLURM_JOB_PARTITION"), folder)
    words = [f"/bin/{shell}", "-u", "-c", text]
    done = subprocess.run(
        words, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{folder}|7|$(touch y)|a 'b|"
    assert not list(tmp_path.iterdir())
