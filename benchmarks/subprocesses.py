"""Runs a part of the benchmark in a process of its own, which prints its figures as JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping


class BenchmarkError(Exception):
    """A measurement failed, or its result is wrong."""


def run_module(module: str, *arguments: object, stdin: str = "", **environ: str) -> Mapping[str, float]:
    """Run a module to its end and return the figures that it prints. Raises BenchmarkError if it fails."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, env=os.environ | environ, timeout=600
    )
    if done.returncode != 0:
        raise BenchmarkError(f"{module} failed: {done.stderr[-2000:]}")
    figures: Mapping[str, float] = json.loads(done.stdout)
    return figures
