"""Probes an adapter before its activation: the runtime must apply it, and its answer must be readable text.

A runtime can load an adapter and ignore it. An adapter for another conversion of the model turns answers into noise. No
error shows either fault, so the probe compares one short greedy answer with the adapter and one without.
"""

from __future__ import annotations

from collections import Counter

from tmde_core.errors import AdapterInvalidError
from tmde_core.prompts import proposer_opening
from tmde_core.records.base import Record
from tmde_core.records.chat import AdapterRef, ChatDelta, ChatRequest, TokenLogprob
from tmde_core.sdk.runtimes import ModelRuntime
from tmde_core.sdk.thoughts import AnswerReader

PROBE_QUESTION = "Name three colours of the rainbow and say in one sentence where a rainbow comes from."
PROBE_TOKENS = 24
"""Length of the answer with the adapter: enough to recognise a model that repeats one token."""
COMPARED_TOKENS = 4
"""Tokens to compare. An applied adapter changes the probabilities of the first token; the other three confirm it."""
TOP = 5

SMALLEST_SHIFT = 1e-3
"""The smallest difference of a natural-log probability that shows that the adapter was applied.

Measured on the embedded model: the same prompt twice gives a difference of 0.0; an adapter that was trained for one
step at the lowest learning rate gives 0.28.
"""

DEGENERATE_SHARE = 0.8
"""A text is rejected if one word makes up more than this share. Damaged models repeat one token endlessly."""
DEGENERATE_WORDS = 8
"""Texts of fewer words may repeat one word: "No, no, no." is a valid answer."""


class ProbeAnswer(Record):
    """Stores one greedy answer to the probe's question."""

    text: str
    logprobs: tuple[TokenLogprob, ...]


async def ask_base_model(runtime: ModelRuntime, model: str) -> ProbeAnswer:
    """Return the base model's answer to the probe's question.

    Raises:
        WorkerFailedError: the runtime failed.
    """
    return await _ask(runtime, model, None, COMPARED_TOKENS if runtime.capabilities.logprobs else PROBE_TOKENS)


async def probe(runtime: ModelRuntime, adapter: AdapterRef, model: str, base: ProbeAnswer) -> None:
    """Ask the probe's question with the adapter, and compare the answer with the base model's answer.

    Raises:
        AdapterInvalidError: the answer is not readable text, or the adapter changes nothing.
        WorkerFailedError: the runtime failed.
    """
    with_adapter = await _ask(runtime, model, adapter, PROBE_TOKENS)
    if flaw := find_text_flaw(with_adapter.text):
        raise AdapterInvalidError(f"With the adapter the model's answer to the probe is {flaw}. Train it again.")
    if measure_shift(with_adapter, base) < SMALLEST_SHIFT:
        raise AdapterInvalidError(
            "With the adapter the model answers the probe exactly as without it: it was not applied, or it learnt nothing."
        )


def find_text_flaw(text: str) -> str | None:
    """Return what is wrong with a text, in words, or None if the text is readable."""
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


def measure_shift(left: ProbeAnswer, right: ProbeAnswer) -> float:
    """Return the largest difference between the log-probabilities of two answers.

    The result is infinity if the tokens differ. Only the tokens up to the end of the shorter answer are compared. If an
    answer has no log-probabilities, the texts are compared: the result is 0 if they are equal, else infinity.
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


async def _ask(runtime: ModelRuntime, model: str, adapter: AdapterRef | None, max_tokens: int) -> ProbeAnswer:
    request = ChatRequest(
        model=model,
        messages=proposer_opening(PROBE_QUESTION, ""),
        temperature=0.0,
        max_tokens=max_tokens,
        top_logprobs=TOP if runtime.capabilities.logprobs else 0,
        adapter=adapter,
        thinking=False,
    )
    reader = AnswerReader()
    everything: list[TokenLogprob] = []
    async for item in runtime.chat(request):
        if isinstance(item, ChatDelta):
            reader.add(item)
            everything += item.logprobs
    reader.end()
    heard = reader.heard()
    if heard.only_thought:
        # The model thinks although it was asked not to. Its thought shows as well as an answer what an adapter does.
        return ProbeAnswer(text=heard.thought, logprobs=tuple(everything))
    return ProbeAnswer(text=heard.text, logprobs=heard.logprobs)
