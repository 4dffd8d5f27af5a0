"""Parts of the benchmark that run to their end as processes of their own, and print what they measured as JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping


class MeasureError(Exception):
    """Something could not be measured, or what was measured is not what it should be."""


def figures_of(module: str, *arguments: object, stdin: str = "", **environ: str) -> Mapping[str, float]:
    """Run a module and return the figures that it prints; raises MeasureError if it fails."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, env=os.environ | environ, timeout=600
    )
    if done.returncode != 0:
        raise MeasureError(f"{module} failed: {done.stderr[-2000:]}")
    figures: Mapping[str, float] = json.loads(done.stdout)
    return figures
