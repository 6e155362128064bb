"""The one command: its groups are frozen here, and each loads only when called."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from click.testing import CliRunner

from alpenglow import cli


def test_the_groups_are_these() -> None:
    assert sorted(cli.GROUPS) == ["data", "evaluate", "jobs", "plan", "release", "report", "train"]


@pytest.mark.parametrize("group", sorted(cli.GROUPS))
def test_each_group_names_a_main(group: str) -> None:
    module, _ = cli.GROUPS[group]
    assert callable(importlib.import_module(module).main)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from alpenglow import cli\n"
        "assert CliRunner().invoke(cli.main, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'deepspeed', 'dask', 'matplotlib', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_group_is_refused() -> None:
    result = CliRunner().invoke(cli.main, ["trian"])
    assert result.exit_code == 2
    assert "No such command" in result.output
