"""`projector dispatcher`: enqueue drain jobs and trim streams."""

import os
import signal
import threading

import click

from cli import environment
from cli.connections import await_servers
from cli.process_log import logged_process
from workers.dispatch.dispatcher import Dispatcher
from workers.runtime import Runtime


@click.command()
def dispatcher() -> None:
    """Enqueue a drain job for every partition with new entries, and trim the streams.

    A deployment needs at least one; several can run at once.
    """
    environment.load()
    runtime = Runtime.for_writing(os.environ)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    await_servers(runtime, stopping.is_set)
    with logged_process("dispatcher", runtime):
        Dispatcher(runtime).run(stopping.is_set)
