"""Checks of this host."""

import shutil
from collections.abc import Iterator

from workers.doctor.check import Checker, Observation, Side
from workers.doctor.context import Context

host = Checker(Side.HOST)


@host.advice(
    "disk-nearly-full",
    "G7",
    means="The disk of the data directory or of the SQLite file has less than 1 GiB free: when it is full, nothing is"
    " appended to an embedded Redis and nothing projected, until there is room again.",
    remedy="make room on the disk of `{folder}`, or move it (PROJECTOR_DATA_DIR, DATABASE_URL)",
)
def disk_nearly_full(patient: Context) -> Iterator[Observation]:
    """See how much room there is where we keep things on this host; folders that are not there are not ours."""
    file = patient.sqlite_file
    folders = {patient.data_dir.resolve(), *([file.parent.resolve()] if file else [])}
    for folder in sorted(folder for folder in folders if folder.is_dir()):
        free = shutil.disk_usage(folder).free
        if free < patient.limits.disk_free_bytes:
            yield Observation(f"{free:,} bytes free at {folder}", {"folder": folder})
