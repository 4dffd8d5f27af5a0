"""The plan of a soak: its length, its speed, and the intervals of the product that it shortens."""

from dataclasses import dataclass

from workers.dispatch import dispatcher, trimmer

PARTITIONS = 4
WORKERS = 2
VERIFY_S = 300.0  # as `workers.maintenance.verify_jobs.PASS_INTERVAL_S`, in real time
SCRAPE_S = 15.0
REPLAY_S = 60.0


@dataclass(frozen=True)
class Plan:
    """A soak of `minutes` that runs the traffic of `speed` times as many minutes.

    Rates are given in real time. Periodic work (verification, scrapes, replays) happens `speed` times as often too.
    How long entries are kept before they are trimmed does not change.
    """

    minutes: float
    speed: float = 5.0
    tenants: int = 8
    projects: int = 4
    seed: int = 1
    events_per_s: float = 60.0
    reads_per_s: float = 10.0
    sample_s: float = 3.0
    trim_behind_s: float = trimmer.TRIM_AFTER_S
    trim_every_s: float = trimmer.TRIM_EVERY_S
    # Allowed growth of a process from the second quarter to the last: the reserve of its allocator.
    memory_mib: float = 4.0

    @property
    def lasts_s(self) -> float:
        """How long the soak runs."""
        return self.minutes * 60

    @property
    def hours(self) -> float:
        """How many hours of traffic it runs."""
        return self.minutes * self.speed / 60

    @property
    def verify_s(self) -> int:
        """How often the read models are verified."""
        return max(1, round(VERIFY_S / self.speed))

    @property
    def constants(self) -> dict[str, float]:
        """The constants of the product that the soak overrides."""
        return {
            "workers.dispatch.trimmer.TRIM_AFTER_S": self.trim_behind_s,
            "workers.dispatch.trimmer.TRIM_EVERY_S": self.trim_every_s,
            "workers.dispatch.dispatcher.VERIFY_CHECK_EVERY_S": min(dispatcher.VERIFY_CHECK_EVERY_S, self.verify_s),
            "workers.maintenance.verify_jobs.PASS_INTERVAL_S": self.verify_s,
        }


# A whole soak in half a minute, for the tests. Too short to tell a slow leak from a process that warms up.
SHORT = Plan(
    minutes=0.4,
    speed=40.0,
    projects=1,
    events_per_s=6.0,
    reads_per_s=0.75,
    sample_s=0.5,
    trim_behind_s=2.0,
    trim_every_s=0.2,
    memory_mib=32.0,
)
