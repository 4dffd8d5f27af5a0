"""`projector contract`: the generated documents."""

import click

from api_stub.openapi import document
from cli.output import print_json


@click.group()
def contract() -> None:
    """Print the documents that describe this deployment's interfaces."""


@contract.command()
def openapi() -> None:
    """Print the OpenAPI 3.1 document of the read API."""
    print_json(document())
