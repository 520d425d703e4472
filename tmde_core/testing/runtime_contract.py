"""What must hold of every model runtime. Plugin authors subclass one of these in their tests:

    class TestMyRuntime(RuntimeContract):
        @pytest.fixture
        async def runtime(self):
            runtime = MyRuntime(...)
            await runtime.start()
            yield runtime
            await runtime.stop()

`RuntimeContract` holds of any runtime, a scripted one too; `ServedModelContract` adds what only a real model can show.
Needs pytest with pytest-asyncio in auto mode; this module itself imports neither.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from contextlib import aclosing
from typing import Any

from tmde_core.errors import AdapterInvalidError, ContextOverflowError, NotFoundError, TmdeError
from tmde_core.records.chat import AdapterRef, ChatDelta, ChatEnd, ChatItem, ChatRequest, Message
from tmde_core.sdk.runtimes import ModelRuntime

ABSENT_ADAPTER = AdapterRef(id="8a0a2f0e-0000-4000-8000-000000000000", directory="/nonexistent/adapter")


def question(text: str = "Name three colours.", **wishes: Any) -> ChatRequest:
    """A short greedy request."""
    return ChatRequest(
        **{
            "model": "",
            "messages": (Message(role="user", content=text),),
            "temperature": 0.0,
            "max_tokens": 12,
            **wishes,
        }
    )


async def answer(runtime: ModelRuntime, request: ChatRequest) -> tuple[str, ChatEnd]:
    """The whole answer and its end; asserts the form of the stream: deltas, then exactly one end."""
    items: list[ChatItem] = [item async for item in runtime.chat(request)]
    assert items, "a successful stream ends with a ChatEnd"
    assert isinstance(items[-1], ChatEnd), f"the last item is {items[-1]!r}, not a ChatEnd"
    assert all(isinstance(item, ChatDelta) for item in items[:-1]), "only deltas come before the end"
    return "".join(item.text for item in items if isinstance(item, ChatDelta)), items[-1]


async def raised(work: Awaitable[object]) -> TmdeError | None:
    """The error of ours that `work` ends with; None when it succeeds. Anything else passes through."""
    try:
        await work
    except TmdeError as error:
        return error
    return None


class RuntimeContract:
    """Holds of every runtime."""

    async def test_it_is_a_model_runtime(self, runtime: ModelRuntime) -> None:
        """It has every method of the port."""
        assert isinstance(runtime, ModelRuntime)

    async def test_starting_again_is_harmless(self, runtime: ModelRuntime) -> None:
        """A second start changes nothing."""
        await runtime.start()
        assert (await runtime.status()).state == "ready"

    async def test_it_streams_and_then_ends_once(self, runtime: ModelRuntime) -> None:
        """Deltas, then one end with plausible counts."""
        text, end = await answer(runtime, question())
        assert text.strip()
        assert 0 < end.completion_tokens <= 12
        assert end.prompt_tokens > 0
        assert 0 <= end.cached_tokens <= end.prompt_tokens

    async def test_the_token_limit_is_kept_and_named(self, runtime: ModelRuntime) -> None:
        """An answer that is cut off says `length`."""
        _, end = await answer(runtime, question("Tell me a long story about a king and his castle.", max_tokens=2))
        assert end.completion_tokens <= 2
        assert end.finish_reason == "length"

    async def test_no_model_name_means_the_default_one(self, runtime: ModelRuntime) -> None:
        """The default model is listed, once, and answers by its name as by none."""
        defaults = [model.name for model in await runtime.models() if model.default]
        assert len(defaults) == 1
        _, unnamed = await answer(runtime, question())
        _, named = await answer(runtime, question(model=defaults[0]))
        assert unnamed.model == named.model

    async def test_an_unknown_model_is_not_found(self, runtime: ModelRuntime) -> None:
        """Naming a model that is not there is refused with its name."""
        assert isinstance(await raised(answer(runtime, question(model="no-such-model"))), NotFoundError)

    async def test_a_stream_can_be_left_early(self, runtime: ModelRuntime) -> None:
        """Closing after the first piece ends it, and the next request is answered."""
        stream = runtime.chat(question("Count from one to one hundred.", max_tokens=200))
        async with aclosing(stream) as items:  # type: ignore[type-var]
            async for item in items:
                assert isinstance(item, ChatDelta)
                break
        await answer(runtime, question())

    async def test_cancelling_the_reader_stops_the_stream(self, runtime: ModelRuntime) -> None:
        """A cancelled task ends with CancelledError, and the next request is answered."""
        first = asyncio.Event()

        async def read() -> None:
            async for _ in runtime.chat(question("Count from one to one hundred.", max_tokens=200)):
                first.set()
                await asyncio.Event().wait()

        reader = asyncio.create_task(read())
        await first.wait()
        reader.cancel()
        assert isinstance((await asyncio.gather(reader, return_exceptions=True))[0], asyncio.CancelledError)
        await answer(runtime, question())

    async def test_many_ask_at_once(self, runtime: ModelRuntime) -> None:
        """More requests than any default number of slots are all answered, background ones too."""
        requests = [question(f"Say the number {n}.", background=n % 2 == 0) for n in range(8)]
        ends = await asyncio.gather(*(answer(runtime, request) for request in requests))
        assert len(ends) == 8

    async def test_an_adapter_that_is_not_there_is_refused(self, runtime: ModelRuntime) -> None:
        """Never answered by the bare model instead."""
        assert isinstance(await raised(runtime.load_adapter(ABSENT_ADAPTER)), AdapterInvalidError)
        assert isinstance(await raised(answer(runtime, question(adapter=ABSENT_ADAPTER))), AdapterInvalidError)

    async def test_unloading_an_unknown_adapter_is_ignored(self, runtime: ModelRuntime) -> None:
        """Unloading is idempotent."""
        await runtime.unload_adapter("no-such-adapter")

    async def test_tokens_are_counted_as_promised(self, runtime: ModelRuntime) -> None:
        """One count a text, or None where the runtime said that it cannot."""
        counts = await runtime.count_tokens(["one", "one two three four five", ""])
        if runtime.capabilities.token_counts:
            assert counts is not None
            assert counts[2] == 0 < counts[0] < counts[1]
        else:
            assert counts is None

    async def test_the_context_has_a_size(self, runtime: ModelRuntime) -> None:
        """Prompts can be fitted."""
        assert await runtime.context_length() > 0


class ServedModelContract(RuntimeContract):
    """Holds of every runtime that serves a real model."""

    async def test_greedy_answers_repeat(self, runtime: ModelRuntime) -> None:
        """Temperature 0 means the likeliest token."""
        first, _ = await answer(runtime, question())
        assert (await answer(runtime, question()))[0] == first

    async def test_a_prompt_that_does_not_fit_is_refused(self, runtime: ModelRuntime) -> None:
        """With the error that callers shorten prompts on."""
        context = await runtime.context_length()
        too_long = question("word " * (context + 100))
        assert isinstance(await raised(answer(runtime, too_long)), ContextOverflowError)

    async def test_a_schema_is_enforced(self, runtime: ModelRuntime) -> None:
        """Where the runtime says it can."""
        if not runtime.capabilities.json_schema:
            return
        schema = {
            "type": "object",
            "properties": {"verdict": {"enum": ["accept", "revise"]}, "score": {"type": "integer"}},
            "required": ["verdict", "score"],
            "additionalProperties": False,
        }
        text, _ = await answer(runtime, question("Is 2 + 2 = 4? Give a verdict.", json_schema=schema, max_tokens=60))
        assert json.loads(text)["verdict"] in {"accept", "revise"}

    async def test_log_probabilities_are_reported(self, runtime: ModelRuntime) -> None:
        """Where the runtime says it can: for each token, the likeliest first, none above zero."""
        if not runtime.capabilities.logprobs:
            return
        items = [item async for item in runtime.chat(question(top_logprobs=5, max_tokens=3))]
        tokens = [token for item in items if isinstance(item, ChatDelta) for token in item.logprobs]
        assert len(tokens) >= 3
        for token in tokens:
            shown = [alternative.logprob for alternative in token.top]
            assert 1 <= len(shown) <= 5
            assert shown == sorted(shown, reverse=True)
            assert token.logprob == shown[0] <= 0  # greedy: the token taken is the likeliest

    async def test_a_shared_prefix_comes_out_of_the_cache(self, runtime: ModelRuntime) -> None:
        """Asking again reads less of the prompt, where the runtime reports it."""
        text = "Here is a list: " + ", ".join(f"item {n}" for n in range(40)) + ". How many?"
        await answer(runtime, question(text))
        _, end = await answer(runtime, question(text))
        assert end.cached_tokens == 0 or end.cached_tokens > end.prompt_tokens // 2
