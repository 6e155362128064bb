"""Variables that a local job's script finds: LSF's, and ours."""

from __future__ import annotations

import os

from alpenglow_lsf.ranks import FAMILIES, HOST_ADDRESS_VARIABLE
from alpenglow_lsf.spool import JobRecord, Spool

NOT_INHERITED = ("LSB_", "LS_", "JSM_", "OMPI_", "PMIX_", "PRTE_")
"""Prefixes of variables that belong to the job that submitted this one, if a job did."""

INHERITED = ("LSB_DEFAULTPROJECT", "LSB_DEFAULTQUEUE")
OWN = (
    "ALPENGLOW_DEADLINE",
    "ALPENGLOW_HOST",
    HOST_ADDRESS_VARIABLE,
    "ALPENGLOW_JOB_ID",
    "ALPENGLOW_MASTER_ADDR",
    "ALPENGLOW_NODES_ASKED",
    "ALPENGLOW_RESERVED_HOSTS",
    "ALPENGLOW_SCRIPT",
    "ALPENGLOW_SEGMENT",
    "ALPENGLOW_STEP_NODES",
    *FAMILIES[0],
)


def job_environment(spool: Spool, record: JobRecord, cores: int, started: float) -> dict[str, str]:
    """Write the list of a job's hosts and return the variables that its script finds.

    Args:
        spool: where the list goes.
        record: the job.
        cores: slots of a compute node.
        started: unix seconds.
    """
    hosts = spool.path(record.key, "hosts")
    slots = [(h, 1 if i == 0 else cores) for i, h in enumerate(record.hosts)]
    lines = [host for host, count in slots for _ in range(count)]
    hosts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    kept = {
        k: v
        for k, v in os.environ.items()
        if k in INHERITED or not (k.startswith(NOT_INHERITED) or k in OWN)
    }
    environment = {
        **kept,
        "LSB_JOBID": str(record.job_id),
        "LSB_JOBINDEX": str(record.index),
        "LSB_JOBNAME": record.title,
        "LSB_QUEUE": record.queue,
        "LSB_PROJECT_NAME": record.project,
        "LSB_HOSTS": " ".join(lines),
        "LSB_MCPU_HOSTS": " ".join(f"{host} {count}" for host, count in slots),
        "LSB_DJOB_HOSTFILE": str(hosts),
        "LSB_OUTPUTFILE": record.output,
        "LSB_SUB_HOST": record.host,
        "LS_SUBCWD": record.folder,
        "ALPENGLOW_NODES_ASKED": str(record.nodes),
    }
    if record.attempt > 1:
        environment["LSB_RESTART"] = "Y"
    if record.error is not None:
        environment["LSB_ERRORFILE"] = record.error
    if record.script is not None:
        environment["ALPENGLOW_SCRIPT"] = record.script
        environment["LSB_JOBFILENAME"] = str(spool.path(str(record.job_id), "script"))
    if record.walltime_s is not None:
        environment["ALPENGLOW_DEADLINE"] = repr(started + record.walltime_s)
    return environment
