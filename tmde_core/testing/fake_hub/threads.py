"""Serves a played hub from a thread, for callers that have no event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tmde_core.testing.fake_hub.server import FakeHub
from tmde_core.testing.fake_servers.base import serving


@contextmanager
def playing(hub: FakeHub) -> Iterator[str]:
    """Serve the hub on a free loopback port, from a thread of its own, and yield the base URL."""
    urls: list[str] = []
    ready = threading.Event()
    over: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        end = asyncio.Event()
        over.append((asyncio.get_running_loop(), end))
        async with serving(hub) as url:
            urls.append(url)
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="played hub", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield urls[0]
    finally:
        loop, end = over[0]
        loop.call_soon_threadsafe(end.set)
        thread.join()
