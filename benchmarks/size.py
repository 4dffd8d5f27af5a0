"""How large the benchmark is: `--quick` for a smoke test, standard, or `--large`."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Size:
    """The numbers of a run. `log_rows` is what a log holds before a drain; `history` a short log and a long one."""

    rounds: int = 5
    events: int = 150_000
    jobs: int = 1_000
    log_rows: int = 1_000_000
    history: tuple[int, int] = (10_000, 1_000_000)
    many_projects: int = 100_000
    requests: int = 10_000
    queries: int = 200
    appended: int = 50_000
    waits: int = 100
    backlog: int = 300_000


STANDARD = Size()
SIZES = {
    "quick": Size(
        rounds=1,
        events=2_400,
        jobs=20,
        log_rows=20_000,
        history=(10_000, 50_000),
        many_projects=2_000,
        requests=400,
        queries=10,
        appended=2_000,
        waits=10,
        backlog=9_000,
    ),
    "standard": STANDARD,
    "large": replace(STANDARD, log_rows=10_000_000, history=(10_000, 5_000_000), backlog=1_000_000),
}
