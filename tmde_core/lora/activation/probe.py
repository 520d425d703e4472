"""The probe before an adapter may answer: does the runtime really use it, and is what it says text?

An adapter can be loaded and ignored, or belong to another conversion of the model and turn answers into noise. Both
look fine until someone reads an answer, so one short greedy answer with it and one without are compared first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tmde_core.errors import AdapterInvalidError
from tmde_core.prompts import proposer_opening
from tmde_core.records.base import Record
from tmde_core.records.chat import AdapterRef, ChatDelta, ChatRequest, TokenLogprob
from tmde_core.sdk.runtimes import ModelRuntime

PROBE_QUESTION = "Name three colours of the rainbow and say in one sentence where a rainbow comes from."
PROBE_TOKENS = 24
"""Enough to see a token repeated for ever."""
COMPARED_TOKENS = 4
"""An adapter that is applied moves the probabilities of the very first token; a few more are asked to be sure."""
TOP = 5

SMALLEST_SHIFT = 1e-3
"""Natural-log probability. Measured on the embedded model: the same prompt asked twice gives equal figures (0.0), an
adapter of one step at the lowest learning rate moves them by 0.28."""

DEGENERATE_SHARE = 0.8
"""A text in which one word makes up more than this share says nothing. Spoilt models repeat one token for ever."""
DEGENERATE_WORDS = 8
"""Texts of fewer words may repeat themselves: "No, no, no." is an answer."""


class Answer(Record):
    """One greedy answer to the probe's question."""

    text: str
    logprobs: tuple[TokenLogprob, ...]


async def base_answer(runtime: ModelRuntime, model: str) -> Answer:
    """What the model says without an adapter.

    Raises:
        WorkerFailedError: the runtime failed.
    """
    return await _ask(runtime, model, None, COMPARED_TOKENS if runtime.capabilities.logprobs else PROBE_TOKENS)


async def probe(runtime: ModelRuntime, adapter: AdapterRef, model: str, base: Answer) -> None:
    """Ask the question with the adapter and compare with the answer without it.

    Raises:
        AdapterInvalidError: the answer is no sane text, or the adapter changes nothing.
        WorkerFailedError: the runtime failed.
    """
    with_adapter = await _ask(runtime, model, adapter, PROBE_TOKENS)
    if flaw := flaw_of(with_adapter.text):
        raise AdapterInvalidError(f"With the adapter the model's answer to the probe is {flaw}. Train it again.")
    if shift(with_adapter, base) < SMALLEST_SHIFT:
        raise AdapterInvalidError(
            "With the adapter the model answers the probe exactly as without it: it was not applied, or it learnt nothing."
        )


def flaw_of(text: str) -> str | None:
    """What is wrong with a text, in words; None when it is sane."""
    stripped = text.strip()
    if not stripped:
        return "empty"
    if "\ufffd" in stripped or not all(letter.isprintable() or letter.isspace() for letter in stripped):
        return "not printable text"
    for units in (stripped.split(), [letter for letter in stripped if not letter.isspace()]):
        if len(units) >= DEGENERATE_WORDS:
            unit, times = Counter(units).most_common(1)[0]
            if times / len(units) > DEGENERATE_SHARE:
                return f"one thing over and over ({unit[:20]!r})"
    return None


def shift(left: Answer, right: Answer) -> float:
    """How far two answers are apart: the largest difference of a log-probability, infinity where the words differ.

    Where both report log-probabilities, the longer answer is compared as far as the shorter one goes.
    """
    if not left.logprobs or not right.logprobs:
        return 0.0 if left.text == right.text else float("inf")
    differences = [0.0]
    for one, other in zip(left.logprobs, right.logprobs, strict=False):
        if one.token != other.token:
            return float("inf")
        mine, theirs = _likely(one), _likely(other)
        differences += [abs(mine[token] - theirs[token]) for token in mine.keys() & theirs.keys()]
    return max(differences)


def _likely(token: TokenLogprob) -> dict[str, float]:
    return {token.token: token.logprob} | {alternative.token: alternative.logprob for alternative in token.top}


async def _ask(runtime: ModelRuntime, model: str, adapter: AdapterRef | None, max_tokens: int) -> Answer:
    request = ChatRequest(
        model=model,
        messages=proposer_opening(PROBE_QUESTION, ""),
        temperature=0.0,
        max_tokens=max_tokens,
        top_logprobs=TOP if runtime.capabilities.logprobs else 0,
        adapter=adapter,
    )
    text: list[str] = []
    logprobs: Sequence[TokenLogprob] = ()
    async for item in runtime.chat(request):
        if isinstance(item, ChatDelta):
            text.append(item.text)
            logprobs = (*logprobs, *item.logprobs)
    return Answer(text="".join(text), logprobs=tuple(logprobs))
