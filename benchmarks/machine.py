"""The machine a run was made on, and how busy it was: a ratio is worth what its noise leaves of it."""

import os
import platform
import time
import timeit
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import psycopg

from benchmarks.place import Place


def describe(place: Place) -> dict[str, Any]:
    """Return cores, CPU, versions, load now and the share of a core that others use while we do nothing."""
    with psycopg.connect(place.postgres.url()) as connection:
        postgres = connection.info.parameter_status("server_version")
    redis = place.redis.ask("INFO", "server")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "python_ms": round(_python_ms(), 2),
        "postgresql": postgres,
        "redis": redis.get("valkey_version") or redis["redis_version"],
        "packages": {name: version(name) for name in ("psycopg", "pydantic", "redis", "rq", "sqlalchemy", "uvicorn")},
        "fsync_ms": round(_fsync_ms(place.directory), 3),
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
        "cores_busy_with_others": round(busy_cores(1.0), 2),
    }


def busy_cores(during_s: float) -> float:
    """Return how many cores were busy on average over a time in which we sleep."""
    clock = CpuClock()
    time.sleep(during_s)
    return clock.busy_cores()


class CpuClock:
    """How many cores were busy since it was made, with whatever ran on the machine."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._busy_s = _busy_s()

    def busy_cores(self) -> float:
        """Return the cores that were busy, on average."""
        return (_busy_s() - self._busy_s) / (time.perf_counter() - self._started)


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _fsync_ms(directory: Path) -> float:
    """Return what a small write with fsync costs here: the floor of every durable commit."""
    with (directory / "fsync").open("wb", buffering=0) as file:
        took = []
        for _ in range(50):
            file.write(b"x" * 512)
            started = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - started)
    return sorted(took)[25] * 1000


def _python_ms() -> float:
    """Return what some work takes this interpreter: one built without optimisations needs a third more."""
    return min(timeit.repeat("sum(i * i for i in range(100_000))", number=1, repeat=20)) * 1000


def _cpu() -> str:
    names = [line.partition(": ")[2] for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
