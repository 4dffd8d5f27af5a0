"""Serves several listeners in one event loop until a signal ends them."""

import asyncio
import gc
import signal
from collections.abc import Sequence

from api_stub.serving.listener import Listener
from api_stub.serving.shutdown import Shutdown


async def serve(listeners: Sequence[Listener], shutdown: Shutdown, grace_s: float) -> None:
    """Serve until SIGTERM or SIGINT, then for `grace_s` more while readiness fails. A second signal ends the grace."""
    # The objects made so far live as long as the process: exclude them from full collections, which delay requests.
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, shutdown.begin)
    running = [asyncio.create_task(listener.serve()) for listener in listeners]
    begun = asyncio.create_task(shutdown.wait())
    # A listener returns earlier only if it failed.
    await asyncio.wait([begun, *running], return_when=asyncio.FIRST_COMPLETED)
    begun.cancel()
    if shutdown.has_begun:
        await shutdown.grace(grace_s)
    await asyncio.gather(*(listener.end() for listener in listeners))
    await asyncio.gather(*running)
