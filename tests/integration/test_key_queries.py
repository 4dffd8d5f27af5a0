"""Rows are found by their keys, whatever text the keys hold."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, Engine, MetaData, Table

from projections.database.bulk import insert_rows
from projections.database.columns import KeyText, Row
from projections.database.key_queries import find_rows

pytestmark = pytest.mark.both_databases

# What both databases can store: not U+0000, and no lone surrogates. Few characters, so that separators are likely.
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00") | st.sampled_from("\x1f01a\\{},\"'"), max_size=6
)


@pytest.fixture
def table(writer: Engine) -> Iterator[Table]:
    columns = (
        Column("first", KeyText, primary_key=True),
        Column("second", KeyText, primary_key=True),
        Column("number", BigInteger, primary_key=True),
    )
    made = Table("keys_of_text", MetaData(), *columns)
    made.create(writer)
    yield made
    made.drop(writer)


def found(writer: Engine, table: Table, stored: list[Row], wanted: list[Row]) -> list[Row]:
    with writer.connect() as connection:
        insert_rows(connection, table, stored)
        return sorted(tuple(row) for row in find_rows(connection, table, list(table.columns), wanted))


@pytest.mark.parametrize("text", ["", "\x1f", "a\x1fb", "\x1f\x1f0", "\x1f0", "NULL", "\\N", "{}", '"', " "])
def test_an_empty_key_and_a_key_with_a_separator_find_their_rows(writer: Engine, table: Table, text: str) -> None:
    other = [("x", text, 1), (text, "x", 1), (text + "\x1f", text, 1)]
    assert found(writer, table, [(text, text, 1), *other], [(text, text, 1)]) == [(text, text, 1)]
    assert found(writer, table, [(text, text, 1), *other], [(text, text, 1), *other]) == sorted(
        [(text, text, 1), *other]
    )


@pytest.mark.hypothesis
def test_exactly_the_rows_of_the_keys_are_found(writer: Engine, table: Table) -> None:
    rows = st.lists(st.tuples(TEXTS, TEXTS, st.integers(0, 2)), min_size=1, max_size=8, unique=True)

    @given(rows, rows)
    @settings(suppress_health_check=[HealthCheck.too_slow])
    def check(stored: list[Row], others: list[Row]) -> None:
        wanted = stored[::2] + [other for other in others if other not in stored]
        assert found(writer, table, stored, wanted) == sorted(stored[::2])

    check()
