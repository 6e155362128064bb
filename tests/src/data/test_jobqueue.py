"""Elastic workers: the script of a job, and workers that really come, by jsrun and by srun."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_cluster
from slurm_jobs import MACHINE

from alpenglow.data.cluster import connect
from alpenglow.data.jobqueue import WorkerJob, cluster, job_script
from alpenglow.data.recipe import ClusterRecipe
from alpenglow_lsf.machine import load
from alpenglow_lsf.ranks import Ranks
from alpenglow_lsf.script import Script
from alpenglow_lsf.slurm_script import translate
from alpenglow_lsf.validate import check_script

ROOT = Path(__file__).resolve().parents[3]
JOB_VARIABLES = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "SLURM_")


def test_ctrl_c_is_left_alone() -> None:
    """dask-jobqueue takes it for the whole process when it is imported."""
    code = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "import alpenglow.data.jobqueue\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_script_passes_summit_s_checks_and_starts_workers_by_jsrun(tmp_path: Path) -> None:
    folder = tmp_path / "a folder $(x)"
    folder.mkdir()
    job = WorkerJob(
        nodes=45, walltime_minutes=120, workers_per_node=6, project="GEO123", interface="ib0"
    )
    tls = {"tls-cert": f"{folder}/cert.pem"}
    text = job_script("tls://h41n04:8786", "workers-0", job, load("summit"), folder, tls)
    path = folder / "w.lsf"
    path.write_text(text)
    assert [f for f in check_script(path, load("summit")) if f.refuses] == []
    assert not [line for line in text.splitlines() if line.startswith(("#BSUB -n ", "#BSUB -R"))]
    script = Script.read(path)
    assert (script.spec.nodes, script.spec.output) == (45, f"{folder}/workers-0.%J.out")
    ((_, step),) = script.steps()
    assert (step.request.per_host, step.request.cores) == (6, 7)
    assert step.command[3:5] == ("tls://h41n04:8786", "workers-0")
    assert step.command[-4:] == ("--interface", "ib0", "--tls-cert", f"{folder}/cert.pem")
    with pytest.raises(ValueError, match="nodes = 0 should be 1 or more"):
        WorkerJob(nodes=0)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in os.environ:
        if name.startswith(JOB_VARIABLES):
            monkeypatch.delenv(name)
    roots = os.pathsep.join(str(ROOT / name) for name in ("src", "lsf", "profiling"))
    monkeypatch.setenv("PYTHONPATH", roots)
    monkeypatch.setenv("ALPENGLOW_ROOT", str(ROOT))
    monkeypatch.setenv("ALPENGLOW_ENVIRONMENT", "/dev/null")
    bin_folders = [str(ROOT / "lsf" / "bin"), str(Path(sys.executable).parent)]
    monkeypatch.setenv("PATH", os.pathsep.join([*bin_folders, slurm_cluster.search_path()]))
    return tmp_path / "a folder"


def run_tasks(machine: str | Path, job: WorkerJob, folder: Path, variable: str) -> set[str]:
    """Start one job of two workers; what each has in a variable of its launcher's."""
    from distributed import Client

    with cluster(load(machine), job, folder) as made, Client(made) as client:
        made.scale(jobs=1)
        client.wait_for_workers(2, timeout=60)
        assert client.submit(sum, [1, 2, 3]).result(timeout=30) == 6
        return set(client.run(os.getenv, variable).values())


def test_workers_come_through_the_stand_in(
    environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALPENGLOW_MACHINE", "laptop")
    monkeypatch.setenv("ALPENGLOW_SPOOL", str(tmp_path / "spool"))
    (tmp_path / "spool").mkdir()
    job = WorkerJob(nodes=2, walltime_minutes=10, workers_per_node=1)
    assert run_tasks("laptop", job, environment, "JSM_NAMESPACE_RANK") == {"0", "1"}
    (script,) = environment.glob("*.lsf")
    assert check_script(script, load("summit")) == []


def test_a_recipe_s_jobs_are_met_over_tls(
    environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALPENGLOW_MACHINE", "laptop")
    monkeypatch.setenv("ALPENGLOW_SPOOL", str(tmp_path / "spool"))
    (tmp_path / "spool").mkdir()
    recipe = ClusterRecipe(jobs=1, nodes_per_job=2, workers_per_node=1, wait_s=60)
    with connect(recipe, environment, Ranks.from_environment({})) as client:
        assert client.scheduler.address.startswith("tls://")
        assert client.submit(sum, [1, 2, 3]).result(timeout=30) == 6
    (script,) = environment.glob("workers/*.lsf")
    assert "PRIVATE KEY" not in script.read_text()
    assert not list(environment.glob("tls-*"))


@pytest.mark.scheduler
def test_workers_come_through_slurm(
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    slurm_running: slurm_cluster.Cluster,
) -> None:
    machine = tmp_path / "cluster.toml"
    machine.write_text(MACHINE)
    monkeypatch.setenv("SLURM_CONF", slurm_running.variables["SLURM_CONF"])
    job = WorkerJob(nodes=2, walltime_minutes=10, workers_per_node=1, queue="batch")
    assert run_tasks(machine, job, environment, "SLURM_NODEID") == {"0", "1"}
    (script,) = environment.glob("*.lsf")
    text = translate(Script.read(script), Script.read(script).spec, load(machine))
    assert "--ntasks=2" in shlex.split(text)
