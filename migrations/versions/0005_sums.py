"""How many events are in each row of a read model, and a fingerprint of which; counted once over the whole log."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

READS = {
    "project": (
        "project.created.v1",
        "project.updated.v1",
        "project.deleted.v1",
        "watchdog.toggled.v1",
        "log_source.added.v1",
        "log_source.removed.v1",
        "repo.connected.v1",
        "repo.disconnected.v1",
        "notification_channel.added.v1",
        "notification_channel.removed.v1",
    ),
    "analysis_trend": ("analysis.created.v1",),
    "tenant": ("support_desk.bound.v1", "support_desk.unbound.v1"),
}
KEYS = {"project": ("tenant_id", "project_id"), "analysis_trend": ("tenant_id", "project_id"), "tenant": ("tenant_id",)}


def upgrade() -> None:
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    hashed = "encode(substr(sha256(convert_to(event_id, 'UTF8')), 1, 4), 'hex')"
    fingerprint = f"('x' || {hashed})::bit(32)::bigint" if is_postgresql else "fingerprint(event_id)"
    for table, types in READS.items():
        for name in ("events", "fingerprint"):
            op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
        keys = ", ".join(KEYS[table])
        mine = " AND ".join(f"{table}.{key} = logged.{key}" for key in KEYS[table])
        op.get_bind().execute(
            sa.text(
                f"UPDATE {table} SET events = logged.events, fingerprint = logged.fingerprint FROM ("
                f" SELECT {keys}, count(*) AS events, CAST(sum({fingerprint}) AS bigint) AS fingerprint"
                f" FROM event_log WHERE type IN :types GROUP BY {keys}) AS logged WHERE {mine}"
            ).bindparams(sa.bindparam("types", types, expanding=True))
        )
