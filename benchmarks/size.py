"""Sizes of a benchmark: `--quick` for a smoke test, standard, and `--large`."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Size:
    """The numbers of a run.

    `events` is the length of a backlog, and `log_rows` the length of the event log before a drain. `history_rows` has
    the lengths of a short log and of a long one.
    """

    rounds: int = 5
    events: int = 150_000
    jobs: int = 1_000
    log_rows: int = 1_000_000
    history_rows: tuple[int, int] = (10_000, 1_000_000)
    many_projects: int = 100_000
    requests: int = 10_000
    queries: int = 200
    append_events: int = 50_000
    freshness_events: int = 100
    memory_events: int = 300_000


STANDARD = Size()
SIZES = {
    "quick": Size(
        rounds=1,
        events=2_400,
        jobs=20,
        log_rows=20_000,
        history_rows=(10_000, 50_000),
        many_projects=2_000,
        requests=400,
        queries=10,
        append_events=2_000,
        freshness_events=10,
        memory_events=9_000,
    ),
    "standard": STANDARD,
    "large": replace(STANDARD, log_rows=10_000_000, history_rows=(10_000, 5_000_000), memory_events=1_000_000),
}
