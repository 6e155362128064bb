"""What is checked, by the names CI uses. `./env/laptop nox` runs the default sessions.

Sessions run inside the environment that env/laptop made and install nothing. Slow or heavy checks
are beside the default ones: `./env/laptop nox -s bench`.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import nox
import nox.command

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "floors", "tests"]

PACKAGES = [
    "src/alpenglow",
    "lsf/alpenglow_lsf",
    "profiling/alpenglow_profiling",
    "analysis/alpenglow_analysis",
]
ALONE = "not (scheduler or browser or distributed or mpi or slow)"
"""Tests of one process each."""
SLURM = ("slurmctld", "slurmd", "munged", "sbatch")
ACCOUNTING = ("slurmdbd", "mariadbd")
"""Without these the tests of sacct skip."""
SLURM_PACKAGES = ("slurm-wlm", "munge", "slurmdbd", "mariadb-server")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LLAMA = "0.3.36"
"""llama-cpp-python that GGUF files are compared with."""
INSTALL_S = 300
SITES = [f"env/{name}.sh" for name in ("summit", "frontier", "perlmutter")]
STAND_INS = [
    f"lsf/bin/{name}" for name in ("bsub", "jsrun", "bjobs", "bkill", "bhist", "bpeek", "brequeue")
]


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff on Python, shellcheck on batch scripts, codespell on words."""
    session.run("ruff", "check", ".", *STAND_INS)
    session.run("ruff", "format", "--check", ".", *STAND_INS)
    scripts = ["env/laptop", *SITES, "jobs/campaign.sh", ".ci/run"]
    session.run("shellcheck", "--shell=bash", "--external-sources", *scripts)
    session.run("bash", "-c", "shellcheck --shell=bash --exclude=SC1090 jobs/*.lsf")
    session.run("codespell", "--toml", "pyproject.toml")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, on the four roots and the tests."""
    session.run("mypy", *PACKAGES, "tests", "noxfile.py")


@nox.session
def floors(session: nox.Session) -> None:
    """import-linter: an import only goes down."""
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite; `nox -s tests -- -k order` narrows it.

    Tests of one process each run beside one another, a file at a time; those that start ranks, jobs
    or minutes of work have the computer for themselves afterwards.
    """
    if session.posargs:
        session.run("pytest", "-m", "not scheduler and not browser", *session.posargs)
        return
    beside = str(max(1, min(4, os.cpu_count() or 1)))
    session.run("pytest", "-m", ALONE, "-n", beside, "--dist", "loadfile")
    session.run("pytest", "-m", f"not scheduler and not browser and not ({ALONE})")


