"""Starts one rank beneath mpirun: finds its output, host and variables, then becomes the command.

Run by `tasks.MpiTasks` as `python -S -E -s rank_start.py FOLDER -- COMMAND ...`; standard library
only and few imports, since it runs once a rank. FOLDER holds, for each rank, its variables
(`N.environment`, NUL-separated) and two named pipes (`N.out`, `N.err`).
"""

import ctypes
import os
import signal
import sys


def main() -> None:
    """Become the rank's command."""
    folder, command = sys.argv[1], sys.argv[3:]
    rank = os.environ["OMPI_COMM_WORLD_RANK"]
    for name, descriptor in (("out", 1), ("err", 2)):
        pipe = os.open(f"{folder}/{rank}.{name}", os.O_WRONLY)
        os.dup2(pipe, descriptor)
        os.close(pipe)
    with open(f"{folder}/{rank}.environment", encoding="utf-8") as file:  # noqa: PTH123
        for pair in file.read().split("\0"):
            name, equals, value = pair.partition("=")
            if equals:
                os.environ[name] = value
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    with open(f"{folder}/{rank}.pid", "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(str(os.getpid()))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"jsrun: cannot start {command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
