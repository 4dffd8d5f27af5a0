"""Runs `projector` commands to their end in a process forked from a server that has imported all of them.

A fresh interpreter needs a second for the imports, and the tests run hundreds of commands. Tests in `tests/e2e` run the
installed command.
"""

import os
import sys
from dataclasses import dataclass
from multiprocessing import get_context, set_start_method
from pathlib import Path
from tempfile import TemporaryDirectory

from cli.main import MODULES, run
from workers.background_stream import finish_stderr

_context = get_context("forkserver")
_context.set_forkserver_preload([__name__, *MODULES.values()])


@dataclass(frozen=True)
class CommandResult:
    """The exit code and the output of a command."""

    returncode: int
    stdout: str
    stderr: str


def run_command(environ: dict[str, str], *arguments: str, timeout_s: float = 300) -> CommandResult:
    """Run `projector <arguments>` in an environment."""
    with TemporaryDirectory(prefix="projector-command-") as directory:
        files = [Path(directory) / name for name in ("stdout", "stderr")]
        process = _context.Process(target=_run, args=(environ, arguments, *files))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"`projector {' '.join(arguments)}` took longer than {timeout_s} s")
        stdout, stderr = (file.read_text() for file in files)
        return CommandResult(process.exitcode, stdout, stderr)


def _run(environ: dict[str, str], arguments: tuple[str, ...], *files: Path) -> None:
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    set_start_method(None, force=True)  # the command chooses its own
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["projector", *arguments]
    try:
        run()
    finally:
        finish_stderr()
