"""The rollup `tenant`: the support desks that are bound to each tenant, and the limit of its plan."""

from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Integer, Table, Text

from event_stream.events.event import Event
from event_stream.events.event_types import PlanChanged, SupportDeskBound, SupportDeskUnbound
from projections.database.columns import KeyText, Row, metadata
from projections.folding import row_checksum
from projections.folding.lww import LWWRegister, LWWSet, load_registers
from projections.folding.projection import Key
from projections.folding.rollup import Rollup


class Tenant(NamedTuple):
    """A row: the tenant's support desks, and how many analyses a month its plan allows (None: unlimited)."""

    tenant_id: str
    support_desks: LWWSet = LWWSet()
    plan_limit: LWWRegister[int | None] = LWWRegister(None)


table = Table(
    "tenant",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("support_desk_count", Integer, nullable=False),
    Column("support_desks", Text, nullable=False),
    Column("plan_limit", BigInteger),
    Column("plan_limit_time_us", BigInteger, nullable=False),
    Column("plan_limit_event_id", KeyText, nullable=False),
    *row_checksum.columns(),
)


def key(event: Event) -> Key:
    """Return the key of an event's tenant."""
    return (event.tenant_id,)


def fold(row: Tenant, event: Event) -> Tenant:
    """Return the row after the event."""
    match event.data:
        case SupportDeskBound(binding_id=member):
            return row._replace(support_desks=row.support_desks.set(member, True, event.stamp))
        case SupportDeskUnbound(binding_id=member):
            return row._replace(support_desks=row.support_desks.set(member, False, event.stamp))
        case PlanChanged(plan_limit=plan_limit):
            return row._replace(plan_limit=row.plan_limit.set(plan_limit, event.stamp))
        case _:
            return row


def _new(key: Key) -> Tenant:
    (tenant_id,) = key
    return Tenant(tenant_id)


def _load(columns: Row) -> Tenant:
    tenant_id, _count, support_desks, *registers = columns
    return Tenant(tenant_id, LWWSet.from_json(support_desks), *load_registers(registers))


def _dump(row: Tenant) -> Row:
    return (row.tenant_id, row.support_desks.count, row.support_desks.to_json(), *row.plan_limit.columns)


projection = Rollup(
    "tenant",
    version=1,
    table=table,
    reads=frozenset({SupportDeskBound, SupportDeskUnbound, PlanChanged}),
    key=key,
    new=_new,
    fold=fold,
    load=_load,
    dump=_dump,
)
