"""The `projector` command on a host with a wrong clock: `python -m tests.support.wrong_clock SECONDS worker`.

The time of day is shifted before anything else is imported. Monotonic clocks are not.
"""

import datetime as dt
import sys
import time
from typing import Self


def shift(by_s: int) -> None:
    """Shift the time of day of this process."""
    true_time, true_time_ns = time.time, time.time_ns
    time.time = lambda: true_time() + by_s
    time.time_ns = lambda: true_time_ns() + by_s * 1_000_000_000

    class Shifted(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Self:
            return super().now(tz) + dt.timedelta(seconds=by_s)

        @classmethod
        def utcnow(cls) -> Self:
            return super().utcnow() + dt.timedelta(seconds=by_s)

    dt.datetime = Shifted  # type: ignore[misc]


def main() -> None:
    shift(int(sys.argv.pop(1)))
    from cli.main import run  # noqa: PLC0415 (after the clock is shifted)

    run()


if __name__ == "__main__":
    main()
