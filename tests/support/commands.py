"""The `projector` command carried out to its end, in a process that is forked where all of it is imported.

A fresh interpreter needs a second for that, and the tests carry out hundreds of commands. Those of `tests/e2e` run the
installed one.
"""

import os
import sys
from dataclasses import dataclass
from multiprocessing import get_context, set_start_method
from pathlib import Path
from tempfile import TemporaryDirectory

from cli.main import MODULES, run

_context = get_context("forkserver")
_context.set_forkserver_preload([__name__, *MODULES.values()])


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def carry_out(environ: dict[str, str], *arguments: str, timeout_s: float = 300) -> Done:
    """Carry out `projector <arguments>` in an environment, and return how it ended."""
    with TemporaryDirectory(prefix="projector-command-") as directory:
        files = [Path(directory) / name for name in ("stdout", "stderr")]
        process = _context.Process(target=_carry_out, args=(environ, arguments, *files))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"`projector {' '.join(arguments)}` took longer than {timeout_s} s")
        stdout, stderr = (file.read_text() for file in files)
        return Done(process.exitcode, stdout, stderr)


def _carry_out(environ: dict[str, str], arguments: tuple[str, ...], *files: Path) -> None:
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    set_start_method(None, force=True)  # of this helper it is not
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["projector", *arguments]
    run()
