"""Numbers with their nouns."""

import pytest

from event_stream.plurals import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "tenant", "1 tenant"),
        (0, "tenant", "0 tenants"),
        (1234, "entry", "1,234 entries"),
        (1, "entry", "1 entry"),
        (2, "process", "2 processes"),
        (2, "dead letter", "2 dead letters"),
    ],
)
def test_a_noun_is_in_the_plural_unless_its_number_is_one(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text
