"""`projector demo-traffic`: append live events of the demo tenants. `projector up --demo` runs it."""

import os
import time

import click

from cli import environment
from cli.connections import make_producer
from cli.local.demo import live_event

INTERVAL_S = 1.0


@click.command(hidden=True)
def demo_traffic() -> None:
    """Append one event of a demo tenant every second, until interrupted."""
    environment.load()
    producer = make_producer(os.environ)
    while True:
        producer.append(live_event())
        time.sleep(INTERVAL_S)
