"""One soak from begin to end: begin, play and look, come to rest; then what is flat and what is not."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from projections.lifecycle.dead_letter_admin import Selection
from tests.soak.ground import Ground, ground
from tests.soak.judge import SAMPLES_MIN, Finding, Rule
from tests.soak.plan import PARTITIONS, Plan
from tests.soak.players import Player, playing
from tests.soak.rules import rules
from tests.soak.sampling import Sampler, Values, moments
from tests.soak.traffic import Traffic
from tests.support.driving import checkpoints, letters
from tests.support.law import assert_law
from tests.support.servers import wait_until
from workers.drain.drainer import needs_drain
from workers.maintenance import verify_results
from workers.maintenance.replay import replay

CHUNK = 1_000
DRAINED_TIMEOUT_S = 120
DONE = ("reads of stats answered 200", "reads of activity answered 200", "looks at metrics and health")


@dataclass(frozen=True)
class Judged:
    """A series, its rule, and what was found."""

    name: str
    rule: Rule
    finding: Finding


@dataclass
class Soak:
    """What a soak showed. `wrong` says what else is not as it should be, besides what is not flat."""

    plan: Plan
    at_s: list[float] = field(default_factory=list)
    samples: list[Values] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    updates: dict[str, dict[str, int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def series(self, name: str) -> list[float]:
        """Return all values of a series."""
        return [sample[name] for sample in self.samples]

    def judged(self) -> list[Judged]:
        """Return each series that is judged; none if it was broken off."""
        if len(self.samples) < SAMPLES_MIN:
            return []
        return [Judged(name, rule, rule.judge(self.series(name))) for name, rule in rules(self.plan).items()]

    def faults(self) -> list[str]:
        """Return what is not flat, with its numbers, and what else is wrong; empty if all is well."""
        leaks = [_told(each) for each in self.judged() if not each.finding.flat]
        too_few = [] if leaks or self.judged() else [f"{len(self.samples)} samples are too few"]
        return [*leaks, *too_few, *self.wrong]


def soak(plan: Plan, on_sample: Callable[[float], None] = lambda _: None) -> Soak:
    """Play a plan and return what was seen; `on_sample` is told how many seconds have been played."""
    made, traffic = Soak(plan), Traffic(plan)
    with ground(plan) as where, Sampler(where) as sampler:
        _begin(where, traffic)
        with playing(plan, where, traffic, made.done) as players:
            for at_s in moments(plan.lasts_s, plan.sample_s, lambda: not _undone(sampler, made)):
                made.at_s.append(at_s)
                made.samples.append(sampler.take())
                on_sample(at_s)
                where.assert_alive()
                if any(player.error for player in players):
                    break
        made.updates = sampler.updates()
        made.wrong.extend(_wrong(players, sampler, made))
        _await_drained(where)
        made.wrong.extend(_wrong_at_rest(where, traffic))
        where.end()
    return made


def _begin(where: Ground, traffic: Traffic) -> None:
    """Let everything become known that ever will be."""
    entries = list(traffic.beginning())
    for first in range(0, len(entries), CHUNK):
        where.runtime.stream.append(entries[first : first + CHUNK])
    _await_drained(where)
    # Some letters' events are good, and wait to be replayed: they too count from the beginning.
    replay(where.runtime, Selection())
    _await_drained(where)


def _await_drained(where: Ground) -> None:
    def is_drained() -> bool:
        where.assert_alive()
        ends = where.runtime.stream.ends()
        return not any(needs_drain(at, end) for at, end in zip(checkpoints(where.runtime), ends, strict=True))

    wait_until(is_drained, "all is drained", DRAINED_TIMEOUT_S)


def _wrong(players: list[Player], sampler: Sampler, made: Soak) -> list[str]:
    made.done["passes of the verification"] = len(sampler.passes)
    wrong = [f"a player ended: {player.error!r}" for player in players if player.error]
    if sampler.unknown:
        wrong.append(f"keys that nobody documents: {', '.join(sorted(sampler.unknown)[:5])}")
    return wrong + _undone(sampler, made)


def _undone(sampler: Sampler, made: Soak) -> list[str]:
    """Return what has not been played, or not often enough."""
    undone = []
    wanted = made.plan.events_per_s * made.plan.speed * made.plan.lasts_s
    if made.done["entries appended"] < 0.9 * wanted:
        undone.append(f"only {made.done['entries appended']:,} of {wanted:,.0f} entries were appended")
    undone.extend(f"no {what}" for what in DONE if not made.done[what])
    if len(sampler.passes) < 2 or not made.done["letters replayed"]:
        undone.append("nothing was verified, or replayed, again and again")
    return undone


def _wrong_at_rest(where: Ground, traffic: Traffic) -> list[str]:
    """Return what is wrong when all is drained: what the law, and the workers' own verification, say."""
    assert_law(where.runtime)
    found = checkpoints(where.runtime)
    told = verify_results.read(where.runtime.queue.connection)
    applied, lost = sum(at.applied for at in found), sum(at.lost for at in found)
    # Of the bad entries one is a good event in another's stream: it counts, once it was replayed.
    expected = traffic.events + 1
    wrong = [] if (applied, lost) == (expected, 0) else [f"{applied:,} of {expected:,} events applied, {lost:,} lost"]
    if told.mismatched_rows or told.log_errors:
        wrong.append(f"the verification found {told.mismatched_rows} wrong rows, and {told.log_errors}")
    if max(letter.times_seen for letter in letters(where.runtime)) < PARTITIONS:
        wrong.append("letters were not seen again")
    return wrong


def _told(each: Judged) -> str:
    found = each.finding
    return (
        f"{each.name}: {found.before:,.6g} in the second quarter, {found.after:,.6g} in the last, {found.most:,.6g} at"
        f" most; {each.rule.wanted} {found.limit:,.6g} ({each.rule.why})"
    )
