"""Thoughts are kept apart from answers, however they come."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.records.chat import ChatDelta, ChatEnd, TokenLogprob
from tmde_core.sdk.thoughts import AnswerReader, read_answer, split

SPLITS = {
    "a thought before the answer": ("<think>6 times 7</think>42", "6 times 7", "42"),
    "blank lines around": ("<think>\n6 times 7\n</think>\n\n42", "6 times 7", "42"),
    "an empty thought": ("<think>\n\n</think>\n\n42", "", "42"),
    "no opening tag": ("Okay, 6 times 7.\n</think>\n\n42", "Okay, 6 times 7.", "42"),
    "no opening tag, on one line": ("Okay. </think> It is 42.", "Okay.", "It is 42."),
    "no opening tag and no answer": ("Okay, 6 times 7.\n</think>\n", "Okay, 6 times 7.", ""),
    "no closing tag": ("<think>6 times 7 is", "6 times 7 is", ""),
    "an opening tag alone": ("<think>", "", ""),
    "capital letters": ("<THINK>a</Think>42", "a", "42"),
    "blanks in the tags": ("< think >a</ think >42", "a", "42"),
    "attributes": ('<think effort="high">a</think>42', "a", "42"),
    "thinking": ("<thinking>a</thinking>42", "a", "42"),
    "thought": ("<thought>a</thought>42", "a", "42"),
    "reasoning": ("<reasoning>a</reasoning>42", "a", "42"),
    "a name space": ("<seed:think>a</seed:think>42", "a", "42"),
    "brackets": ("[THINK]a[/THINK]42", "a", "42"),
    "triangles": ("◁think▷a◁/think▷42", "a", "42"),
    "Cohere's tags": ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>42<|END_RESPONSE|>", "a", "42"),
    "long tags": ("<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>42<|end_of_solution|>", "a", "42"),
    "channels": (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>", "a", "42",
    ),
    "channels cut within the analysis": ("<|channel|>analysis<|message|>6 times", "6 times", ""),
    "channels without their tags": ("analysisWe need 6*7.assistantfinal42", "We need 6*7.", "42"),
    "several thoughts": ("<think>a</think>It is <think>b</think>42", "a\n\nb", "It is 42"),
    "a thought within a thought": ("<think>a<think>b</think>c</think>42", "a<think>b\n\nc", "42"),
    "another tag within a thought": ("<think>a<reasoning>b</reasoning>c</think>42", "a<reasoning>b</reasoning>c", "42"),
    "tags of different names": ("<thinking>a</think>42", "a", "42"),
    "a thought that names its own tag": ("<think>I write <think> first.</think>42", "I write <think> first.", "42"),
    "a thought that quotes its end": ("<think>It ends with `</think>`. Good.</think>42", "It ends with `</think>`. Good.", "42"),
    "two closing tags": ("<think>a</think>\n</think>\n42", "a", "42"),
    "a closing tag after the answer": ("<think>a</think>42</think>", "a", "42"),
    "a second thought without its opening": ("<think>a</think>\nb\n</think>\n42", "a\n\nb", "42"),
    "an answer in tags": ("<think>a</think>\n<answer>\n42\n</answer>", "a", "42"),
    "a part of the answer in tags": ("<think>a</think><answer>4</answer> or 5", "a", "<answer>4</answer> or 5"),
    "a thought after a word": ("Hm <think>rest", "rest", "Hm "),
    "code marks in an unopened thought": ("So ```\nx = 1\n```\nthen\n</think>\n42", "So ```\nx = 1\n```\nthen", "42"),
    "an open block in an unopened thought": ("Try\n```\nx = 1\n</think>\n42", "Try\n```\nx = 1", "42"),
    "a thought that mentions the tag": ("<think>a</think>The <think> tag opens a thought.", "a", "The <think> tag opens a thought."),
}  # fmt: skip

TEXTS = [
    "The answer is 42.",
    "Qwen opens a thought with `<think>` and ends it with `</think>`.",
    "The prompt ends with `<think>\\n`.",
    "Example:\n\n```\n<think>\nreason\n</think>\nanswer\n```\n\nThat is all.",
    "It ends so:\n~~~\n</think>\n~~~\n",
    "Cut in the block:\n```xml\n<think>\nreason",
    'The tag "<think>" opens a thought, "</think>" ends it.',
    "The <think> tag opens a thought and the </think> tag ends it.",
    "Write \\<think>.",
    "`` <think>`x` ``",
    "a < b and b > c, <b>bold</b>, [1], <thinker>",
    "analysis is hard, assistantfinal",
    "Never write <|end|> yourself.",
    "",
]


@pytest.mark.parametrize(("text", "thought", "answer"), SPLITS.values(), ids=SPLITS.keys())
def test_the_thought_is_kept_apart_from_the_answer(text, thought, answer):
    found = split(text)
    assert (found.thought, found.answer.strip()) == (thought, answer.strip())


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_without_a_thought_stays_as_it_is(text):
    found = split(text)
    assert (found.thought, found.answer, found.unfinished) == ("", text, False)


@pytest.mark.parametrize("text", ["<think>6 times", "<think>", "<think>a</think>b\n<think>c", "Hm <think>rest"])
def test_a_thought_without_an_end_is_marked_as_unfinished(text):
    assert split(text).unfinished


PARTS = st.sampled_from(
    ["<think>", "</think>", "< THINK >", "</ think>", "<thinking>", "</thinking>", "<think/>", "`", "```", "```\n", "~~~\n", "\n",
     " ", "word", "a<b", '"', "<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant<|channel|>final<|message|>",
     "<answer>", "</answer>", "[THINK]", "[/THINK]", "analysisWe", "assistantfinal", "<thi", "nk>", "é", "."]
)  # fmt: skip
GRAMMAR = st.lists(PARTS, max_size=14).map("".join) | st.text(max_size=60)


@given(GRAMMAR)
def test_nothing_of_a_text_is_lost(text):
    assert "".join(segment.text for segment in split(text).segments) == text


@given(GRAMMAR, st.lists(st.integers(0, 200), max_size=12), st.sampled_from(["", "aside "]))
def test_any_cutting_into_pieces_gives_the_same_split(text, cuts, field):
    reader, text_shown, thought_shown = AnswerReader(), "", ""
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    changes = [reader.add(ChatDelta(thought=field))] if field else []
    changes += [reader.add(ChatDelta(text=text[start:end])) for start, end in pairwise(places)]
    changes.append(reader.end(ChatEnd(finish_reason="stop")))
    for change in changes:
        if change is not None:
            text_shown = change.text if change.whole else text_shown + change.text
            thought_shown = change.thought if change.whole else thought_shown + change.thought
    found, heard = split(text, after_thought=bool(field)), reader.heard()
    assert text_shown == heard.text == found.answer
    assert thought_shown.rstrip() == heard.thought == "\n\n".join(one for one in (field.strip(), found.thought) if one)


def test_an_ordinary_answer_is_shown_piece_by_piece_and_never_taken_back():
    reader = AnswerReader()
    pieces = ["First, ", "compare a ", "< b", " and then `x` ", "is <em>small", "</em>.\n"] * 20
    changes = [reader.add(ChatDelta(text=piece)) for piece in pieces]
    assert not any(change.whole for change in changes if change)
    assert sum(change is not None for change in changes) > 80


def test_a_thought_without_an_opening_tag_is_taken_back_when_its_end_comes():
    reader = AnswerReader()
    assert reader.add(ChatDelta(text="Okay, six times seven. I should compute. ")).text
    assert reader.add(ChatDelta(text="</thi")) is None
    change = reader.add(ChatDelta(text="nk>42"))
    assert change is not None
    assert (change.whole, change.text, change.thought) == (True, "42", "Okay, six times seven. I should compute.")


async def test_the_tokens_of_an_answer_are_those_after_the_thought():
    async def stream():
        yield ChatDelta(thought="Hm.", logprobs=(TokenLogprob(token="Hm", logprob=-1.0),))
        for text in ("<think>", "5", "</think>", "\n\n", "4", "."):
            yield ChatDelta(text=text, logprobs=(TokenLogprob(token=text, logprob=-0.5),))
        yield ChatEnd(finish_reason="stop")

    heard = await read_answer(stream())
    assert [token.token for token in heard.logprobs] == ["4", "."]
    assert (heard.text, heard.thought, heard.finish_reason) == ("4.", "Hm.\n\n5", "stop")
