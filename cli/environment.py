"""Where commands find Redis and the database: in the environment, else where `projector up` runs in this folder."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

UP_ENV = "up.env"


def load() -> None:
    """Fill in the variables that are unset with those of a running `projector up` in the data directory."""
    file = data_dir(os.environ) / UP_ENV
    if not file.is_file():
        return
    for assignment in shlex.split(file.read_text(), comments=True):
        name, _, value = assignment.partition("=")
        if not os.environ.get(name):
            os.environ[name] = value


def write(variables: Mapping[str, str], directory: Path) -> None:
    """Leave variables in `directory` for `load`, and for a shell to source; nobody else may read them."""
    file = directory / UP_ENV
    lines = [
        "# Written by `projector up`; gone when it ends.",
        *(f"{n}={shlex.quote(v)}" for n, v in variables.items()),
    ]
    write_secret(file, "\n".join(lines) + "\n")


def write_secret(file: Path, text: str) -> None:
    """Write a file that nobody but its owner may read, not even for a moment."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600, exist_ok=False)
    file.write_text(text)


def data_dir(environ: Mapping[str, str]) -> Path:
    """Return the directory of everything that is kept on this machine."""
    return Path(environ.get("PROJECTOR_DATA_DIR") or "var").resolve()
