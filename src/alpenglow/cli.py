"""The one command `alpenglow`; its groups load on demand.

    alpenglow data prepare jobs/prepare_data.toml
    alpenglow train jobs/pretrain_7b.toml train.steps=20
    alpenglow plan campaign --machine summit --nodes 512 ...
    alpenglow report runs/pretrain_7b
    alpenglow release jobs/convert.toml

Each group is the `main` of the room it names, the same one that the batch scripts start with
`python -m`, so a job and a hand-typed command can never differ.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

# group -> (module with `main(arguments) -> exit code`, one line of help)
GROUPS = {
    "data": ("alpenglow.data.command", "Raw text to HDF5 token shards; their documents."),
    "train": ("alpenglow.train.__main__", "Pretrain a model from shards."),
    "jobs": ("alpenglow.jobs", "Check, preview and submit batch scripts."),
    "release": ("alpenglow.release.__main__", "A checkpoint made public: folder, cards, GGUF."),
    "evaluate": ("alpenglow.evaluate.__main__", "Benchmarks and perplexity of a released model."),
    "plan": ("alpenglow_analysis.plan_command", "How long a run takes, and what it is charged."),
    "report": ("alpenglow_analysis.report", "Where the time of every rank went."),
}


class _OnDemand(click.Group):
    """A group whose commands are imported when they are called, not when `--help` lists them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in GROUPS:
            return None
        module, help_line = GROUPS[cmd_name]

        def run(arguments: Sequence[str]) -> None:
            sys.exit(importlib.import_module(module).main(list(arguments)))

        return click.Command(
            cmd_name,
            callback=run,
            params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
            help=help_line,
            context_settings={"ignore_unknown_options": True, "help_option_names": []},
        )


@click.command(cls=_OnDemand)
@click.version_option(package_name="alpenglow")
def main() -> None:
    """Raw text to a released open language model; see jobs/ for the batch scripts."""
