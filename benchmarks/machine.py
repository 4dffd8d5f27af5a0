"""Describes the machine of a run, and measures how busy it is."""

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

from benchmarks.sandbox import Sandbox


def describe(sandbox: Sandbox) -> dict[str, Any]:
    """Return the cores, CPU, versions, and the load of other processes before the benchmark starts."""
    with psycopg.connect(sandbox.postgres.url()) as connection:
        postgres = connection.info.parameter_status("server_version")
    redis = sandbox.redis.command("INFO", "server")
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
        "fsync_ms": round(_fsync_ms(sandbox.directory), 3),
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
        "cores_busy_with_others": round(busy_cores(1.0), 2),
    }


def busy_cores(during_s: float) -> float:
    """Return the average number of busy cores while this process sleeps."""
    clock = CpuClock()
    time.sleep(during_s)
    return clock.busy_cores()


class CpuClock:
    """Measures the number of busy cores since its creation, over all processes of the machine."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._busy_s = _busy_s()

    def busy_cores(self) -> float:
        """Return the average number of busy cores."""
        return (_busy_s() - self._busy_s) / (time.perf_counter() - self._started)


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _fsync_ms(directory: Path) -> float:
    """Return the duration of a small write with fsync, the minimum for a durable commit."""
    with (directory / "fsync").open("wb", buffering=0) as file:
        durations_s = []
        for _ in range(50):
            file.write(b"x" * 512)
            started = time.perf_counter()
            os.fsync(file.fileno())
            durations_s.append(time.perf_counter() - started)
    return sorted(durations_s)[25] * 1000


def _python_ms() -> float:
    """Return the duration of a fixed piece of work. A Python built without optimisations needs a third more."""
    return min(timeit.repeat("sum(i * i for i in range(100_000))", number=1, repeat=20)) * 1000


def _cpu() -> str:
    names = [line.partition(": ")[2] for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
