"""Model runtimes: the protocol, the descriptor, and the values that runtimes receive and return."""

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
    FinishReason,
    Message,
    TokenAlternative,
    TokenLogprob,
)
from tmde_core.records.runtimes import Availability, ModelInfo, RuntimeCapabilities, RuntimeStatus
from tmde_core.sdk.context import MakingDescriptor, PluginContext

__all__ = [
    "AdapterRef",
    "Availability",
    "CardLeavingRuntime",
    "ChatDelta",
    "ChatEnd",
    "ChatItem",
    "ChatRequest",
    "ChatRole",
    "ExpectingRuntime",
    "FinishReason",
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
    """Serves chats. One instance serves all callers of the process at the same time."""

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """What the runtime supports beyond plain chat. May be a plain attribute."""

    async def start(self) -> None:
        """Prepare to answer.

        TMDE calls this method before use; further calls change nothing.

        Raises:
            WorkerFailedError: the server does not start or cannot be reached; the detail says why.
            InvalidInputError: the model named in the settings does not exist or is damaged.
        """

    async def stop(self) -> None:
        """Release all resources. Running requests end with WorkerFailedError."""

    def chat(self, request: ChatRequest) -> AsyncIterator[ChatItem]:
        """Stream the answer: any number of `ChatDelta`, then exactly one `ChatEnd`.

        Closing the iterator (`aclose`) or cancelling the task that reads it stops the generation.

        Raises:
            ContextOverflowError: the prompt does not fit the model's context.
            NotFoundError: the runtime has no such model.
            WorkerFailedError: the server failed during this request.
        """

    async def models(self) -> Sequence[ModelInfo]:
        """Return the models that `ChatRequest.model` may name."""

    async def count_tokens(self, texts: Sequence[str], model: str = "") -> list[int] | None:
        """Return the number of tokens of each text, without any template; None if the runtime cannot count tokens."""

    async def context_length(self, model: str = "") -> int:
        """Return how many tokens one prompt and its answer may have together."""

    async def load_adapter(self, adapter: AdapterRef, model: str = "") -> None:
        """Load the adapter for requests that name it.

        Running requests are not affected.

        Raises:
            AdapterInvalidError: the runtime refuses the adapter, or cannot serve adapters.
        """

    async def unload_adapter(self, adapter_id: str) -> None:
        """Unload the adapter. Unknown ids are ignored."""

    async def status(self) -> RuntimeStatus:
        """Return the state for `doctor`, the API and the pages. This method never raises and never starts anything."""


@runtime_checkable
class CardLeavingRuntime(Protocol):
    """A runtime for a server that is not TMDE's own, which can leave the graphics card without ending.

    This protocol is optional. Without it, TMDE stops a runtime that reports `RuntimeStatus.vram_bytes` while a training
    run needs the card.
    """

    async def leave_card(self) -> None:
        """Free the memory of the graphics card. TMDE calls this in place of `stop`, and `start` after the run.

        Raises:
            WorkerFailedError: the server cannot be asked.
        """


@runtime_checkable
class ExpectingRuntime(Protocol):
    """A model runtime that loads models itself, and wants to know which ones will be asked.

    This protocol is optional. Without it, a runtime may load its default model although no role uses it.
    """

    def expect(self, models: Sequence[str]) -> None:
        """Note which models the roles of the debate use on this runtime. TMDE calls this before `start`.

        Args:
            models: names of models, the Proposer's first; an empty name is the default model.
        """


class RuntimeDescriptor(MakingDescriptor, frozen=True, kw_only=True):
    """A model runtime that a plugin offers. Its settings table is `[runtimes.NAME]`."""

    create: Callable[[PluginContext[Any]], ModelRuntime]
    """Creates the runtime. The runtime is not started yet."""
    availability: Callable[[PluginContext[Any]], Availability]
    """Returns whether the runtime can work on this machine now. TMDE calls it in a thread; it may take a second or
    two."""
