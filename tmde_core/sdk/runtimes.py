"""Model runtimes: the protocol, the descriptor, and the values that runtimes are given and return."""

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
    """Serves chat. One instance serves all callers of the process at the same time."""

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """What it can do beyond plain chat. May be a plain attribute."""

    async def start(self) -> None:
        """Get ready to answer. It is called before use; calling it again changes nothing.

        Raises:
            WorkerFailedError: the server does not start or cannot be reached; the detail says why.
            InvalidInputError: the model named in the settings does not exist or is damaged.
        """

    async def stop(self) -> None:
        """Release everything. Running requests end with WorkerFailedError."""

    def chat(self, request: ChatRequest) -> AsyncIterator[ChatItem]:
        """Stream the answer: any number of `ChatDelta`, then exactly one `ChatEnd`.

        Closing the iterator (`aclose`) or cancelling the task that reads it stops the generation.

        Raises:
            ContextOverflowError: the prompt does not fit.
            NotFoundError: the runtime has no such model.
            WorkerFailedError: the server failed under this request.
        """

    async def models(self) -> Sequence[ModelInfo]:
        """Return the models that `ChatRequest.model` may name."""

    async def count_tokens(self, texts: Sequence[str], model: str = "") -> list[int] | None:
        """Return the tokens of each text, without any template; None if the runtime cannot tell."""

    async def context_length(self, model: str = "") -> int:
        """Return how many tokens one prompt and its answer may have together."""

    async def load_adapter(self, adapter: AdapterRef, model: str = "") -> None:
        """Make the adapter answer requests that name it. Running requests are not disturbed.

        Raises:
            AdapterInvalidError: the runtime refuses it, or cannot serve adapters.
        """

    async def unload_adapter(self, adapter_id: str) -> None:
        """Forget the adapter. Unknown ids are ignored."""

    async def status(self) -> RuntimeStatus:
        """Return the state for `doctor`, the API and the pages. It never raises and never starts anything."""


class RuntimeDescriptor(MakingDescriptor, frozen=True, kw_only=True):
    """A model runtime that a plugin offers. Its settings table is `[runtimes.NAME]`."""

    create: Callable[[PluginContext[Any]], ModelRuntime]
    """Makes the runtime. It is not started yet."""
    availability: Callable[[PluginContext[Any]], Availability]
    """Says whether it can work on this machine now. It is called in a thread and may take a second or two."""
