"""`projector dead-letters`: list, show, replay and discard dead letters."""

import base64
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click
from sqlalchemy import Connection

from cli import environment
from cli.connections import open_reader, open_writer
from cli.output import CliError, print_json, progress_bar, stdout, table
from event_stream.errors import Reason
from event_stream.events.rfc3339 import format_time
from projections.lifecycle import dead_letter_admin
from projections.lifecycle.dead_letter_admin import Selection, StoredDeadLetter
from workers.maintenance.replay import replay as replay_dead_letters
from workers.runtime import Runtime

ID_LENGTH_SHOWN = 12
ID_PATTERN = re.compile(r"[0-9a-fA-F]{1,64}", re.ASCII)
REASONS = click.Choice([reason.value for reason in Reason])


def _with_selection(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments that select open dead letters to a command. Calling it without any is a usage error."""

    @click.argument("ids", nargs=-1, metavar="[ID]...")
    @click.option("--reason", type=REASONS, help="Dead letters with this reason.")
    @click.option("--tenant", help="Dead letters of this tenant.")
    @click.option("--all", "everything", is_flag=True, help="All open dead letters. Asks before it begins.")
    @click.option("--yes", is_flag=True, help="With --all: do not ask.")
    @wraps(command)
    def with_selection(
        ids: tuple[str, ...], reason: str | None, tenant: str | None, everything: bool, yes: bool, **options: Any
    ) -> None:
        if everything == bool(ids or reason or tenant):
            raise click.UsageError("Select dead letters by ID, --reason or --tenant, or use --all.")
        environment.load()
        if everything and not yes:
            _confirm_all(command.__name__)
        command(Selection(_find_ids(ids), reason, tenant), **options)

    return with_selection


def _confirm_all(action: str) -> None:
    """Ask before a command changes all open dead letters. Without a terminal to ask on, the command is refused."""
    if not sys.stdin.isatty():
        raise click.UsageError("--all needs --yes where there is no terminal to ask on.")
    with open_reader().connect() as connection:
        count = dead_letter_admin.count_open(connection)
    click.confirm(f"{action} all {count:,} open dead letters?", abort=True, err=True)


def _find_ids(beginnings: Sequence[str]) -> tuple[str, ...]:
    """Return the dead letter ids that begin so. Each beginning must identify one dead letter, open or closed."""
    if not beginnings:
        return ()
    with open_reader().connect() as connection:
        return tuple(_find_id(connection, beginning) for beginning in beginnings)


def _find_id(connection: Connection, beginning: str) -> str:
    if not ID_PATTERN.fullmatch(beginning):
        raise click.UsageError(f"{beginning!r} is not the id of a dead letter, which has 64 hexadecimal digits.")
    found = dead_letter_admin.find_ids(connection, beginning.lower(), limit=2)
    if len(found) > 1:
        raise click.UsageError(f"More than one dead letter has an id that begins with {beginning!r}; add digits.")
    if not found:
        raise CliError(
            f"no dead letter has an id that begins with {beginning!r}; see `projector dead-letters list --all`"
        )
    return found[0]


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show, replay and discard dead letters: entries that could not be applied."""


@dead_letters.command("list")
@click.option("--reason", type=REASONS, help="Only this reason.")
@click.option("--tenant", help="Only this tenant.")
@click.option("--all", "everything", is_flag=True, help="Include closed dead letters.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000), help="At most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(reason: str | None, tenant: str | None, everything: bool, limit: int, as_json: bool) -> None:
    """List open dead letters, the most recently seen first."""
    environment.load()
    with open_reader().connect() as connection:
        selection = Selection((), reason, tenant, include_closed=everything)
        found = [_as_json(dead_letter) for dead_letter in dead_letter_admin.iter_latest(connection, selection, limit)]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["id"][:ID_LENGTH_SHOWN],
            each["state"],
            each["reason"],
            each["tenant"] or "-",
            f"{each['partition']}-{each['position']}",
            each["lastSeen"],
            each["detail"],
            each["timesSeen"],
        )
        for each in found
    ]
    headers = ("id", "state", "reason", "tenant", "position", "last seen", "detail", "times seen")
    stdout().print(table("Dead letters", headers, rows, left=len(headers) - 1))


