"""Dask for the workers: `connect` gives the client of a cluster, however this process was started.

    under jsrun or mpirun   rank 0 the scheduler, rank 1 the client, the others workers (dask-mpi)
    with `cluster.jobs`     batch jobs of workers, as the queue lets them start (jobqueue.py)
    otherwise               worker processes on this machine (LocalCluster)

Who can talk to a scheduler can run code in it. On a shared machine every connection is therefore
TLS, both ends prove that they belong to the job, and the certificate is made for this job: its key
lies in the run directory, readable by the owner alone, and the authority's key is never written.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpenglow.data.document import DataError
from alpenglow.data.recipe import ClusterRecipe
from alpenglow_lsf.ranks import Ranks

if TYPE_CHECKING:
    from distributed import Client

LIFETIME = datetime.timedelta(days=2)
"""Of a certificate: longer than any job."""
DASHBOARD = "127.0.0.1:8787"
"""Where status pages are shown, if at all: reached through `ssh -L 8787:127.0.0.1:8787 NODE`."""
CLOCK_SKEW = datetime.timedelta(hours=1)
NOISY = ("distributed", "tornado.application", "asyncio")
"""Loggers that report every connection that an orderly end closes."""


class WorkersAbsent(DataError):
    """The workers did not come in time; only the client knows."""


@contextlib.contextmanager
def connect(recipe: ClusterRecipe, run: Path, ranks: Ranks) -> Iterator[Client]:
    """Give the client a cluster, and end the cluster when the block ends.

    On the scheduler's and the workers' ranks this never comes back: they serve until the client
    ends, then exit with code 0.

    Args:
        recipe: protocol, waiting time, number of local workers.
        run: the run directory, on a file system that all nodes share.
        ranks: who this process is.

    Raises:
        DataError: two ranks, or not the MPI of the launcher.
        WorkersAbsent: the workers did not come in time.
    """
    if ranks.world_size == 2:
        raise DataError(
            "2 MPI ranks are too few: a scheduler, a client and at least one worker need 3; "
            "start without MPI to use worker processes on this machine"
        )
    if ranks.world_size == 1 and recipe.jobs:
        with _jobs(recipe, run) as client:
            yield client
    elif ranks.world_size == 1:
        with _local(recipe, run) as client:
            yield client
    else:
        with _mpi(recipe, run, ranks) as client:
            yield client


def quiet(level: int = logging.CRITICAL) -> None:
    """Silence the loggers that report every closing connection; each process does it at the end."""
    for name in NOISY:
        logging.getLogger(name).setLevel(level)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("distributed"):
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _local(recipe: ClusterRecipe, run: Path) -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_certificates(run)) if recipe.protocol == "tls" else None
        stack.enter_context(dask.config.set(_configuration(folder, recipe.dashboard)))
        quiet(logging.ERROR)
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=recipe.workers,
                threads_per_worker=1,
                processes=True,
                protocol=f"{recipe.protocol}://",
                security=_security(folder),
                host="127.0.0.1",
                dashboard_address=DASHBOARD if recipe.dashboard else None,
                scheduler_kwargs={
                    "dashboard": recipe.dashboard,
                    "dashboard_address": DASHBOARD if recipe.dashboard else "127.0.0.1:0",
                },
                worker_dashboard_address=None,
                memory_limit=0,
                local_directory=tempfile.gettempdir(),
            )
        )
        client = stack.enter_context(Client(cluster))
        try:
            wait_for(client, recipe.workers, recipe.wait_s)
            yield client
        finally:
            _silence(client)
            quiet()


@contextlib.contextmanager
def _jobs(recipe: ClusterRecipe, run: Path) -> Iterator[Client]:
    import dask
    from distributed import Client

    from alpenglow.data import jobqueue
    from alpenglow_lsf.machine import current

    job = jobqueue.WorkerJob(
        nodes=recipe.nodes_per_job,
        walltime_minutes=recipe.job_minutes,
        workers_per_node=recipe.workers_per_node,
        queue=recipe.queue,
        project=recipe.project,
        interface=recipe.interface,
    )
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_certificates(run)) if recipe.protocol == "tls" else None
        stack.enter_context(dask.config.set(_configuration(folder, recipe.dashboard)))
        quiet(logging.ERROR)
        security = None if folder is None else _security(folder)
        cluster = stack.enter_context(
            jobqueue.cluster(
                current(), job, run / "workers", security=security, interface=recipe.interface
            )
        )
        client = stack.enter_context(Client(cluster))
        try:
            cluster.scale(jobs=recipe.jobs)
            # One worker is enough to begin; the others join when their jobs start.
            wait_for(client, 1, recipe.wait_s)
            yield client
        finally:
            _silence(client)
            quiet()


@contextlib.contextmanager
def _mpi(recipe: ClusterRecipe, run: Path, ranks: Ranks) -> Iterator[Client]:
    import dask
    from dask_mpi import initialize
    from distributed import Client
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    if world.Get_size() != ranks.world_size:
        raise DataError(
            f"MPI counts {world.Get_size()} ranks, the launcher's variables say "
            f"{ranks.world_size}: mpi4py belongs to another MPI than the launcher"
        )
    with contextlib.ExitStack() as stack:
        folder: Path | None = None
        if recipe.protocol == "tls":
            if ranks.rank == 0:
                folder = stack.enter_context(_certificates(run))
            folder = Path(world.bcast(None if folder is None else str(folder), root=0))
        dask.config.set(_configuration(folder, recipe.dashboard))
        quiet(logging.ERROR)
        loopback = _loopback() if recipe.protocol == "tcp" else None
        # exit=False: leaving the block closes the scheduler, whether or not this process ends then.
        is_client = initialize(
            interface=loopback or recipe.interface,
            protocol=f"{recipe.protocol}://",
            nthreads=1,
            memory_limit=0,
            dashboard=recipe.dashboard,
            dashboard_address=DASHBOARD if recipe.dashboard else "127.0.0.1:0",
            local_directory=tempfile.gettempdir(),
            worker_options={"dashboard_address": "127.0.0.1:0"},
            exit=False,
        )
        if not is_client:
            stack.close()
            sys.exit(0)
        client = stack.enter_context(Client())
        try:
            wait_for(client, ranks.world_size - 2, recipe.wait_s)
            yield client
        finally:
            _silence(client)
            quiet()
            with contextlib.suppress(Exception):  # a worker that is gone cannot be retired
                client.retire_workers(close_workers=True)
            client.shutdown()


def wait_for(client: Client, workers: int, seconds: float) -> None:
    """Wait until so many workers are there.

    Raises:
        WorkersAbsent: they did not come in time; the message says how many did.
    """
    try:
        client.wait_for_workers(workers, timeout=seconds)
    except TimeoutError:
        here = len(client.scheduler_info(n_workers=-1)["workers"])
        raise WorkersAbsent(
            f"{here} of {workers} workers came within {seconds:g} s (cluster.wait_s): "
            "see the job's error file for the others"
        ) from None


def _silence(client: Client) -> None:
    with contextlib.suppress(Exception):
        client.run(quiet)
        client.run_on_scheduler(quiet)


def _loopback() -> str:
    for _, name in socket.if_nameindex():
        if name.rstrip("0") == "lo":  # lo on Linux, lo0 on BSD and macOS
            return name
    raise DataError("this machine has no loopback interface: set cluster.protocol = 'tls'")


def _configuration(certificates: Path | None, dashboard: bool) -> Mapping[str, Any]:
    """Dask's settings: status pages only if asked for, TLS where there are certificates."""
    settings: dict[str, Any] = {"distributed.worker.http.routes": []}
    if not dashboard:
        settings["distributed.scheduler.http.routes"] = []
    if certificates is not None:
        pair = {"cert": str(certificates / "cert.pem"), "key": str(certificates / "key.pem")}
        settings |= {
            "distributed.comm.require-encryption": True,
            "distributed.comm.tls.ca-file": str(certificates / "authority.pem"),
            "distributed.comm.tls.scheduler": pair,
            "distributed.comm.tls.worker": pair,
            "distributed.comm.tls.client": pair,
        }
    return settings


