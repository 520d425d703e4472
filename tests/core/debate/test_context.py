"""Conversations fit their model's context: shortened by rule, in large steps, never in the middle of a word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.debate.context import Conversation, QuestionTooLongError, TokenSizes, shorten
from tmde_core.records.chat import Message
from tmde_core.records.runtimes import RuntimeCapabilities
from tmde_core.testing import ScriptedRuntime

OPENING = (Message(role="system", content="Be good."), Message(role="user", content="What is the question?"))


def turns(number: int, words: int = 100) -> tuple[Message, Message]:
    said = " ".join(f"w{number}x{index}" for index in range(words))
    return Message(role="assistant", content=said), Message(role="user", content=f"critique {number}: {said}")


def sizes(**capabilities: bool) -> TokenSizes:
    return TokenSizes(ScriptedRuntime(capabilities=RuntimeCapabilities(**{"token_counts": True, **capabilities})), "")


async def test_what_fits_is_left_alone():
    conversation = Conversation(OPENING)
    conversation.add(*turns(1))
    fitted = await conversation.fit(sizes(), 4096, 100)
    assert fitted.messages == (*OPENING, *turns(1))
    assert fitted.max_tokens == 100


async def test_old_rounds_give_way_and_the_opening_and_the_last_round_stay_whole():
    conversation = Conversation(OPENING)
    for number in (1, 2, 3):
        conversation.add(*turns(number))
    fitted = await conversation.fit(sizes(), 500, 50)
    assert fitted.messages[:2] == OPENING
    assert fitted.messages[-2:] == turns(3)
    assert fitted.messages[2].content.endswith(" …")
    whole = turns(1)[0].content.split()
    kept = fitted.messages[2].content.removesuffix(" …").split()
    assert kept == whole[: len(kept)]
    assert fitted.max_tokens == 50


async def test_shortening_leaves_room_so_that_the_next_round_keeps_the_prefix():
    conversation = Conversation(OPENING)
    for number in (1, 2, 3):
        conversation.add(*turns(number, 40))
    counted = sizes()
    first = await conversation.fit(counted, 310, 20)
    assert len(first.messages) == 8
    assert first.messages[2] != turns(1, 40)[0]
    conversation.add(*turns(4, 8))
    second = await conversation.fit(counted, 310, 20)
    assert second.messages[: len(first.messages)] == first.messages


async def test_the_answers_budget_is_reduced_before_the_last_round_is_touched():
    conversation = Conversation(OPENING)
    conversation.add(*turns(1, 60))
    fitted = await conversation.fit(sizes(), 260, 200)
    assert fitted.messages == (*OPENING, *turns(1, 60))
    assert 32 <= fitted.max_tokens < 200


async def test_a_last_round_that_cannot_fit_is_shortened_too():
    conversation = Conversation(OPENING)
    conversation.add(*turns(1, 400))
    fitted = await conversation.fit(sizes(), 300, 100)
    assert all(message.content.endswith("…") for message in fitted.messages[2:])


async def test_a_question_that_does_not_fit_alone_is_refused_with_the_figures():
    conversation = Conversation((Message(role="user", content="word " * 500),))
    with pytest.raises(QuestionTooLongError) as caught:
        await conversation.fit(sizes(), 200, 50)
    assert caught.value.context["limit"] == 200
    assert caught.value.context["tokens"] >= 500
    assert "516" in caught.value.detail
    assert "200" in caught.value.detail


async def test_each_text_is_counted_once_and_small_prompts_not_at_all():
    runtime = ScriptedRuntime()
    counted = TokenSizes(runtime, "")
    await counted.total(OPENING, enough=1000)
    assert runtime.count_calls == 0
    await counted.total(OPENING, enough=10)
    await counted.total(OPENING, enough=10)
    assert runtime.count_calls == 1


async def test_a_runtime_that_cannot_count_is_estimated_at_three_bytes_a_token():
    counted = sizes(token_counts=False)
    assert await counted.total([Message(role="user", content="é" * 300)], enough=0) == 200 + 16


def test_sentences_are_kept_whole_where_possible():
    text = "First sentence here. Second sentence here. Third sentence that is here."
    assert shorten(text, 0.7) == "First sentence here. Second sentence here. …"


def test_else_words_are_kept_whole():
    assert shorten("alpha beta gamma delta", 0.5) == "alpha beta …"


@given(st.text(max_size=400), st.sampled_from([0.5, 0.25, 0.125, 0.05]))
def test_a_shortened_text_is_a_beginning_of_the_text(text, share):
    short = shorten(text, share)
    assert text.startswith(short.removesuffix("…").rstrip())
    assert len(short) <= len(text) * share + 2 or short == text


@given(st.lists(st.text(alphabet="abcdefgh", min_size=1, max_size=12), min_size=2, max_size=60))
def test_no_word_is_ever_cut(words):
    kept = shorten(" ".join(words), 0.5).removesuffix("…").split()
    assert kept == words[: len(kept)]
