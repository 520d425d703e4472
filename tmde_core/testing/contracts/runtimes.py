"""Define the rules for every model runtime. Subclass a contract in a test module and say how the runtime is made.

    class TestMyRuntime(ServedModelContract):
        def runtime(self, tmde_data_dir):
            return MyRuntime(make_context(MySettings, tmde_data_dir))

The contract starts the runtime before its first test and stops the runtime after its last test. If the runtime needs a
server, `runtime` returns an asynchronous context manager instead:

    @asynccontextmanager
    async def runtime(self):
        async with serving(FakeVllm()) as url:
            yield MyRuntime(make_context(MySettings, base_url=url))

`RuntimeContract` applies to any runtime, including a scripted one. `ServedModelContract` adds rules that need a real
model.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, TypeGuard, cast

import pytest

from tmde_core.errors import AdapterInvalidError, ContextOverflowError, NotFoundError, TmdeError
from tmde_core.records.chat import AdapterRef, ChatDelta, ChatEnd, ChatItem, ChatRequest, Message
from tmde_core.sdk.runtimes import Availability, ModelRuntime
from tmde_core.testing.contracts.rules import LoopThread, calling, described, not_run, provide, require, run

__all__ = ["ABSENT_ADAPTER", "RuntimeContract", "ServedModelContract", "answer", "question", "raised"]

ABSENT_ADAPTER = AdapterRef(id="8a0a2f0e-0000-4000-8000-000000000000", directory="/nonexistent/adapter")

ASKED_SECONDS = 30.0
"""The time limit for queries that TMDE sends to a runtime while a person waits."""
RULE_SECONDS = 600.0
"""The time limit for one rule with all its answers. A large model on a slow machine needs minutes."""

ADVICE = "TMDE shows that to the person as a crash. Raise an error of tmde_core.sdk.errors with a sentence, where it should fail."


def question(text: str = "Name three colours.", **wishes: Any) -> ChatRequest:
    """Return a short greedy request."""
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
    """Return the whole answer and its end. Require that the stream consists of deltas and then exactly one end."""
    items: list[ChatItem] = [item async for item in runtime.chat(request)]
    require(items, "chat() ended without any item. A stream that succeeds ends with a ChatEnd.")
    end = items[-1]
    require(
        isinstance(end, ChatEnd),
        f"The last item of chat() is a {type(end).__name__}. TMDE reads why and with how many tokens the answer ended from "
        "the ChatEnd. Yield exactly one ChatEnd, as the last item.",
    )
    assert isinstance(end, ChatEnd)
    odd = [type(item).__name__ for item in items[:-1] if not isinstance(item, ChatDelta)]
    require(
        not odd,
        f"chat() yields a {odd and odd[0]} before the end. Yield ChatDelta for text, and one ChatEnd at the end.",
    )
    return "".join(item.text for item in items if isinstance(item, ChatDelta)), end


async def raised(work: Awaitable[object]) -> TmdeError | None:
    """Return the TmdeError that `work` raises, or None if it succeeds. Other errors are not caught."""
    try:
        await work
    except TmdeError as error:
        return error
    return None


class Served:
    """A started runtime, and the event loop that it runs in."""

    def __init__(self, loop: LoopThread, runtime: ModelRuntime) -> None:
        self.loop = loop
        self.runtime = runtime


Rule = Callable[[Any, ModelRuntime], Coroutine[Any, Any, None]]


def holds(rule: Rule) -> Callable[[Any, Served], None]:
    """Turn a coroutine into a plain test that runs in the runtime's event loop."""

    def test(self: Any, tmde_served: Served) -> None:
        with calling("The runtime", ADVICE):
            tmde_served.loop.run(rule(self, tmde_served.runtime), "The runtime", RULE_SECONDS)

    test.__name__, test.__doc__, test.__module__ = rule.__name__, rule.__doc__, rule.__module__
    test.__qualname__ = rule.__qualname__
    return test


