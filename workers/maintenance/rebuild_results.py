"""The result of rebuilding, comparing or verifying one tenant."""

from collections.abc import Iterator
from itertools import islice
from operator import itemgetter
from typing import Any, Literal, Self

from pydantic import BaseModel

from projections.lifecycle.rebuild import Difference, RebuildResult

SAMPLES_MAX = 10


class RowSample(BaseModel):
    """One row that differs from the event log; `columns` holds the (stored, rebuilt) values of a changed row."""

    read_model: str
    kind: Literal["missing", "extra", "changed"]
    key: tuple[Any, ...]
    columns: dict[str, tuple[Any, Any]] = {}


class TenantRebuild(BaseModel):
    """The result for one tenant; if `error` is set, the tenant's rows are unchanged.

    `differed` counts the missing, extra and changed rows of each read model, and `samples` holds some of them.
    `lock_held_s` is how long the drains of the tenant's partition had to wait.
    """

    tenant_id: str
    error: str | None = None
    lock_held_s: float = 0.0
    differed: dict[str, dict[str, int]] = {}
    samples: list[RowSample] = []

    @classmethod
    def of(cls, tenant_id: str, result: RebuildResult) -> Self:
        """Return the result of a tenant that was rebuilt or compared without an error."""
        found = cls(tenant_id=tenant_id, lock_held_s=result.lock_held_s)
        for difference in result.differences:
            found.differed[difference.table.name] = {
                "missing": len(difference.missing),
                "extra": len(difference.extra),
                "changed": len(difference.changed),
            }
            found.samples += islice(_samples(difference), SAMPLES_MAX - len(found.samples))
        return found


def _samples(difference: Difference) -> Iterator[RowSample]:
    table = difference.table
    key_of = itemgetter(slice(len(table.primary_key.columns)))
    yield from (RowSample(read_model=table.name, kind="missing", key=key_of(row)) for row in difference.missing)
    yield from (RowSample(read_model=table.name, kind="extra", key=key_of(row)) for row in difference.extra)
    for stored, rebuilt in difference.changed:
        values = zip(table.columns.keys(), stored, rebuilt, strict=True)
        columns = {name: (old, new) for name, old, new in values if old != new}
        yield RowSample(read_model=table.name, kind="changed", key=key_of(stored), columns=columns)
