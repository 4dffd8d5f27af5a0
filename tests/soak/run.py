"""Runs one soak: start, generate load and take samples, drain, and check every series."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from projections.lifecycle.dead_letter_admin import Selection
from tests.soak.deployment import SoakDeployment, deploy
from tests.soak.limits import SAMPLES_MIN, Limit, Measured
from tests.soak.load import LoadThread, running_load
from tests.soak.plan import PARTITIONS, Plan
from tests.soak.sampling import Sampler, Values, sample_times
from tests.soak.series_limits import limits_of
from tests.soak.traffic import Traffic
from tests.support.harness import checkpoints, stored_dead_letters
from tests.support.invariants import assert_counters_add_up
from tests.support.servers import wait_until
from workers.drain.drainer import needs_drain
from workers.maintenance import verify_results
from workers.maintenance.replay import replay

CHUNK = 1_000
DRAINED_TIMEOUT_S = 120
DONE = ("reads of stats answered 200", "reads of activity answered 200", "scrapes of metrics and health")


@dataclass(frozen=True)
class SeriesResult:
    """A series with its limit and its measurement."""

    name: str
    limit: Limit
    measured: Measured


@dataclass
class Soak:
    """The result of a soak. `wrong` lists failures other than series that are not flat."""

    plan: Plan
    at_s: list[float] = field(default_factory=list)
    samples: list[Values] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    updates: dict[str, dict[str, int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def series(self, name: str) -> list[float]:
        """Return all values of a series."""
        return [sample[name] for sample in self.samples]

    def results(self) -> list[SeriesResult]:
        """Return the result of each series that has a limit; none if the soak was interrupted."""
        if len(self.samples) < SAMPLES_MIN:
            return []
        return [
            SeriesResult(name, rule, rule.measure(self.series(name))) for name, rule in limits_of(self.plan).items()
        ]

    def failures(self) -> list[str]:
        """Return every series that is not flat, with its numbers, and all other failures."""
        leaks = [_describe(each) for each in self.results() if not each.measured.flat]
        too_few = [] if leaks or self.results() else [f"{len(self.samples)} samples are too few"]
        return [*leaks, *too_few, *self.wrong]


def soak(plan: Plan, on_sample: Callable[[float], None] = lambda _: None) -> Soak:
    """Run a plan and return its result; `on_sample` receives the number of seconds since the start."""
    made, traffic = Soak(plan), Traffic(plan)
    with deploy(plan) as where, Sampler(where) as sampler:
        _begin(where, traffic)
        with running_load(plan, where, traffic, made.done) as threads:
            for at_s in sample_times(plan.lasts_s, plan.sample_s, lambda: not _undone(sampler, made)):
                made.at_s.append(at_s)
                made.samples.append(sampler.take())
                on_sample(at_s)
                where.assert_alive()
                if any(thread.error for thread in threads):
                    break
        made.updates = sampler.updates()
        made.wrong.extend(_wrong(threads, sampler, made))
        _await_drained(where)
        made.wrong.extend(_wrong_at_rest(where, traffic))
        where.end()
    return made


def _begin(where: SoakDeployment, traffic: Traffic) -> None:
    """Append and drain the first entries, after which no new key or row appears."""
    entries = list(traffic.beginning())
    for first in range(0, len(entries), CHUNK):
        where.runtime.stream.append(entries[first : first + CHUNK])
    _await_drained(where)
    # The misrouted event is valid: replay it now, so that it counts from the start.
    replay(where.runtime, Selection())
    _await_drained(where)


def _await_drained(where: SoakDeployment) -> None:
    def is_drained() -> bool:
        where.assert_alive()
        ends = where.runtime.stream.ends()
        return not any(needs_drain(at, end) for at, end in zip(checkpoints(where.runtime), ends, strict=True))

    wait_until(is_drained, "everything is drained", DRAINED_TIMEOUT_S)


def _wrong(threads: list[LoadThread], sampler: Sampler, made: Soak) -> list[str]:
    made.done["verification passes"] = len(sampler.passes)
    wrong = [f"a load thread ended: {thread.error!r}" for thread in threads if thread.error]
    if sampler.unknown:
        wrong.append(f"undocumented keys: {', '.join(sorted(sampler.unknown)[:5])}")
    return wrong + _undone(sampler, made)


def _undone(sampler: Sampler, made: Soak) -> list[str]:
    """Return the actions that did not happen often enough."""
    undone = []
    wanted = made.plan.events_per_s * made.plan.speed * made.plan.lasts_s
    if made.done["entries appended"] < 0.9 * wanted:
        undone.append(f"only {made.done['entries appended']:,} of {wanted:,.0f} entries were appended")
    undone.extend(f"no {what}" for what in DONE if not made.done[what])
    if len(sampler.passes) < 2 or not made.done["dead letters replayed"]:
        undone.append("verification or replay did not happen repeatedly")
    return undone


def _wrong_at_rest(where: SoakDeployment, traffic: Traffic) -> list[str]:
    """Return what is wrong after everything is drained, by the counters and by the workers' own verification."""
    assert_counters_add_up(where.runtime)
    found = checkpoints(where.runtime)
    found_wrong = verify_results.read(where.runtime.queue.connection)
    applied, lost = sum(at.applied for at in found), sum(at.lost for at in found)
    # One of the bad entries is a valid event in the wrong partition; it counts after its replay.
    expected = traffic.events + 1
    wrong = [] if (applied, lost) == (expected, 0) else [f"{applied:,} of {expected:,} events applied, {lost:,} lost"]
    if found_wrong.mismatched_rows or found_wrong.log_errors:
        wrong.append(f"the verification found {found_wrong.mismatched_rows} wrong rows, and {found_wrong.log_errors}")
    if max(dead_letter.times_seen for dead_letter in stored_dead_letters(where.runtime)) < PARTITIONS:
        wrong.append("dead letters were not seen again")
    return wrong


def _describe(each: SeriesResult) -> str:
    found = each.measured
    return (
        f"{each.name}: {found.before:,.6g} in the second quarter, {found.after:,.6g} in the last, {found.most:,.6g} at"
        f" most; {each.limit.wanted} {found.limit:,.6g} ({each.limit.why})"
    )
