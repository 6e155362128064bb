"""What is checked, by the names CI uses. `./env/laptop nox` runs the default sessions.

Sessions run inside the environment that env/laptop made and install nothing. Slow or heavy checks
are beside the default ones: `./env/laptop nox -s bench`.
"""

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "floors", "tests"]

PACKAGES = [
    "src/alpenglow",
    "lsf/alpenglow_lsf",
    "profiling/alpenglow_profiling",
    "analysis/alpenglow_analysis",
]
STAND_INS = [
    f"lsf/bin/{name}" for name in ("bsub", "jsrun", "bjobs", "bkill", "bhist", "bpeek", "brequeue")
]


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff on Python, shellcheck on batch scripts, codespell on words."""
    session.run("ruff", "check", ".", *STAND_INS)
    session.run("ruff", "format", "--check", ".", *STAND_INS)
    scripts = ["env/laptop", "env/summit.sh", "jobs/campaign.sh", ".ci/run"]
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
    """The test suite; `nox -s tests -- -k order` narrows it."""
    session.run("pytest", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks whose figures stand in the folder READMEs."""
    session.run("python", "-m", "alpenglow.data.bench", "windows")
    session.run("python", "-m", "alpenglow.data.bench", "order")
    session.run("python", "-m", "alpenglow_profiling.bench")


@nox.session
def proof(session: nox.Session) -> None:
    """Our model against transformers: the table of differences for every shape of ranks."""
    session.run("python", "-m", "alpenglow.model.proof")
