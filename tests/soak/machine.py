"""The machine a soak was made on."""

import os
import platform
from datetime import UTC, datetime
from typing import Any

import psutil


def described() -> dict[str, Any]:
    """Return when it was, and on what, and how busy that was."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}",
        "python": f"Python {platform.python_version()}",
        "load average": [round(load, 2) for load in psutil.getloadavg()],
    }
