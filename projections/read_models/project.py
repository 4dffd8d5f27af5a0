"""The rollup `project`: the slug, name and settings of each project, and the ids connected to it."""

from typing import NamedTuple

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, Table, Text

from event_stream.events.event import Event
from event_stream.events.event_types import (
    LogSourceAdded,
    LogSourceRemoved,
    NotificationChannelAdded,
    NotificationChannelRemoved,
    ProjectCreated,
    ProjectDeleted,
    ProjectUpdated,
    RepoConnected,
    RepoDisconnected,
    WatchdogToggled,
)
from projections.database.columns import KeyText, Row, metadata
from projections.folding import row_checksum
from projections.folding.lww import LWWRegister, LWWSet, Stamp, load_registers
from projections.folding.projection import Key, project_key
from projections.folding.rollup import Rollup


class Project(NamedTuple):
    """A row. The project exists if its latest created or deleted event is a created event."""

    tenant_id: str
    project_id: str
    exists: LWWRegister[bool] = LWWRegister(value=False)
    slug: LWWRegister[str | None] = LWWRegister(None)
    name: LWWRegister[str | None] = LWWRegister(None)
    watchdog: LWWRegister[bool] = LWWRegister(value=False)
    log_sources: LWWSet = LWWSet()
    repos: LWWSet = LWWSet()
    notification_channels: LWWSet = LWWSet()


table = Table(
    "project",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("project_id", KeyText, primary_key=True),
    Column("project_exists", Boolean, nullable=False),
    Column("exists_time_us", BigInteger, nullable=False),
    Column("exists_event_id", KeyText, nullable=False),
    Column("slug", KeyText),
    Column("slug_time_us", BigInteger, nullable=False),
    Column("slug_event_id", KeyText, nullable=False),
    Column("name", Text),
    Column("name_time_us", BigInteger, nullable=False),
    Column("name_event_id", KeyText, nullable=False),
    Column("watchdog_enabled", Boolean, nullable=False),
    Column("watchdog_time_us", BigInteger, nullable=False),
    Column("watchdog_event_id", KeyText, nullable=False),
    Column("log_source_count", Integer, nullable=False),
    Column("log_sources", Text, nullable=False),
    Column("repo_count", Integer, nullable=False),
    Column("repos", Text, nullable=False),
    Column("notification_channel_count", Integer, nullable=False),
    Column("notification_channels", Text, nullable=False),
    *row_checksum.columns(),
)
# Several projects may have the same slug for a while. Reads use the existing project that took it last.
Index(
    "project_by_slug",
    table.c.tenant_id,
    table.c.slug,
    table.c.slug_time_us.desc(),
    table.c.slug_event_id.desc(),
    postgresql_where=table.c.project_exists,
    sqlite_where=table.c.project_exists == 1,  # SQLite uses the index only for this exact term
)


def fold(row: Project, event: Event) -> Project:
    """Return the row after the event."""
    stamp = event.stamp
    match event.data:
        case ProjectCreated(slug=slug, name=name):
            return _rename(row, slug, name, stamp)._replace(exists=row.exists.set(True, stamp))
        case ProjectUpdated(slug=slug, name=name):
            return _rename(row, slug, name, stamp)
        case ProjectDeleted():
            return row._replace(exists=row.exists.set(False, stamp))
        case WatchdogToggled(enabled=enabled):
            return row._replace(watchdog=row.watchdog.set(enabled, stamp))
        case _:
            return _fold_member(row, event)


def _fold_member(row: Project, event: Event) -> Project:
    present = isinstance(event.data, LogSourceAdded | RepoConnected | NotificationChannelAdded)
    match event.data:
        case LogSourceAdded(log_source_id=member) | LogSourceRemoved(log_source_id=member):
            return row._replace(log_sources=row.log_sources.set(member, present, event.stamp))
        case RepoConnected(repo_id=member) | RepoDisconnected(repo_id=member):
            return row._replace(repos=row.repos.set(member, present, event.stamp))
        case NotificationChannelAdded(channel_id=member) | NotificationChannelRemoved(channel_id=member):
            channels = row.notification_channels.set(member, present, event.stamp)
            return row._replace(notification_channels=channels)
        case _:
            return row


def _rename(row: Project, slug: str | None, name: str | None, stamp: Stamp) -> Project:
    return row._replace(
        slug=row.slug.set_unless_none(slug, stamp),
        name=row.name.set_unless_none(name, stamp),
    )


def _new(key: Key) -> Project:
    tenant_id, project_id = key
    return Project(tenant_id, project_id)


def _load(columns: Row) -> Project:
    tenant_id, project_id, *registers = columns[:14]
    exists, slug, name, watchdog = load_registers(registers)
    sets = (LWWSet.from_json(text) for text in columns[15::2])
    return Project(tenant_id, project_id, exists, slug, name, watchdog, *sets)


def _dump(row: Project) -> Row:
    registers = (row.exists, row.slug, row.name, row.watchdog)
    sets = (row.log_sources, row.repos, row.notification_channels)
    return (
        row.tenant_id,
        row.project_id,
        *(column for register in registers for column in register.columns),
        *(column for ids in sets for column in (ids.count, ids.to_json())),
    )


projection = Rollup(
    "project",
    version=1,
    table=table,
    reads=frozenset(
        {
            ProjectCreated,
            ProjectUpdated,
            ProjectDeleted,
            WatchdogToggled,
            LogSourceAdded,
            LogSourceRemoved,
            RepoConnected,
            RepoDisconnected,
            NotificationChannelAdded,
            NotificationChannelRemoved,
        }
    ),
    key=project_key,
    new=_new,
    fold=fold,
    load=_load,
    dump=_dump,
)
