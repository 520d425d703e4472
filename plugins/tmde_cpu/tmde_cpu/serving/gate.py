"""Lets requests at a model's slots: foreground ones first, background ones only while none of those waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """As many permits as slots. Background requests never hold the last one, so that a question finds a slot at once."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._kept = 1 if slots > 1 else 0
        self._foreground: deque[asyncio.Future[None]] = deque()
        self._background: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def permit(self, background: bool) -> AsyncIterator[None]:
        """Hold a slot for the time of the `with` block, waiting for one first."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._background if background else self._foreground).append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # our turn came in the same moment: pass it on
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
            if not turn.done():  # a cancelled one is skipped
                self._free -= 1
                turn.set_result(None)
                return True
        return False
