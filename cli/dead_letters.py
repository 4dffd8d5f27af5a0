"""`projector dead-letters`: look at the entries that could not be applied."""

import base64
import os
import sys
from typing import Any

import click
from sqlalchemy import Engine

from cli import environment
from cli.later import DISCARD, REPLAY
from cli.output import CliError, print_json, stdout, table
from event_stream.envelope import Reason, time_text
from projections import dead_letters as stored
from projections.dead_letters import Stored
from projections.settings import DatabaseSettings
from projections.store import reader_engine

ID_SHOWN = 12


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at entries that could never be applied."""


dead_letters.add_command(REPLAY)
dead_letters.add_command(DISCARD)


@dead_letters.command("list")
@click.option("--reason", type=click.Choice([reason.value for reason in Reason]), help="Only this reason.")
@click.option("--tenant", help="Only this tenant.")
@click.option("--all", "everything", is_flag=True, help="Closed ones too.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000), help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(reason: str | None, tenant: str | None, everything: bool, limit: int, as_json: bool) -> None:
    """List dead letters, those seen last first."""
    environment.load()
    with _engine().connect() as connection:
        found = stored.list_letters(connection, reason=reason, tenant_id=tenant, closed_too=everything, limit=limit)
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
    with _engine().connect() as connection:
        found = stored.find_by_prefix(connection, letter_id)
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


def _engine() -> Engine:
    return reader_engine(DatabaseSettings.from_environ(os.environ).database_url)


def _shown(letter: Stored) -> dict[str, Any]:
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
        "length": letter.body_length,
        "sha256": letter.body_sha256,
    }
