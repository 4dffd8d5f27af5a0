"""`projector keys`: make, list and revoke API keys."""

import time
from typing import Any

import click

from api_stub.auth import keys as stored
from api_stub.auth.keys import PERMISSIONS, ApiKey, Kind
from cli import environment
from cli.connections import open_reader, open_writer
from cli.output import CliError, print_json, stdout, table
from event_stream.envelope import TENANT_PATTERN, UUID_PATTERN, matches, time_text, time_us_of


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option("--tenant", required=True, help="The tenant the key reads.")
@click.option("--project", help="Bind the key to this project (a UUID).")
@click.option("--public", is_flag=True, help="Make an SDK key, which may never read.")
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    type=click.Choice(PERMISSIONS),
    help="May be given more than once.",
    default=("config:read",),
    show_default=True,
)
@click.option("--expires", help="When the key expires: RFC 3339, such as 2027-01-31T00:00:00Z.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def create(
    tenant: str, project: str | None, public: bool, permissions: tuple[str, ...], expires: str | None, as_json: bool
) -> None:
    """Make a key and print it. It is shown this once; only a hash is stored.

    The tenant and the project need not exist yet.
    """
    _check("--tenant", TENANT_PATTERN, tenant, "1 to 64 of A-Z, a-z, 0-9, _ and -")
    if project is not None:
        _check("--project", UUID_PATTERN, project, "a lower-case canonical UUID")
    expires_us = None if expires is None else _time_us(expires)
    kind = Kind.PUB if public else Kind.SECRET if project else Kind.ORG
    environment.load()
    with open_writer().begin() as connection:
        text, key = stored.create(
            connection, kind, tenant, project, frozenset(permissions), time.time_ns() // 1000, expires_us
        )
    if as_json:
        print_json({"key": text, **_shown(key)})
    else:
        click.echo(text)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(as_json: bool) -> None:
    """List all keys, never their secrets."""
    environment.load()
    with open_reader().connect() as connection:
        found = [_shown(key) for key in stored.list_all(connection)]
    if as_json:
        print_json(found)
        return
    heads = ("keyId", "kind", "tenant", "project", "permissions", "created", "expires", "revoked")
    rows = [[" ".join(key[head]) if head == "permissions" else key[head] or "-" for head in heads] for key in found]
    stdout().print(table("API keys", heads, rows, left=len(heads)))


@keys.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Revoke the key with this id; it stops working within PROJECTOR_KEY_CACHE_S.

    A whole key will do too; its id is taken out of it.
    """
    environment.load()
    presented = stored.parse(key_id)
    key_id = presented.key_id if presented else key_id
    with open_writer().begin() as connection:
        if not stored.revoke(connection, key_id, time.time_ns() // 1000):
            # What was given is not shown: it may be a secret.
            raise CliError("no key has this id; see `projector keys list`")
    click.echo(f"revoked {key_id}")


def _check(option: str, pattern: str, value: str, allowed: str) -> None:
    if not matches(pattern, value):
        raise click.BadParameter(f"{value!r} must be {allowed}", param_hint=option)


def _time_us(text: str) -> int:
    try:
        return time_us_of(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint="--expires") from None


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "keyId": key.key_id,
        "kind": key.kind.value,
        "tenant": key.tenant_id,
        "project": key.project_id,
        "permissions": sorted(key.permissions),
        "created": time_text(key.created_us),
        "expires": None if key.expires_us is None else time_text(key.expires_us),
        "revoked": None if key.revoked_us is None else time_text(key.revoked_us),
    }
