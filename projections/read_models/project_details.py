"""The rollup `project_details`: what lists show of each project beside its name: texts, default flag, last change."""

from typing import NamedTuple

from sqlalchemy import BigInteger, Boolean, Column, Table, Text

from event_stream.events.event import Event
from event_stream.events.event_types import ProjectCreated, ProjectUpdated
from projections.database.columns import KeyText, Row, metadata
from projections.folding import row_checksum
from projections.folding.lww import LWWRegister, load_registers
from projections.folding.projection import Key, project_key
from projections.folding.rollup import Rollup


class ProjectDetails(NamedTuple):
    """A row. `updated_us` is the time of the latest event in microseconds since 1970 UTC."""

    tenant_id: str
    project_id: str
    updated_us: int = -1
    description: LWWRegister[str | None] = LWWRegister(None)
    is_default: LWWRegister[bool] = LWWRegister(value=False)
    llm_context: LWWRegister[str | None] = LWWRegister(None)


table = Table(
    "project_details",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("project_id", KeyText, primary_key=True),
    Column("updated_time_us", BigInteger, nullable=False),
    Column("description", Text),
    Column("description_time_us", BigInteger, nullable=False),
    Column("description_event_id", KeyText, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("is_default_time_us", BigInteger, nullable=False),
    Column("is_default_event_id", KeyText, nullable=False),
    Column("llm_context", Text),
    Column("llm_context_time_us", BigInteger, nullable=False),
    Column("llm_context_event_id", KeyText, nullable=False),
    *row_checksum.columns(),
)


def fold(row: ProjectDetails, event: Event) -> ProjectDetails:
    """Return the row after the event. A member that is missing or null changes nothing."""
    data, stamp = event.data, event.stamp
    assert isinstance(data, ProjectCreated | ProjectUpdated)
    is_default = data.is_default if isinstance(data, ProjectCreated) else None
    return row._replace(
        updated_us=max(row.updated_us, event.time_us),
        description=row.description.set_unless_none(data.description, stamp),
        is_default=row.is_default.set_unless_none(is_default, stamp),
        llm_context=row.llm_context.set_unless_none(data.llm_context, stamp),
    )


def _new(key: Key) -> ProjectDetails:
    tenant_id, project_id = key
    return ProjectDetails(tenant_id, project_id)


def _load(columns: Row) -> ProjectDetails:
    tenant_id, project_id, updated_us, *registers = columns
    return ProjectDetails(tenant_id, project_id, updated_us, *load_registers(registers))


def _dump(row: ProjectDetails) -> Row:
    registers = (row.description, row.is_default, row.llm_context)
    return (
        row.tenant_id,
        row.project_id,
        row.updated_us,
        *(column for register in registers for column in register.columns),
    )


projection = Rollup(
    "project_details",
    version=1,
    table=table,
    reads=frozenset({ProjectCreated, ProjectUpdated}),
    key=project_key,
    new=_new,
    fold=fold,
    load=_load,
    dump=_dump,
)