class RuntimeContract:
    """The rules for every runtime."""

    def runtime(self) -> ModelRuntime | AbstractAsyncContextManager[ModelRuntime]:
        """Return the runtime under test before it is started."""
        raise NotImplementedError

    def availability(self) -> Availability | None:
        """Return the result of the descriptor's `availability`. None means that the runtime can work here."""
        return None

    @pytest.fixture(scope="class")
    @classmethod
    def tmde_data_dir(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return an empty data directory for all tests of the class."""
        return tmp_path_factory.mktemp("tmde")

    @pytest.fixture(scope="class")
    @classmethod
    def tmde_served(cls, request: pytest.FixtureRequest) -> Iterator[Served]:
        """Start the runtime once for all tests of the class."""
        found = available(cls(), request)
        if found is not None and not found.ok:
            not_run(f"the runtime cannot work here now: {found.reason}")
        with calling("create", "It must work with the default settings. Leave what can fail to start()."):
            made = provide(request, cls().runtime)
        with LoopThread() as loop:
            stack = AsyncExitStack()

            async def start() -> ModelRuntime:
                if _is_context(made):
                    runtime = await stack.enter_async_context(made)
                else:
                    runtime = cast("ModelRuntime", made)
                stack.push_async_callback(runtime.stop)
                await runtime.start()
                return runtime

            try:
                with calling("start()", "availability said that it can work here. Say there what is missing."):
                    served = Served(loop, loop.run(start(), "start()", RULE_SECONDS))
                yield served
            finally:
                with calling("stop()", "TMDE calls it as it ends, and cannot do anything about it."):
                    loop.run(stack.aclose(), "stop()")

    def test_it_says_whether_it_can_work_here(self, request: pytest.FixtureRequest) -> None:
        """Require that `availability` answers, because pages and `tmde doctor` call it."""
        available(self, request)

    @holds
    async def test_it_is_a_model_runtime(self, runtime: ModelRuntime) -> None:
        """Require every method of the port."""
        wanted = ("capabilities", "start", "stop", "chat", "models", "count_tokens", "context_length", "load_adapter")
        missing = [name for name in (*wanted, "unload_adapter", "status") if not hasattr(runtime, name)]
        require(
            not missing,
            f"The {type(runtime).__name__} has no {', '.join(missing)}. TMDE calls every method of ModelRuntime. Write them all; "
            "what the runtime cannot do raises an error of tmde_core.sdk.errors.",
        )

    @holds
    async def test_starting_again_is_harmless(self, runtime: ModelRuntime) -> None:
        """Require that a second start changes nothing."""
        await runtime.start()
        state = (await runtime.status()).state
        require(
            state == "ready",
            f"After a second start() the state is {state!r}. Several parts of TMDE may start one runtime. Do nothing in start() "
            "when the runtime is ready.",
        )

    @holds
    async def test_it_streams_and_then_ends_once(self, runtime: ModelRuntime) -> None:
        """Require deltas and then exactly one end, with plausible token counts."""
        text, end = await answer(runtime, question())
        require(text.strip(), "The answer to a short question is empty. Yield a ChatDelta for each piece of text.")
        require(
            0 < end.completion_tokens <= 12 and end.prompt_tokens > 0 and 0 <= end.cached_tokens <= end.prompt_tokens,
            f"The ChatEnd counts {end.completion_tokens} tokens of the answer (of at most 12), {end.prompt_tokens} of the prompt "
            f"and {end.cached_tokens} of these from a cache. TMDE computes speeds and fits prompts with these figures. Take them "
            "from the server, or count.",
        )

    @holds
    async def test_the_token_limit_is_kept_and_named(self, runtime: ModelRuntime) -> None:
        """Require that an answer that is cut off ends with `length`."""
        _, end = await answer(runtime, question("Tell me a long story about a king and his castle.", max_tokens=2))
        require(
            end.completion_tokens <= 2 and end.finish_reason == "length",
            f"With max_tokens=2 the answer has {end.completion_tokens} tokens and ends with {end.finish_reason!r}. TMDE tells from "
            '"length" that an answer was cut off. Pass max_tokens on, and set finish_reason to "length" when it is reached.',
        )

    @holds
    async def test_every_wish_about_thinking_is_answered(self, runtime: ModelRuntime) -> None:
        """Require an answer with and without thinking, also from models that cannot think."""
        for wish in (False, True):
            error = await raised(answer(runtime, question(thinking=wish)))
            require(
                error is None,
                f"A request with thinking={wish} {_ended(error)}. TMDE asks judges without thinking, whatever the model is. Leave "
                "the wish out where the server or the model does not know it.",
            )

    @holds
    async def test_no_model_name_means_the_default_one(self, runtime: ModelRuntime) -> None:
        """Require exactly one default model, and the same model with and without its name."""
        defaults = [model.name for model in await runtime.models() if model.default]
        require(
            len(defaults) == 1,
            f"models() marks {len(defaults)} models as the default ({', '.join(defaults) or 'none'}). A request without a model "
            "goes to the default one. Mark exactly one with default=True.",
        )
        _, unnamed = await answer(runtime, question())
        _, named = await answer(runtime, question(model=defaults[0]))
        require(
            unnamed.model == named.model,
            f"Without a name {unnamed.model!r} answered, by the name of the default model {named.model!r}. Let both reach the "
            "same model, and let ChatEnd.model name it.",
        )

    @holds
    async def test_an_unknown_model_is_not_found(self, runtime: ModelRuntime) -> None:
        """Require that an unknown model is refused with NotFoundError."""
        error = await raised(answer(runtime, question(model="no-such-model")))
        require(
            isinstance(error, NotFoundError),
            f'The request for the model "no-such-model" {_ended(error)}. Another model\'s answer would be taken for that of the '
            "one that was named. Raise NotFoundError with the name.",
        )

    @holds
    async def test_a_stream_can_be_left_early(self, runtime: ModelRuntime) -> None:
        """Require that closing a stream after the first piece ends it, and that the next request is answered."""
        stream = runtime.chat(question("Count from one to one hundred.", max_tokens=200))
        async with aclosing(stream) as items:  # type: ignore[type-var]
            async for _ in items:
                break
        await answer(runtime, question())

    @holds
    async def test_cancelling_the_reader_stops_the_stream(self, runtime: ModelRuntime) -> None:
        """Require that a cancelled task ends with CancelledError, and that the next request is answered."""
        first = asyncio.Event()

        async def read() -> None:
            async for _ in runtime.chat(question("Count from one to one hundred.", max_tokens=200)):
                first.set()
                await asyncio.Event().wait()

        reader = asyncio.create_task(read())
        waiting = asyncio.create_task(first.wait())
        await asyncio.wait((reader, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        reader.cancel()
        ended = (await asyncio.gather(reader, return_exceptions=True))[0]
        require(
            isinstance(ended, asyncio.CancelledError),
            f"A cancelled reader of chat() ended with {described(ended) if isinstance(ended, Exception) else 'no error'}. A debate "
            "that a person stops would go on. Let CancelledError pass.",
        )
        await answer(runtime, question())

    @holds
    async def test_many_ask_at_once(self, runtime: ModelRuntime) -> None:
        """Require answers to more requests than any default number of slots, including background requests."""
        requests = [question(f"Say the number {n}.", background=n % 2 == 0) for n in range(8)]
        await asyncio.gather(*(answer(runtime, request) for request in requests))

    @holds
    async def test_an_adapter_that_is_not_there_is_refused(self, runtime: ModelRuntime) -> None:
        """Require that a missing adapter is refused and the base model never answers instead."""
        advice = "The base model's answer would be taken for the adapter's, and the benchmark would lie. Raise AdapterInvalidError."
        error = await raised(runtime.load_adapter(ABSENT_ADAPTER))
        require(
            isinstance(error, AdapterInvalidError),
            f"load_adapter() of an adapter whose directory does not exist {_ended(error)}. {advice}",
        )
        error = await raised(answer(runtime, question(adapter=ABSENT_ADAPTER)))
        require(
            isinstance(error, AdapterInvalidError),
            f"A request with an adapter whose directory does not exist {_ended(error)}. {advice}",
        )

    @holds
    async def test_unloading_an_unknown_adapter_is_ignored(self, runtime: ModelRuntime) -> None:
        """Require that unloading is idempotent."""
        error = await raised(runtime.unload_adapter("no-such-adapter"))
        require(
            error is None,
            f"unload_adapter() of an unknown adapter {_ended(error)}. TMDE unloads whatever it has deleted. Ignore unknown ids.",
        )

    @holds
    async def test_tokens_are_counted_as_promised(self, runtime: ModelRuntime) -> None:
        """Require one count for each text, or None if the runtime cannot count tokens."""
        counts = await runtime.count_tokens(["one", "one two three four five", ""])
        if runtime.capabilities.token_counts:
            require(
                counts is not None and len(counts) == 3 and counts[2] == 0 < counts[0] < counts[1],
                f"capabilities.token_counts is True, and count_tokens() of one word, five words and nothing gave {counts}. Prompts "
                "are cut to fit with these counts. Return one count for each text, 0 for an empty one.",
            )
        else:
            require(
                counts is None,
                f"capabilities.token_counts is False, and count_tokens() gave {counts}. Return None, or set the capability.",
            )

    @holds
    async def test_the_context_has_a_size(self, runtime: ModelRuntime) -> None:
        """Require a positive context length, so that prompts can be fitted."""
        size = await runtime.context_length()
        require(
            size > 0, f"context_length() is {size}. TMDE fits prompts into it. Return the tokens that the model reads."
        )


class ServedModelContract(RuntimeContract):
    """The rules for every runtime that serves a real model."""

    @holds
    async def test_greedy_answers_repeat(self, runtime: ModelRuntime) -> None:
        """Require that temperature 0 selects the likeliest token."""
        first, _ = await answer(runtime, question())
        second, _ = await answer(runtime, question())
        require(
            first == second,
            f"With temperature 0 the same question got {first!r}, then {second!r}. Benchmarks rely on answers that repeat. Pass "
            "the temperature on.",
        )

    @holds
    async def test_a_prompt_that_does_not_fit_is_refused(self, runtime: ModelRuntime) -> None:
        """Require ContextOverflowError for a prompt that is too long, so that callers can shorten the prompt."""
        context = await runtime.context_length()
        error = await raised(answer(runtime, question("word " * (context + 100))))
        require(
            isinstance(error, ContextOverflowError),
            f"A prompt of {context + 100:,} words, with a context of {context:,} tokens, {_ended(error)}. TMDE shortens the prompt "
            "when it hears of it; a prompt that is cut silently loses the question. Raise ContextOverflowError.",
        )

    @holds
    async def test_a_schema_is_enforced(self, runtime: ModelRuntime) -> None:
        """Require that a runtime with this capability enforces a JSON schema."""
        if not runtime.capabilities.json_schema:
            return
        schema = {
            "type": "object",
            "properties": {"verdict": {"enum": ["accept", "revise"]}, "score": {"type": "integer"}},
            "required": ["verdict", "score"],
            "additionalProperties": False,
        }
        text, _ = await answer(runtime, question("Is 2 + 2 = 4? Give a verdict.", json_schema=schema, max_tokens=60))
        try:
            verdict = json.loads(text).get("verdict")
        except (ValueError, AttributeError):
            verdict = None
        require(
            verdict in ("accept", "revise"),
            f"capabilities.json_schema is True, and an answer to a schema is {text[:100]!r}. The Skeptic's verdicts are read from such "
            "answers. Pass request.json_schema on, or set the capability to False.",
        )

    @holds
    async def test_log_probabilities_are_reported(self, runtime: ModelRuntime) -> None:
        """Require sorted log-probabilities of at most 0 for each token, if the runtime has this capability."""
        if not runtime.capabilities.logprobs:
            return
        items = [item async for item in runtime.chat(question(top_logprobs=5, max_tokens=3))]
        tokens = [token for item in items if isinstance(item, ChatDelta) for token in item.logprobs]
        require(
            len(tokens) >= 3,
            f"capabilities.logprobs is True, and an answer of 3 tokens has log-probabilities of {len(tokens)}. Put them into the "
            "ChatDelta of each token, or set the capability to False.",
        )
        for token in tokens:
            shown = [alternative.logprob for alternative in token.top]
            # With greedy decoding, the chosen token is the likeliest.
            require(
                1 <= len(shown) <= 5 and shown == sorted(shown, reverse=True) and token.logprob == shown[0] <= 0,
                f"The token {token.token!r} has the log-probability {token.logprob} and the alternatives {shown}. The judge reads "
                "grades from them. Give 1 to 5 alternatives, the likeliest first, none above 0, the token itself among them.",
            )

    @holds
    async def test_a_shared_prefix_comes_out_of_the_cache(self, runtime: ModelRuntime) -> None:
        """Require that a repeated prompt is mostly read from the cache, if the runtime reports cached tokens."""
        text = "Here is a list: " + ", ".join(f"item {n}" for n in range(40)) + ". How many?"
        await answer(runtime, question(text))
        _, end = await answer(runtime, question(text))
        require(
            end.cached_tokens == 0 or end.cached_tokens > end.prompt_tokens // 2,
            f"Asked twice, the same prompt of {end.prompt_tokens} tokens came from the cache with {end.cached_tokens} only. Every turn "
            "of a debate would read the whole prompt anew. Turn on the server's prompt cache, or report 0.",
        )


def available(contract: RuntimeContract, request: pytest.FixtureRequest) -> Availability | None:
    """Return the result of `availability`, and require that it is valid."""
    with calling("availability()", "Pages and `doctor` ask for it. Return Availability(ok=False, reason=…)."):
        found = run(asyncio.to_thread(provide, request, contract.availability), "availability()", ASKED_SECONDS)
    require(
        found is None or isinstance(found, Availability),
        f"availability() returned a {type(found).__name__}. TMDE reads ok and reason. Return an Availability.",
    )
    require(
        found is None or found.ok or found.reason.strip(),
        "availability() says that the runtime cannot work here, and gives no reason. The person cannot do anything about it. Put what "
        "is missing, and how to get it, into Availability.reason.",
    )
    return found


def _is_context(made: object) -> TypeGuard[AbstractAsyncContextManager[ModelRuntime]]:
    """Return whether the object is a context manager that opens a runtime, and not a runtime itself."""
    return hasattr(made, "__aenter__") and not hasattr(made, "chat")


def _ended(error: TmdeError | None) -> str:
    return "succeeded" if error is None else f"ended with {described(error)}"
