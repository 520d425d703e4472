"""A model runtime as its callers get it: it can be paused while callers hold it, and it knows when nobody is waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tmde_core.records.chat import AdapterRef, ChatItem, ChatRequest
from tmde_core.records.runtimes import ModelInfo, RuntimeCapabilities, RuntimeStatus
from tmde_core.sdk.runtimes import ModelRuntime


class GuardedRuntime:
    """Passes every call on to a runtime, unless the runtime is paused.

    A debate holds a runtime from its beginning to its end. It must not start the model again between two answers while
    a training run uses the graphics card.
    """

    def __init__(self, runtime: ModelRuntime, check: Callable[[], None]) -> None:
        """Guard a runtime. `check` raises an error while the runtime is paused."""
        self._runtime = runtime
        self._check = check
        self._working = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    @property
    def is_idle(self) -> bool:
        """Whether no call is in progress."""
        return not self._working

    async def wait_until_idle(self) -> None:
        """Wait until no call is in progress."""
        await self._idle.wait()

    @contextmanager
    def _call(self) -> Iterator[None]:
        self._check()
        self._working += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """See `ModelRuntime.capabilities`."""
        return self._runtime.capabilities

    async def start(self) -> None:
        """See `ModelRuntime.start`."""
        with self._call():
            await self._runtime.start()

    async def stop(self) -> None:
        """See `ModelRuntime.stop`."""
        await self._runtime.stop()

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatItem, None]:
        """See `ModelRuntime.chat`."""
        with self._call():
            stream: AsyncIterator[ChatItem] = self._runtime.chat(request)
            try:
                async for item in stream:
                    yield item
            finally:
                if isinstance(stream, AsyncGenerator):
                    await stream.aclose()

    async def models(self) -> Sequence[ModelInfo]:
        """See `ModelRuntime.models`. A paused runtime may list its models: that loads none."""
        return await self._runtime.models()

    async def count_tokens(self, texts: Sequence[str], model: str = "") -> list[int] | None:
        """See `ModelRuntime.count_tokens`."""
        with self._call():
            return await self._runtime.count_tokens(texts, model)

    async def context_length(self, model: str = "") -> int:
        """See `ModelRuntime.context_length`."""
        with self._call():
            return await self._runtime.context_length(model)

    async def load_adapter(self, adapter: AdapterRef, model: str = "") -> None:
        """See `ModelRuntime.load_adapter`."""
        with self._call():
            await self._runtime.load_adapter(adapter, model)

    async def unload_adapter(self, adapter_id: str) -> None:
        """See `ModelRuntime.unload_adapter`."""
        await self._runtime.unload_adapter(adapter_id)

    async def status(self) -> RuntimeStatus:
        """See `ModelRuntime.status`."""
        return await self._runtime.status()
