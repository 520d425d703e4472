"""Model runtimes: the port, its descriptor, and the values they exchange."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from tmde_core.records.chat import (
    AdapterRef,
    ChatDelta,
    ChatEnd,
    ChatItem,
    ChatRequest,
    ChatRole,
    Message,
    TokenAlternative,
    TokenLogprob,
)
from tmde_core.records.runtimes import Availability, ModelInfo, RuntimeCapabilities, RuntimeStatus
from tmde_core.sdk.context import MakingDescriptor, PluginContext

__all__ = [
    "AdapterRef",
    "Availability",
    "ChatDelta",
    "ChatEnd",
    "ChatItem",
    "ChatRequest",
    "ChatRole",
    "Message",
    "ModelInfo",
    "ModelRuntime",
    "RuntimeCapabilities",
    "RuntimeDescriptor",
    "RuntimeStatus",
    "TokenAlternative",
    "TokenLogprob",
]


@runtime_checkable
class ModelRuntime(Protocol):
    """Serves chat. One instance serves every caller of the process, concurrently."""

    @property
    def capabilities(self) -> RuntimeCapabilities: ...

    async def start(self) -> None:
        """Get ready to answer. Called once before use; calling it again is harmless.

        Raises:
            WorkerFailedError: the server does not start or cannot be reached; the detail says why.
            InvalidInputError: the model named in the settings does not exist or is damaged.
        """

    async def stop(self) -> None:
        """Release everything. Requests under way end with WorkerFailedError."""

    def chat(self, request: ChatRequest) -> AsyncIterator[ChatItem]:
        """Stream the answer: any number of `ChatDelta`, then exactly one `ChatEnd`.

        Closing the iterator (`aclose`) or cancelling the task that reads it stops the generation.

        Raises:
            ContextOverflowError: the prompt does not fit.
            NotFoundError: the runtime has no such model.
            WorkerFailedError: the server failed under this request.
        """

    async def models(self) -> Sequence[ModelInfo]:
        """What can be named in `ChatRequest.model`."""

    async def count_tokens(self, texts: Sequence[str], model: str = "") -> list[int] | None:
        """Tokens in each text, without any template; None where the runtime cannot tell."""

    async def context_length(self, model: str = "") -> int:
        """Tokens that one prompt and its answer may have together."""

    async def load_adapter(self, adapter: AdapterRef, model: str = "") -> None:
        """Make the adapter answer requests that name it. Requests under way are not disturbed.

        Raises:
            AdapterInvalidError: the runtime refuses it, or cannot serve adapters.
        """

    async def unload_adapter(self, adapter_id: str) -> None:
        """Forget the adapter; unknown ids are ignored."""

    async def status(self) -> RuntimeStatus:
        """State for `doctor`, the API and the pages; never raises, never starts anything."""


class RuntimeDescriptor(MakingDescriptor, frozen=True, kw_only=True):
    """A model runtime that a plugin offers. Its settings table is `[runtimes.NAME]`."""

    create: Callable[[PluginContext[Any]], ModelRuntime]
    availability: Callable[[PluginContext[Any]], Availability]
    """Whether it can work on this machine now. Called from a thread; it may wait for a second or two."""
