"""Control the access to a model's slots. Background requests are admitted only while no foreground request waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SlotQueue:
    """As many permits as slots. Background requests never take the last one, so that a question finds a slot."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._kept = 1 if slots > 1 else 0
        self._foreground: deque[asyncio.Future[None]] = deque()
        self._background: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def permit(self, background: bool) -> AsyncIterator[None]:
        """Wait for a slot and hold it during the `with` block."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._background if background else self._foreground).append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # a permit was granted at the same moment, so pass it on
                self._release()
            raise
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        self._free += 1
        self._admit()

    def _admit(self) -> None:
        while self._free > 0 and self._pop(self._foreground):
            pass
        while self._free > self._kept and self._pop(self._background):
            pass

    def _pop(self, waiting: deque[asyncio.Future[None]]) -> bool:
        while waiting:
            turn = waiting.popleft()
            if not turn.done():  # skip a cancelled request
                self._free -= 1
                turn.set_result(None)
                return True
        return False
