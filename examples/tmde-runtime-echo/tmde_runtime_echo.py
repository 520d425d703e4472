"""A model runtime without a model: it repeats the last message. One word counts as one token."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from msgspec import Meta

from tmde_core.sdk import hookimpl
from tmde_core.sdk.context import PluginContext, PluginSettings
from tmde_core.sdk.errors import (
    AdapterInvalidError,
    ContextOverflowError,
    NotFoundError,
    WorkerFailedError,
)
from tmde_core.sdk.runtimes import (
    AdapterRef,
    Availability,
    ChatDelta,
    ChatEnd,
    ChatItem,
    ChatRequest,
    ModelInfo,
    RuntimeCapabilities,
    RuntimeDescriptor,
    RuntimeStatus,
)

MODEL = "echo-1"


class EchoSettings(PluginSettings):
    context_tokens: Annotated[int, Meta(title="Context length, tokens", ge=16)] = 4096


class EchoRuntime:
    capabilities = RuntimeCapabilities(token_counts=True)

    def __init__(self, context: PluginContext[EchoSettings]) -> None:
        self._context_tokens = context.settings.context_tokens
        self._ready = False

    async def start(self) -> None:
        self._ready = True

    async def stop(self) -> None:
        self._ready = False

    async def chat(self, request: ChatRequest) -> AsyncIterator[ChatItem]:
        if request.adapter is not None:
            raise self._no_adapters()
        if request.model not in ("", MODEL):
            raise NotFoundError(f"There is no model {request.model!r}; the only one is {MODEL!r}.")
        prompt = [word for message in request.messages for word in message.content.split()]
        if len(prompt) >= self._context_tokens:
            sizes = f"{len(prompt):,} words do not fit the context of {self._context_tokens:,}"
            raise ContextOverflowError(f"{sizes}. Shorten the prompt.", limit=self._context_tokens)
        words = request.messages[-1].content.split() or ["Nothing."]
        answer = words[: min(request.max_tokens, self._context_tokens - len(prompt))]
        for number, word in enumerate(answer):
            await asyncio.sleep(0)  # others get their turn, and a cancelled reader stops here
            if not self._ready:
                raise WorkerFailedError("The echo runtime is stopped.")
            yield ChatDelta(text=f" {word}" if number else word)
        yield ChatEnd(
            finish_reason="stop" if len(answer) == len(words) else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(answer),
            model=MODEL,
        )

    async def models(self) -> Sequence[ModelInfo]:
        length = self._context_tokens
        return [ModelInfo(name=MODEL, runtime="echo", context_length=length, default=True)]

    async def count_tokens(self, texts: Sequence[str], model: str = "") -> list[int] | None:
        return [len(text.split()) for text in texts]

    async def context_length(self, model: str = "") -> int:
        return self._context_tokens

    async def load_adapter(self, adapter: AdapterRef, model: str = "") -> None:
        raise self._no_adapters()

    async def unload_adapter(self, adapter_id: str) -> None:
        """No adapter was ever loaded."""

    async def status(self) -> RuntimeStatus:
        return RuntimeStatus(state="ready" if self._ready else "stopped")

    def _no_adapters(self) -> AdapterInvalidError:
        return AdapterInvalidError("The echo runtime has no model, so it cannot serve adapters.")


@hookimpl
def tmde_model_runtimes() -> list[RuntimeDescriptor]:
    return [
        RuntimeDescriptor(
            name="echo",
            summary="repeats what it is asked",
            settings=EchoSettings,
            create=EchoRuntime,
            availability=lambda context: Availability(ok=True),
        )
    ]
