"""Describes the machine that ran a soak."""

import os
import platform
from datetime import UTC, datetime
from typing import Any

import psutil


def describe_machine() -> dict[str, Any]:
    """Return the date, the machine and its load."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}",
        "python": f"Python {platform.python_version()}",
        "load average": [round(load, 2) for load in psutil.getloadavg()],
    }
