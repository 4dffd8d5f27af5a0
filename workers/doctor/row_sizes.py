"""Check of the rows of read models: none has grown so large that it slows its partition."""

from collections.abc import Iterator

from sqlalchemy import ColumnElement, LargeBinary, Text, cast, func, select

from projections.database.columns import KeyText
from projections.folding.rollup import Rollup
from workers.doctor.check import Observation, Subject, warning_check
from workers.doctor.context import Context


@warning_check(
    "large-rows",
    Subject.DATABASE,
    "G8",
    meaning="A set in a row of a read model has more than 1 MiB, which is about 10,000 distinct ids. Each batch that"
    " changes the row reads and writes the set whole, and ids that were removed stay in it.",
    remedy="find out why the producer gives new ids to what it adds and removes (`{column}` of table `{table}`), and"
    " let it use the same id for the same thing",
)
def large_rows(context: Context) -> Iterator[Observation]:
    """Compare the size of each text column of each rollup with the limit."""
    for projection in context.runtime.projections:
        if isinstance(projection, Rollup):
            for column in projection.table.columns:
                if isinstance(column.type, Text) and column.type is not KeyText:
                    yield from _large_values(context, projection, column)


def _large_values(context: Context, projection: Rollup[object], column: ColumnElement[str]) -> Iterator[Observation]:
    key = list(projection.table.primary_key.columns)
    with context.runtime.reader.connect() as connection:
        on_sqlite = connection.dialect.name == "sqlite"
        size = func.length(cast(column, LargeBinary)) if on_sqlite else func.octet_length(column)
        query = select(func.count().over(), size, *key).where(size > context.limits.text_bytes).order_by(size.desc())
        largest = connection.execute(query.limit(1)).first()
    if largest is not None:
        count, size_bytes, *values = largest
        where = ", ".join(f"{each.name} {value}" for each, value in zip(key, values, strict=True))
        message = f"table {projection.name} has rows with large {column.name}: {count:,}; the largest has"
        yield Observation(
            f"{message} {size_bytes / 2**20:.1f} MiB ({where})", {"table": projection.name, "column": column.name}
        )