@dead_letters.command()
@click.argument("id_", metavar="ID")
@click.option(
    "--json", "as_json", is_flag=True, help="Print as JSON, with the entry's bytes in base64 while it is open."
)
@click.option("--body", is_flag=True, help="Print only the entry's bytes, unchanged.")
def show(id_: str, as_json: bool, body: bool) -> None:
    """Show one dead letter. ID is its id or the beginning of it, if that is unique."""
    environment.load()
    with open_reader().connect() as connection:
        selection = Selection((_find_id(connection, id_),), include_closed=True)
        (dead_letter,) = dead_letter_admin.iter_latest(connection, selection, limit=1)
    stored = dead_letter.body
    if body and stored is None:
        raise CliError(f"dead letter {dead_letter.id} is {dead_letter.state}, and its bytes were dropped then")
    if body:
        sys.stdout.buffer.write(stored or b"")
    elif as_json:
        encoded = None if stored is None else base64.b64encode(stored).decode()
        print_json(_as_json(dead_letter) | {"bodyBase64": encoded})
    else:
        for name, value in _as_json(dead_letter).items():
            click.echo(f"{name:12} {'-' if value is None else value}")
        text = "- (dropped when the dead letter was closed)" if stored is None else _printable(stored)
        click.echo(f"{'body':12} {text}")


@dead_letters.command()
@_with_selection
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def replay(selection: Selection, as_json: bool) -> None:
    """Append the entries of open dead letters again, to the owner partitions of their tenants.

    They are appended in the order in which they first came, so of several with one identity the first is applied. A
    dead letter closes when its event is applied. If the event still cannot be applied, its dead letter stays open and
    is counted as seen once more; if the reason is another one, a dead letter with that reason replaces it.
    """
    runtime = Runtime.for_writing(os.environ)
    runtime.check()
    with progress_bar() as progress:
        task = progress.add_task("replaying", total=None)
        result = replay_dead_letters(runtime, selection, lambda count: progress.advance(task, count))
    if as_json:
        print_json({"appended": result.appended, "tooLarge": result.too_large})
    else:
        click.echo(f"appended {result.appended:,} again")
    if result.too_large:
        click.echo(
            f"{result.too_large:,} cannot be replayed: their entries are too large, and only the beginning is stored",
            err=True,
        )
        sys.exit(1)


@dead_letters.command()
@_with_selection
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def discard(selection: Selection, as_json: bool) -> None:
    """Close open dead letters without applying them, and drop their bytes.

    `list --all` still shows them for PROJECTOR_DEAD_LETTER_DAYS. A dead letter opens again if its entry is seen again.
    With --reason, --tenant or --all, those that are only counted because of PROJECTOR_DEAD_LETTERS_MAX are not counted
    any more.
    """
    with progress_bar() as progress:
        task = progress.add_task("discarding", total=None)
        discarded = dead_letter_admin.discard(open_writer(), selection, lambda count: progress.advance(task, count))
    if as_json:
        print_json({"discarded": discarded.closed, "notKept": discarded.not_kept})
    else:
        not_kept = f", and {discarded.not_kept:,} that were only counted" if discarded.not_kept else ""
        click.echo(f"discarded {discarded.closed:,}{not_kept}")


def _printable(body: bytes) -> str:
    return body.decode("utf-8", "backslashreplace")


def _as_json(dead_letter: StoredDeadLetter) -> dict[str, Any]:
    return {
        "id": dead_letter.id,
        "state": dead_letter.state,
        "reason": dead_letter.reason,
        "detail": dead_letter.detail,
        "partition": dead_letter.partition,
        "position": str(dead_letter.position),
        "tenant": dead_letter.tenant_id,
        "eventId": dead_letter.event_id,
        "timesSeen": dead_letter.times_seen,
        "firstSeen": format_time(dead_letter.first_seen_us),
        "lastSeen": format_time(dead_letter.last_seen_us),
        "closed": None if dead_letter.closed_us is None else format_time(dead_letter.closed_us),
        "bodyLength": dead_letter.body_length,
        "bodySha256": dead_letter.body_sha256,
    }
