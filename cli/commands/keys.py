"""`projector keys`: create, list and revoke API keys."""

import time
from typing import Any

import click

from api_stub.auth import keys as api_keys
from api_stub.auth.keys import PERMISSIONS, ApiKey, KeyKind
from cli import environment
from cli.connections import open_reader, open_writer
from cli.output import CliError, print_json, stdout, table
from event_stream.events.patterns import ALLOWED, TENANT_PATTERN, UUID_PATTERN, matches
from event_stream.events.rfc3339 import format_time, parse_time


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command()
@click.option("--tenant", required=True, help="The tenant whose data the key can read.")
@click.option("--project", help="Restrict the key to this project (a UUID).")
@click.option("--public", is_flag=True, help="Create an SDK key, which cannot read.")
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    type=click.Choice(PERMISSIONS),
    help="A permission of the key. Can be repeated.",
    default=("config:read",),
    show_default=True,
)
@click.option("--expires", help="When the key expires, as an RFC 3339 time such as 2027-01-31T00:00:00Z.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def create(
    tenant: str, project: str | None, public: bool, permissions: tuple[str, ...], expires: str | None, as_json: bool
) -> None:
    """Create a key and print it. Only a hash is stored, so it cannot be shown again.

    The tenant and the project need not exist yet.
    """
    _check("--tenant", TENANT_PATTERN, tenant)
    if project is not None:
        _check("--project", UUID_PATTERN, project)
        project = project.lower()
    expires_us = None if expires is None else _parse_expiry(expires)
    kind = KeyKind.PUB if public else KeyKind.SECRET if project else KeyKind.ORG
    environment.load()
    with open_writer().begin() as connection:
        text, key = api_keys.create(
            connection, kind, tenant, project, frozenset(permissions), time.time_ns() // 1000, expires_us
        )
    if as_json:
        print_json({"key": text, **_as_json(key)})
    else:
        click.echo(text)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(as_json: bool) -> None:
    """List all keys, without their secrets."""
    environment.load()
    with open_reader().connect() as connection:
        found = [_as_json(key) for key in api_keys.list_all(connection)]
    if as_json:
        print_json(found)
        return
    headers = ("keyId", "kind", "tenant", "project", "permissions", "created", "expires", "revoked")
    rows = [[" ".join(key[name]) if name == "permissions" else key[name] or "-" for name in headers] for key in found]
    stdout().print(table("API keys", headers, rows, left=len(headers)))


@keys.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Revoke a key. It stops working within PROJECTOR_KEY_CACHE_S seconds.

    KEY_ID is the id of the key, or the whole key.
    """
    environment.load()
    parsed = api_keys.parse(key_id)
    key_id = parsed.key_id if parsed else key_id
    with open_writer().begin() as connection:
        if not api_keys.revoke(connection, key_id, time.time_ns() // 1000):
            # The message does not repeat the argument, which may be a secret.
            raise CliError("no key has this id; see `projector keys list`")
    click.echo(f"revoked {key_id}")


def _check(option: str, pattern: str, value: str) -> None:
    if not matches(pattern, value):
        raise click.BadParameter(f"{value!r} must be {ALLOWED[pattern]}", param_hint=option)


def _parse_expiry(text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint="--expires") from None


def _as_json(key: ApiKey) -> dict[str, Any]:
    return {
        "keyId": key.key_id,
        "kind": key.kind.value,
        "tenant": key.tenant_id,
        "project": key.project_id,
        "permissions": sorted(key.permissions),
        "created": format_time(key.created_us),
        "expires": None if key.expires_us is None else format_time(key.expires_us),
        "revoked": None if key.revoked_us is None else format_time(key.revoked_us),
    }
