"""`projector contract`: print the generated interface documents."""

import click

from api_stub.openapi import document
from cli.output import print_json
from event_stream.documents.asyncapi import asyncapi_document
from event_stream.documents.json_schema import events_schema


@click.group()
def contract() -> None:
    """Print the machine-readable documents of the interfaces.

    docs/reference/events.md and docs/reference/api.md describe the same interfaces for people.
    """


@contract.command()
def openapi() -> None:
    """Print the OpenAPI 3.1 document of the HTTP API."""
    print_json(document())


@contract.command()
def asyncapi() -> None:
    """Print the AsyncAPI 3.0 document of the streams that producers append to."""
    print_json(asyncapi_document())


@contract.command()
def events() -> None:
    """Print the JSON Schema (2020-12) of every event type."""
    print_json(events_schema())
