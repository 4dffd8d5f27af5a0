"""Runs modules of this project as processes on a test's servers: `start("cli", "worker")`."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import TypeAlias

# For `tests.support.override_constants`: an API with long timeouts, for machines that stall.
PATIENT_API = {
    "api_stub.lookups.coalesce.QUERY_TIMEOUT_S": 60.0,
    "api_stub.lookups.postgresql.QUERY_TIMEOUT_S": 60.0,
    "workers.runtime.REPORT_REDIS_TIMEOUT_S": 20.0,
    "workers.runtime.REPORT_DATABASE_TIMEOUT_S": 60.0,
}

Start: TypeAlias = Callable[..., "subprocess.Popen[bytes]"]


def environ_of(database_url: str, redis_url: str, partitions: int = 4) -> dict[str, str]:
    """Return an environment in which commands find a test's servers."""
    return os.environ | {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url.replace("+psycopg", ""),
        "PROJECTOR_PARTITIONS": str(partitions),
        "PROJECTOR_SHUTDOWN_GRACE_S": "0",
    }


def start_module(environ: dict[str, str], module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start a module of this project as a process."""
    return subprocess.Popen([sys.executable, "-m", module, *arguments], env=environ)
