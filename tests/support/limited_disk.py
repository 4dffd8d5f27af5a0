"""A small file system that tests can fill; needs the right to mount."""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def limited_disk(megabytes: int) -> Iterator[Path]:
    """Mount a world-writable disk of some megabytes; skips the test if mounting is not permitted."""
    with tempfile.TemporaryDirectory(prefix="projector-disk-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        disk = Path(name) / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "none", str(disk)]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("a small file system cannot be mounted here")
        nobody = pwd.getpwnam("nobody")
        os.chown(disk, nobody.pw_uid, nobody.pw_gid)
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Callable[[], None]:
    """Fill a disk completely; returns a function that frees the space again."""
    file = disk / "ballast"
    with file.open("wb", buffering=0) as output:
        for size in (65_536, 512, 1):
            try:
                while True:
                    output.write(bytes(size))
            except OSError:
                continue
    return file.unlink
