"""Compare a merged model with its base model and the adapter, served apart, by the simple questions.

A merge can succeed and still lose what it merged: weights are rounded again, and a small change may vanish in the
rounding. Right answers alone do not show this, so the probabilities of the next token are compared as well, also with
those of the base model alone: a merged model that is nearer to the base model than to the adapter has lost the adapter.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tmde_core.sdk.errors import WorkerFailedError
from tmde_core.sdk.training import MergeQuality
from tmde_cpu.serving.child import ServerChild, server_job
from tmde_cpu.serving.options import usable_cores
from tmde_cpu.serving.server_log import ServerLog
from tmde_cpu.serving.simple_questions import MAX_TOKENS, Question, simple_questions
from tmde_cpu.serving.template import template_fields

CONTEXT = 1024
"""The longest question and its answer take some 120 tokens, and some chat templates add hundreds."""
BATCH = 128
PLACES = (0, 3, 8, 15)
"""The places in each answer at which the next token is compared."""
LIKELIEST, LISTED = 5, 40
"""How many tokens are compared at a place, and how many the other model lists so that they are among them."""

MAX_FEWER_RIGHT = 3
"""How many right answers fewer a merged model may give, of 24."""
LEAST_SAME = 0.8
"""The share of places at which the likeliest token must be the same."""
MOST_LOST = 0.5
"""The largest difference from base model and adapter, as a share of what the adapter changes."""
ROUNDING = 0.15
"""A difference of log-probabilities that rounding causes even where nothing is lost: llama.cpp rounds the inputs of a
quantised matrix, and a merged matrix is another one."""

Distribution = Mapping[int, float]
"""Token → log-probability, of the likeliest tokens."""


class _Answer(msgspec.Struct, frozen=True):
    prompt: list[int]
    tokens: list[int]
    right: bool


async def compare_merged(
    base: Path, adapter: Path, merged: Path, log: ServerLog, tell: Callable[[float], None]
) -> MergeQuality:
    """Ask the base model with and without the adapter, then the merged model.

    Args:
        base: the GGUF file of the base model.
        adapter: the adapter's GGUF form.
        merged: the merged model.
        log: where the servers log.
        tell: reports the share that is done.

    Raises:
        TmdeError: a model cannot be loaded or asked.
    """
    questions = simple_questions()
    steps, done = 3 * len(questions), 0

    def step() -> None:
        nonlocal done
        done += 1
        tell(done / steps)

    answers: list[_Answer] = []
    apart: list[Distribution] = []
    bare: list[Distribution] = []
    async with _served(base, (adapter,), log) as model:
        for question in questions:
            answers.append(await model.answer(question))
            apart += await model.places(answers[-1])
            step()
        for answer in answers:
            bare += await model.places(answer, adapted=False)
            step()
    right, whole = 0, []
    async with _served(merged, (), log) as model:
        for question, answer in zip(questions, answers, strict=True):
            right += (await model.answer(question)).right
            whole += await model.places(answer)
            step()
    return judge(sum(answer.right for answer in answers), right, len(questions), apart, whole, bare)


def judge(
    right_apart: int,
    right_merged: int,
    asked: int,
    apart: Sequence[Distribution],
    merged: Sequence[Distribution],
    bare: Sequence[Distribution],
) -> MergeQuality:
    """Return the figures, and what is wrong with them.

    Args:
        right_apart: the right answers of base model and adapter.
        right_merged: the right answers of the merged model.
        asked: the number of questions.
        apart: at each place, what base model and adapter find likely.
        merged: the same of the merged model. Empty where it was not told.
        bare: the same of the base model alone.
    """
    known = [place for place in zip(apart, merged, bare, strict=True) if all(place)]
    same = [max(one, key=one.__getitem__) == max(other, key=other.__getitem__) for one, other, _ in known]
    share = sum(same) / len(same) if same else 0.0
    difference = _mean([_distance(one, other) for one, other, _ in known])
    effect = _mean([_distance(one, alone) for one, _, alone in known])
    flaws = []
    if right_merged < right_apart - MAX_FEWER_RIGHT:
        flaws.append(
            f"It answered {right_merged} of {asked} simple questions right, and the base model with the adapter {right_apart}."
        )
    if share < LEAST_SAME:
        flaws.append(
            f"It found the same next token the likeliest at {share:.0%} of {len(known)} places only ({LEAST_SAME:.0%} are needed)."
        )
    if difference > max(ROUNDING, MOST_LOST * effect):
        flaws.append(
            f"It lost much of the adapter: it differs from the base model with the adapter by {difference:.2f}, where the "
            f"adapter itself changes {effect:.2f} (mean difference of log-probabilities)."
        )
    return MergeQuality(
        asked=asked, right_apart=right_apart, right_merged=right_merged, positions=len(known), same_token=share,
        difference=difference, effect=effect, flaws=tuple(flaws),
    )  # fmt: skip


def _distance(one: Distribution, other: Distribution) -> float:
    """Return the mean difference of the log-probabilities of the first distribution's likeliest tokens."""
    likeliest = sorted(one, key=one.__getitem__, reverse=True)[:LIKELIEST]
    least = min(other.values())  # a token that is not listed is less likely than every listed one
    return _mean([abs(one[token] - other.get(token, least)) for token in likeliest])


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


class _Model:
    """A model on a server of its own."""

    def __init__(self, child: ServerChild, adapters: int) -> None:
        self._child = child
        self._adapters = adapters

    async def answer(self, question: Question) -> _Answer:
        """Return the greedy answer, with the adapter if there is one."""
        messages = [{"role": "user", "content": question.text}]
        rendered = await self._ask("/apply-template", {"messages": messages, **template_fields(False)})
        whole = {"content": rendered["prompt"], "add_special": True, "parse_special": True}
        prompt = (await self._ask("/tokenize", whole))["tokens"]
        heard = await self._complete(prompt, MAX_TOKENS, adapted=True)
        return _Answer(list(prompt), list(heard.get("tokens") or ()), question.right(heard["content"]))

    async def places(self, answer: _Answer, *, adapted: bool = True) -> list[Distribution]:
        """Return what is likely next at some places in an answer; empty where the server does not tell."""
        found: list[Distribution] = []
        for place in PLACES:
            if place > len(answer.tokens):
                found.append({})
                continue
            heard = await self._complete([*answer.prompt, *answer.tokens[:place]], 1, adapted=adapted)
            told = heard.get("completion_probabilities") or [{}]
            found.append({one["id"]: one["logprob"] for one in told[0].get("top_logprobs") or ()})
        return found

    async def _complete(self, prompt: Sequence[int], tokens: int, *, adapted: bool) -> Any:
        scales = [{"id": place, "scale": float(adapted)} for place in range(self._adapters)]
        body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "cache_prompt": True, "lora": scales}
        listed = LISTED if tokens == 1 else 0  # listing the likeliest of a large vocabulary takes time for every token
        return await self._ask("/completion", {**body, "n_probs": listed, "return_tokens": True})

    async def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        response = await self._child.client.post(path, content=msgspec.json.encode(body))
        if response.status_code != 200:
            raise WorkerFailedError(f"The model server answered {response.status_code} while the models were compared.")
        return msgspec.json.decode(response.content)


@contextlib.asynccontextmanager
async def _served(model: Path, adapters: Sequence[Path], log: ServerLog) -> AsyncIterator[_Model]:
    job = server_job(model, adapters, context=CONTEXT, slots=1, threads=usable_cores(), batch=BATCH)
    child = await ServerChild.start(job, log)
    try:
        yield _Model(child, len(adapters))
    finally:
        await child.stop()