@nox.session
def slurm(session: nox.Session) -> None:
    """The tests against a real Slurm, which is installed first where that can be (root, apt-get).

    Where it cannot be had, the session is skipped with a sentence; a test that fails is a failure.
    """
    if _missing(*SLURM, *ACCOUNTING):
        _install(session, *SLURM_PACKAGES)
    missing = _missing(*SLURM)
    if missing:
        session.skip(
            f"no {missing} here, and slurm-wlm could not be installed (which needs root, apt-get, "
            f"a network and less than {INSTALL_S} s): the tests against a real Slurm did not run"
        )
    session.run("pytest", "-m", "scheduler", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """The tests of the report's pages in Chromium, which is installed first where that can be."""
    if all(_missing(name) for name in BROWSERS):
        _install(session, "chromium")
    if all(_missing(name) for name in BROWSERS):
        session.skip(
            "no Chromium here, and it could not be installed (which needs root, apt-get, a network "
            f"and less than {INSTALL_S} s): the pages of the report were not looked at"
        )
    session.run("pytest", "-m", "browser", *session.posargs)


@nox.session
def llama(session: nox.Session) -> None:
    """The tests of GGUF files against llama.cpp itself.

    llama-cpp-python is compiled into .nox/llama, a virtual environment that also sees the packages
    of this one; some minutes the first time. Where it cannot be had, the session is skipped.
    """
    python = Path(".nox/llama/bin/python").absolute()
    installed = f"import llama_cpp; assert llama_cpp.__version__ == '{LLAMA}'"
    if not _runs(python, installed):
        session.run(sys.executable, "-m", "venv", "--clear", ".nox/llama")
        packages = sysconfig.get_path("purelib")
        inside = session.run(
            str(python), "-c", "import site; print(site.getsitepackages()[0])", silent=True
        )
        path = Path(str(inside).strip()) / "environment.pth"
        path.write_text(f"import site; site.addsitedir({packages!r})\n", encoding="utf-8")
        with contextlib.suppress(nox.command.CommandFailed):
            words = [str(python), "-m", "pip", "install", "--quiet", f"llama-cpp-python=={LLAMA}"]
            session.run(*words, external=True)
        if not _runs(python, installed):
            session.skip(
                f"llama-cpp-python {LLAMA} could not be installed (which needs a C++ compiler, a "
                "network and some minutes): GGUF files were not compared with llama.cpp"
            )
    tests = session.posargs or ["tests/src/release/test_gguf_llama.py"]
    session.run(str(python), "-m", "pytest", *tests, external=True)


def _runs(python: Path, code: str) -> bool:
    words = [str(python), "-c", code]
    return (
        python.exists() and not subprocess.run(words, check=False, capture_output=True).returncode
    )


def _install(session: nox.Session, *packages: str) -> None:
    """Install Debian packages if this is root with apt-get; what comes of it is looked at later."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    install = f"apt-get install --yes --no-install-recommends {' '.join(packages)}"
    # The daemons that packages would start are not wanted: the tests start their own.
    quiet = {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
    words = ["timeout", str(INSTALL_S), "sh", "-c", f"apt-get update --quiet && {install}"]
    with contextlib.suppress(nox.command.CommandFailed):
        session.run(*words, external=True, silent=True, env=quiet)


def _missing(*programs: str) -> str | None:
    """Name the first program that is not installed; daemons lie outside a user's PATH."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return next((name for name in programs if shutil.which(name, path=path) is None), None)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks whose figures stand in the folder READMEs."""
    session.run("python", "-m", "alpenglow.data.bench", "windows")
    session.run("python", "-m", "alpenglow.data.bench", "order")
    session.run("python", "-m", "alpenglow_profiling.bench")
    session.run("python", "-m", "alpenglow_profiling.bench_samplers")
    session.run("python", "-m", "alpenglow_analysis.bench_campaign")
    session.run("python", "-m", "alpenglow.train.bench_step", "--compile", "--engine")
    session.run("python", "-m", "alpenglow.train.bench_reduction")
    session.run("python", "-m", "alpenglow.train.bench_reduction", "--device-ms", "20")
    session.run("python", "-m", "alpenglow.train.bench_checkpoint", "--rounds", "7")
    session.run("python", "-m", "alpenglow.release.bench_convert")


@nox.session
def rehearsal(session: nox.Session) -> None:
    """Schedules on the real engine with passes that only wait: the table of src/README, pictures.

    Wants a quiet computer: it refuses where messages are slow beside the passes.
    `nox -s rehearsal -- --forward 100` hands options on.
    """
    with tempfile.TemporaryDirectory(dir=".", prefix="rehearsal-") as folder:
        runs = f"{folder}/runs"
        session.run("python", "-m", "alpenglow.train.rehearsal", runs, *session.posargs)
        Path("runs").mkdir(exist_ok=True)
        pairs: dict[str, list[str]] = {}
        for path in sorted(Path(runs).glob("pp*-m*-*")):
            pairs.setdefault("-".join(path.name.split("-")[:2]), []).append(str(path))
        for case, pair in pairs.items():
            output = f"runs/rehearsal-{case}.png"
            session.run("python", "-m", "alpenglow_analysis.comparison", *pair, "--output", output)


@nox.session
def predict(session: nox.Session) -> None:
    """The laptop demo on 4 and 8 ranks, predicted from 1 and 2: the table of analysis/README.

    Wants a quiet computer; a few minutes. `nox -s predict -- --repeats 3 --wider` hands options on.
    """
    with tempfile.TemporaryDirectory(prefix="predict-") as folder:
        runs = f"{folder}/runs"
        session.run("python", "-m", "alpenglow_analysis.bench_predict", runs, *session.posargs)


@nox.session
def proof(session: nox.Session) -> None:
    """Our model against transformers, then releases against what was trained: two tables."""
    session.run("python", "-m", "alpenglow.model.proof")
    session.run("python", "tests/support/release_proof.py")


@nox.session
def faults(session: nox.Session) -> None:
    """Two hundred faults along chained runs, compared with quiet ones (about an hour)."""
    session.run("python", "tests/support/run_campaign.py", *session.posargs)


@nox.session
def kills(session: nox.Session) -> None:
    """Shards prepared with kills in between, beside a quiet run: the same bytes."""
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        session.run("python", "tests/support/prepare_kills.py", f"{folder}/job", *session.posargs)


@nox.session
def seven(session: nox.Session) -> None:
    """All seven slices from real inputs (Debian, gensim, test data) to shards and a report.

    Needs apt-get, dpkg-deb, a network and ALPENGLOW_TEST_DATA; what it makes stays in runs/seven.
    """
    session.run("python", "tests/support/seven_slices.py", "runs/seven", *session.posargs)


@nox.session
def chain(session: nox.Session) -> None:
    """300 steps in four jobs with two kills, beside 300 in one; draws src/chain.png."""
    session.run("python", "tests/support/chain_demo.py", *(session.posargs or ["src/chain.png"]))
