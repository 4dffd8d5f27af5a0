"""A soak of half a minute, so that the soak keeps working; `make soak` runs an hour of traffic."""

from tests.soak.plan import SHORT
from tests.soak.run import soak


def test_everything_except_the_event_log_stays_bounded_under_traffic() -> None:
    made = soak(SHORT)
    assert made.failures() == []
    rows = made.series("rows of event_log")
    assert rows[-1] - rows[0] > 0.8 * made.done["entries appended"]
