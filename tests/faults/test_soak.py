"""The soak, short: everything in half a minute, so that it cannot rot; `make soak` plays an hour of traffic."""

from tests.soak.plan import SHORT
from tests.soak.run import soak


def test_everything_but_the_event_log_stays_bounded_under_traffic() -> None:
    made = soak(SHORT)
    assert made.faults() == []
    rows = made.series("rows of event_log")
    assert rows[-1] - rows[0] > 0.8 * made.done["entries appended"]
