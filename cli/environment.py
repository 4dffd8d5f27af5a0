"""The environment of commands. A running `projector up` adds the URLs of its servers through a file, `up.env`."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import structlog

UP_ENV = "up.env"

log = structlog.get_logger()


def load() -> None:
    """Set the variables of the `projector up` that runs on the data directory, unless one of them is set already.

    A mixture would join the Redis of one deployment with the database of another.
    """
    file = data_dir(os.environ) / UP_ENV
    if not file.is_file():
        return
    variables = dict(_assignments(file))
    given = [name for name in variables if os.environ.get(name)]
    if not given:
        os.environ.update(variables)
    elif len(given) < len(variables):
        log.warning("environment.up_env_ignored", file=str(file), variables_set=given)


def write(variables: Mapping[str, str], directory: Path) -> None:
    """Write variables to `up.env` in `directory`, for `load` and for shells. Only the owner can read the file."""
    assignments = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    lines = ["# Written by `projector up`; removed when it stops.", *assignments]
    write_secret(directory / UP_ENV, "\n".join(lines) + "\n")


def write_secret(file: Path, text: str) -> None:
    """Write a file that only its owner can read, from the moment it exists."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600, exist_ok=False)
    file.write_text(text)


def data_dir(environ: Mapping[str, str]) -> Path:
    """Return the directory for the data of this machine: PROJECTOR_DATA_DIR, or `var`."""
    return Path(environ.get("PROJECTOR_DATA_DIR") or "var").resolve()


def _assignments(file: Path) -> list[tuple[str, str]]:
    parts = [each.partition("=") for each in shlex.split(file.read_text(), comments=True)]
    return [(name, value) for name, _, value in parts]
