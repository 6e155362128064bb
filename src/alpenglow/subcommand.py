"""A group of the one command: a table of sub-commands whose modules load when they are called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import cast

Table = Mapping[str, tuple[str, str]]
"""sub-command -> (module with `main(arguments) -> exit code`, one line of help)."""


def run(group: str, table: Table, arguments: Sequence[str] | None = None) -> int:
    """Run the sub-command that the first argument names; returns its exit code, 2 for none such."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    name = words[0] if words else ""
    if name in ("", "-h", "--help"):
        width = max(map(len, table)) + 2
        lines = [f"  {key:<{width}}{line}" for key, (_, line) in table.items()]
        sys.stdout.write(f"usage: alpenglow {group} COMMAND ...\n" + "\n".join(lines) + "\n")
        return 0 if words else 2
    if name not in table:
        sys.stderr.write(f"alpenglow {group}: no command {name}; choose from {', '.join(table)}\n")
        return 2
    main = cast(Callable[[Sequence[str]], int], importlib.import_module(table[name][0]).main)
    return main(words[1:])
