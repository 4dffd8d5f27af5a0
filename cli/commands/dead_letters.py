"""`projector dead-letters`: look at the entries that could not be applied, append them again, or let them go."""

import base64
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from cli import environment
from cli.connections import open_reader, open_writer
from cli.output import CliError, print_json, progress_bar, stdout, table
from event_stream.envelope import Reason, time_text
from projections.lifecycle import dead_letter_admin as desk
from projections.lifecycle.dead_letter_admin import Selection, StoredDeadLetter
from workers.maintenance.replay import replay as replay_letters
from workers.runtime import Runtime

ID_SHOWN = 12


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command say which open letters it means; saying nothing is refused."""

    @click.argument("ids", nargs=-1, metavar="[ID]...")
    @click.option("--reason", type=click.Choice([reason.value for reason in Reason]), help="Those of this reason.")
    @click.option("--tenant", help="Those of this tenant.")
    @click.option("--all", "everything", is_flag=True, help="All open letters.")
    @wraps(command)
    def selecting(
        ids: tuple[str, ...], reason: str | None, tenant: str | None, everything: bool, **options: Any
    ) -> None:
        if everything == bool(ids or reason or tenant):
            raise click.UsageError("Say which: by ID, --reason or --tenant, or --all.")
        command(Selection(ids, reason, tenant), **options)

    return selecting


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at entries that could never be applied, append them again, or let them go."""


@dead_letters.command("list")
@click.option("--reason", type=click.Choice([reason.value for reason in Reason]), help="Only this reason.")
@click.option("--tenant", help="Only this tenant.")
@click.option("--all", "everything", is_flag=True, help="Closed ones too.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000), help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(reason: str | None, tenant: str | None, everything: bool, limit: int, as_json: bool) -> None:
    """List dead letters, those seen last first."""
    environment.load()
    with open_reader().connect() as connection:
        found = desk.latest(connection, Selection((), reason, tenant, closed_too=everything), limit)
    if as_json:
        print_json([_shown(letter) for letter in found])
        return
    rows = [
        (
            letter.id[:ID_SHOWN],
            letter.state,
            letter.reason,
            letter.tenant_id or "-",
            f"{letter.partition}-{letter.position}",
            time_text(letter.last_seen_us),
            letter.detail,
            letter.times_seen,
        )
        for letter in found
    ]
    heads = ("id", "state", "reason", "tenant", "position", "last seen", "detail", "times seen")
    stdout().print(table("Dead letters", heads, rows, left=len(heads) - 1))


@dead_letters.command()
@click.argument("letter_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON, the bytes in base64.")
@click.option("--body", is_flag=True, help="Print the bytes alone, as they came.")
def show(letter_id: str, as_json: bool, body: bool) -> None:
    """Show one dead letter; ID may be the beginning of an id if only one begins so."""
    environment.load()
    with open_reader().connect() as connection:
        found = desk.latest(connection, Selection((letter_id,), closed_too=True), limit=2)
    if len(found) != 1:
        what = "no dead letter has" if not found else "more than one dead letter has"
        raise CliError(f"{what} an id that begins with {letter_id!r}; see `projector dead-letters list --all`")
    letter = found[0]
    if body:
        sys.stdout.buffer.write(letter.body)
    elif as_json:
        print_json(_shown(letter) | {"bodyBase64": base64.b64encode(letter.body).decode()})
    else:
        for name, value in _shown(letter).items():
            click.echo(f"{name:12} {value}")
        click.echo(f"{'body':12} {letter.body.decode('utf-8', 'backslashreplace')}")


@dead_letters.command()
@_selecting
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def replay(selection: Selection, as_json: bool) -> None:
    """Append open letters again, to their tenants' partitions, to be judged anew.

    A letter closes when its event is applied; one that still cannot be applied is seen once more.
    """
    environment.load()
    runtime = Runtime.from_environ(os.environ)
    runtime.check()
    with progress_bar() as progress:
        task = progress.add_task("replaying", total=None)
        outcome = replay_letters(runtime, selection, lambda letters: progress.advance(task, letters))
    if as_json:
        print_json({"appended": outcome.appended, "tooLarge": outcome.cut})
    else:
        click.echo(f"appended {outcome.appended:,} again")
    if outcome.cut:
        click.echo(f"{outcome.cut:,} are too large: only their beginning is kept, so they cannot be replayed", err=True)
        sys.exit(1)


@dead_letters.command()
@_selecting
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def discard(selection: Selection, as_json: bool) -> None:
    """Close open letters for good. They stay listed with --all, and open again if they are seen again."""
    environment.load()
    with open_writer().begin() as connection:
        discarded = desk.discard(connection, selection)
    if as_json:
        print_json({"discarded": discarded})
    else:
        click.echo(f"discarded {discarded:,}")


def _shown(letter: StoredDeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "state": letter.state,
        "reason": letter.reason,
        "detail": letter.detail,
        "partition": letter.partition,
        "position": str(letter.position),
        "tenant": letter.tenant_id,
        "eventId": letter.event_id,
        "timesSeen": letter.times_seen,
        "firstSeen": time_text(letter.first_seen_us),
        "lastSeen": time_text(letter.last_seen_us),
        "bodyLength": letter.body_length,
        "bodySha256": letter.body_sha256,
    }
