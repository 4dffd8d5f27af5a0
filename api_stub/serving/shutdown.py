"""The shutdown of the process: begun by a signal, seen by readiness and by every response."""

import asyncio


class Shutdown:
    """Whether the process has been asked to end. A second request ends the grace period early."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._hurried = asyncio.Event()

    @property
    def has_begun(self) -> bool:
        """Whether the process has been asked to end."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Begin the shutdown. The second call ends the grace period."""
        (self._hurried if self.has_begun else self._begun).set()

    async def wait(self) -> None:
        """Wait until the shutdown begins."""
        await self._begun.wait()

    async def grace(self, grace_s: float) -> None:
        """Wait for the grace period, or until it is ended early."""
        try:
            await asyncio.wait_for(self._hurried.wait(), grace_s)
        except TimeoutError:
            return
