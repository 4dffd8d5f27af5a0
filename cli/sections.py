"""The tables of `projector status`, each with its columns; how wide they are shown is none of their business."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.text import Text

from cli.columns import Column, numbers, words
from cli.look import Look, of_lag, unless_zero
from workers.overview import Overview
from workers.status import FAILURES_MAX, PartitionStatus, ProcessStatus

NO_TENANT = "(names no tenant)"


@dataclass(frozen=True, slots=True)
class Section:
    """A table: its title, and its columns."""

    title: str
    columns: Sequence[Column]


def sections(found: Overview, look: Look) -> list[list[Section]]:
    """Return the tables, from top to bottom; those of one row may stand beside each other."""
    return [
        [_partitions(found, look)],
        *([[_failures(found.partitions)]] if any(each.failure for each in found.partitions) else []),
        [_processes(found, look), _letters(found, look)],
        [_projections(found, look)],
        [_by_traffic(found), _by_lag(found, look)],
    ]


def _partitions(found: Overview, look: Look) -> Section:
    each, rates = found.partitions, found.rates
    lags_s = [*(one.lag_s for one in each), max(one.lag_s for one in each)]
    per_s = [*(one.per_s for one in rates), sum(one.per_s for one in rates)]

    def counts(name: str, style: str = "") -> list[Text]:
        values = [getattr(one, name) for one in each]
        return [unless_zero(value, look.count(value), style) for value in (*values, sum(values))]

    return Section(
        "Partitions",
        [
            words("p", [*(Text(str(one.partition), style=_colour_of(one)) for one in each), "all"]),
            words("position", [*(one.position for one in each), look.nothing], rank=2),
            numbers("added", counts("added"), rank=4),
            numbers("read", counts("read"), rank=3),
            numbers("applied", counts("applied")),
            numbers("dupli-\ncates", counts("duplicates"), rank=1),
            numbers("parked", counts("parked", "bold yellow")),
            numbers("lost", counts("lost", "bold red")),
            numbers("in\nflight", counts("in_flight", "bold")),
            numbers(f"lag{look.age_head}", [of_lag(look.age(lag_s), lag_s) for lag_s in lags_s]),
            numbers("per s", [unless_zero(round(each_s * 10), look.rate(each_s), "cyan") for each_s in per_s]),
            numbers(look.history_head, [Text(text, style="cyan") for text in look.history(rates)], rank=1),
        ],
    )


def _colour_of(at: PartitionStatus) -> str:
    if at.stalled or (at.failure is not None and at.failure.failures >= FAILURES_MAX):
        return "bold red"
    return "yellow" if at.failure is not None else "green"


def _failures(partitions: Iterable[PartitionStatus]) -> Section:
    failing = [(str(each.partition), each.failure) for each in partitions if each.failure is not None]
    return Section(
        "Failing",
        [
            words("p", [partition for partition, _ in failing]),
            words("at fault", [at.fault.value for _, at in failing]),
            words("error", [Text(at.error, style="red") for _, at in failing]),
            numbers("in a\nrow", [str(at.failures) for _, at in failing]),
            numbers("next\nbatch", [f"{at.next_batch:,}" for _, at in failing], rank=2),
            numbers("tries again\nin s", [f"{at.pause_s:.1f}" for _, at in failing], rank=1),
        ],
    )


def _processes(found: Overview, look: Look) -> Section:
    each = [("worker", one) for one in found.workers] + [("dispatcher", one) for one in found.dispatchers]
    return Section(
        "Processes",
        [
            words("role", [role for role, _ in each]),
            words("name", [one.name for _, one in each]),
            words("state", [_state(one) for _, one in each]),
            numbers(f"silent{look.age_head}", [_silence(one, look) for _, one in each], rank=1),
        ],
    )


def _state(process: ProcessStatus) -> Text:
    return Text("silent", style="bold red") if process.stalled else Text(process.state, style="green")


def _silence(process: ProcessStatus, look: Look) -> Text:
    return Text(look.age(process.idle_s), style="bold red" if process.stalled else "dim")


def _letters(found: Overview, look: Look) -> Section:
    letters = list(found.dead_letters.items()) or [("none", 0)]
    return Section(
        "Open dead letters",
        [
            words("reason", [reason for reason, _ in letters]),
            numbers("letters", [unless_zero(count, look.count(count), "bold yellow") for _, count in letters]),
        ],
    )


def _projections(found: Overview, look: Look) -> Section:
    each = found.projections
    return Section(
        "Projections",
        [
            words("name", [one.name for one in each]),
            numbers("version", ["newer" if one.version is None else str(one.version) for one in each]),
            numbers("tenants\nto rebuild", [unless_zero(one.due, look.count(one.due), "bold red") for one in each]),
            numbers("tenants\ntoo new", [unless_zero(one.newer, look.count(one.newer), "bold red") for one in each]),
        ],
    )


def _by_traffic(found: Overview) -> Section:
    title = "Most traffic in 10 min"
    rows = found.tenants.by_traffic
    if rows is None:
        return Section(title, [words("tenant", ["this database role may not read the event log"])])
    about = ", sampled" if found.tenants.traffic_is_sample else ""
    return Section(
        f"{title}{about}",
        [
            words("tenant", [each.tenant_id for each in rows] or ["none"]),
            words("p", [str(each.partition) for each in rows] or [""]),
            numbers("per s", [Text(f"{each.per_s:,.2f}", style="cyan") for each in rows] or [""]),
        ],
    )


def _by_lag(found: Overview, look: Look) -> Section:
    rows = found.tenants.by_lag
    about = ", of the oldest" if found.tenants.lag_is_sample else ""
    return Section(
        f"Most in flight{about}",
        [
            words("tenant", [each.tenant_id or NO_TENANT for each in rows] or ["none"]),
            words("p", [str(each.partition) for each in rows] or [""]),
            numbers("entries", [Text(look.count(each.entries), style="bold") for each in rows] or [""]),
            numbers(f"lag{look.age_head}", [of_lag(look.age(each.lag_s), each.lag_s) for each in rows] or [""]),
        ],
    )
