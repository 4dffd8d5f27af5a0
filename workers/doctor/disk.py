"""Checks of this host's disks."""

import shutil
from collections.abc import Iterator

from workers.doctor.check import Observation, Subject, warning_check
from workers.doctor.context import Context


@warning_check(
    "disk-nearly-full",
    Subject.HOST,
    "G7",
    meaning="The disk of the data directory or of the SQLite file has less than 1 GiB free. When it is full, the"
    " embedded Redis accepts no events and nothing is projected, until space is freed.",
    remedy="free space on the disk of `{folder}`, or move the folder (PROJECTOR_DATA_DIR, DATABASE_URL)",
)
def nearly_full(context: Context) -> Iterator[Observation]:
    """Compare the free space of the folders that exist on this host with the limit."""
    file = context.sqlite_file
    folders = {context.data_dir.resolve(), *([file.parent.resolve()] if file else [])}
    for folder in sorted(folder for folder in folders if folder.is_dir()):
        free = shutil.disk_usage(folder).free
        if free < context.limits.disk_free_bytes:
            yield Observation(f"{free:,} bytes free at {folder}", {"folder": folder})
