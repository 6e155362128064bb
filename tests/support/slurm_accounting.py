"""The accounting of a Slurm of one's own: MariaDB and slurmdbd in the same folder, for one session.

MariaDB listens on a socket in the folder only, and keeps its data there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

PROGRAMS = ("mariadbd", "mariadb-install-db", "slurmdbd", "sacctmgr", "sacct")

CONFIGURATION = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounts
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""

Start = Callable[[list[str], Callable[[], bool]], None]
"""Starts a daemon and waits until something holds."""


def absent(search_path: str) -> str | None:
    """Say why there can be no accounting here; None where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=search_path) is None]
    if missing:
        return f"no {missing[0]} here: install slurmdbd and mariadb-server"
    return None


def variables(folder: Path) -> dict[str, str]:
    """What slurmdbd needs to find its database: Slurm has no setting for a socket."""
    return {"MYSQL_UNIX_PORT": f"{folder}/sql"}


def start(folder: Path, port: int, environ: Mapping[str, str], start_daemon: Start) -> None:
    """Start the database and slurmdbd, and make the cluster known to it.

    Args:
        folder: where everything lies; its path is short enough for a socket.
        port: where slurmdbd listens.
        environ: with `variables` and SLURM_CONF.
        start_daemon: starts a daemon.
    """
    data, sql = folder / "data", folder / "sql"
    user = "root" if os.geteuid() == 0 else ""
    own = ["--no-defaults", f"--datadir={data}", *([f"--user={user}"] if user else [])]
    subprocess.run(
        ["mariadb-install-db", *own, "--auth-root-authentication-method=socket",
         "--skip-test-db"],
        env=environ, check=True, capture_output=True,
    )  # fmt: skip
    # Nothing here outlives a crash, so nothing waits for the disk.
    quick = ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M"]
    files = [f"--socket={sql}", f"--pid-file={folder}/sql.pid", f"--log-error={folder}/sql.log"]
    start_daemon(["mariadbd", *own, *files, "--skip-networking", *quick], sql.exists)
    configuration = folder / "slurmdbd.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, port=port))
    configuration.chmod(0o600)
    start_daemon(["slurmdbd", "-D"], lambda: _add(environ, "cluster", "alpenglow"))
    # A job whose account is not known is given the user's own.
    _add(environ, "account", "geo123", "organization=test")
    _add(environ, "user", "root", "account=geo123")


def _add(environ: Mapping[str, str], *words: str) -> bool:
    call = ["sacctmgr", "--immediate", "add", *words]
    done = subprocess.run(call, env=environ, check=False, capture_output=True, text=True)
    if "fatal" in done.stderr:
        raise RuntimeError(done.stderr)
    return done.returncode == 0 or "already exists" in done.stdout + done.stderr