def _security(certificates: Path | None) -> Any:
    from distributed import Security

    return Security() if certificates is None else Security(require_encryption=True)


@contextlib.contextmanager
def _certificates(run: Path) -> Iterator[Path]:
    """Make the job's certificate in the run directory and remove it at the end."""
    folder = run / f"tls-{secrets.token_hex(8)}"
    run.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)
    try:
        make_certificates(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_certificates(folder: Path) -> None:
    """Write authority.pem, cert.pem and key.pem (mode 0600) for one job.

    The authority signs this one certificate; its own key is dropped, so nobody can sign another.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.UTC)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "job")}
    names = {
        name: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"alpenglow {name}")])
        for name in keys
    }

    def signed(name: str, usage: list[x509.ExtensionType]) -> bytes:
        public = keys[name].public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[name])
            .issuer_name(names["authority"])
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["authority"].public_key()),
                critical=False,
            )
        )
        for extension in usage:
            builder = builder.add_extension(extension, critical=True)
        certificate = builder.sign(keys["authority"], hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)

    authority = signed("authority", [x509.BasicConstraints(ca=True, path_length=0), _signing(x509)])
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    job = signed(
        "job", [x509.BasicConstraints(ca=False, path_length=None), x509.ExtendedKeyUsage(both)]
    )
    key = keys["job"].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for name, content in (("authority.pem", authority), ("cert.pem", job), ("key.pem", key)):
        _write_private(folder / name, content)


def _signing(x509: Any) -> Any:
    flags = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
         "key_agreement", "crl_sign", "encipher_only", "decipher_only"), False
    )  # fmt: skip
    return x509.KeyUsage(key_cert_sign=True, **flags)


def _write_private(path: Path, content: bytes) -> None:
    # The mode is given at creation: there is no moment at which others can read the key.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
