"""End the work for a client that is gone before the answer begins."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tmde_core.api.web.requests import AnyRequest
from tmde_core.errors import WorkerFailedError

T = TypeVar("T")


async def while_connected(request: AnyRequest, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, and cancel it if the client disconnects meanwhile.

    Args:
        request: a request whose body is not needed.
        work: what the answer needs.

    Raises:
        WorkerFailedError: the client is gone. Nobody reads this.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise WorkerFailedError("The client has disconnected.")
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _gone(request: AnyRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
