"""What a soak does: how long, how fast, and which of the product's slow clocks go faster."""

from dataclasses import dataclass

from workers.dispatch import dispatcher, trimmer

PARTITIONS = 4
WORKERS = 2
VERIFY_S = 300.0  # as `workers.maintenance.verify_jobs.EVERY_S`, in real time
SCRAPE_S = 15.0
REPLAY_S = 60.0


@dataclass(frozen=True)
class Plan:
    """A soak of `minutes`, in which the traffic of `speed` times as many is played.

    Rates are those of real time. What the traffic makes happen now and then (a verification, a scrape, a replay) comes
    `speed` times as often too; that entries are kept for `trim_behind_s` does not change with the traffic.
    """

    minutes: float
    speed: float = 5.0
    tenants: int = 8
    projects: int = 4
    seed: int = 1
    events_per_s: float = 60.0
    reads_per_s: float = 10.0
    sample_s: float = 3.0
    trim_behind_s: float = trimmer.TRIM_BEHIND_S
    trim_every_s: float = trimmer.TRIM_EVERY_S
    # How much a process may grow from the second quarter to the last: what its allocator keeps in reserve.
    memory_mib: float = 4.0

    @property
    def lasts_s(self) -> float:
        """How long it is played."""
        return self.minutes * 60

    @property
    def hours(self) -> float:
        """How many hours of traffic are played."""
        return self.minutes * self.speed / 60

    @property
    def verify_s(self) -> int:
        """How often the read models are verified."""
        return max(1, round(VERIFY_S / self.speed))

    @property
    def constants(self) -> dict[str, float]:
        """The product's constants that are not as they are in real time."""
        return {
            "workers.dispatch.trimmer.TRIM_BEHIND_S": self.trim_behind_s,
            "workers.dispatch.trimmer.TRIM_EVERY_S": self.trim_every_s,
            "workers.dispatch.dispatcher.LOOK_FOR_VERIFIED_S": min(dispatcher.LOOK_FOR_VERIFIED_S, self.verify_s),
            "workers.maintenance.verify_jobs.EVERY_S": self.verify_s,
        }


# The whole of it in half a minute, for `make test`: far too short to tell a slow leak from a process that warms up.
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
