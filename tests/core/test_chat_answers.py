"""Whatever surrounds an answer may be odd; the answer stays whole."""

from __future__ import annotations

import contextlib
import copy
import json
from codecs import BOM_UTF8
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.errors import RuntimeTimeoutError, TmdeError, WorkerFailedError
from tmde_core.records.chat import ChatDelta, ChatEnd, ChatItem
from tmde_core.sdk.chat_answers import ChatReader
from tmde_core.sdk.chat_members import LEAST_LOGPROB, finish_reason, read_logprobs, text_and_thought

DONE = b"data: [DONE]\n\n"


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def delta(content: object, **more: Any) -> dict[str, Any]:
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": content, "tool_calls": None}, "logprobs": None,
                         "finish_reason": None, **more}], "usage": None}  # fmt: skip


def finish(reason: object = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def read(*blocks: bytes, limit: int | None = None) -> list[ChatItem]:
    reader = ChatReader("the test server", limit=limit)
    items: list[ChatItem] = []
    for block in blocks:
        items += reader.feed(block)
        if reader.done:
            break
    return [*items, *reader.close()]


def told(items: list[ChatItem]) -> tuple[str, str, ChatEnd]:
    """Text, thought and end."""
    end = items[-1]
    assert isinstance(end, ChatEnd)
    deltas = [item for item in items if isinstance(item, ChatDelta)]
    assert len(deltas) == len(items) - 1
    return "".join(item.text for item in deltas), "".join(item.thought for item in deltas), end


GOOD = (event(delta("Hel")), event(delta("lo")), event(finish()), DONE)

ODD_STREAMS: dict[str, tuple[bytes, ...]] = {
    "data null": (GOOD[0], b"data: null\n\n", *GOOD[1:]),
    "data empty": (b"data:\n\n", *GOOD),
    "data words": (b"data: ping\n\n", b'data: "ping"\n\n', b"data: 5\n\n", b"data: []\n\n", b"data: [null]\n\n", *GOOD),
    "choices null": (event({"choices": None}), event({"choices": []}), event({"choices": [None]}), event({"choices": 5}), *GOOD),
    "choices missing": (event({}), event({"model": None}), event({"choices": [{}]}), *GOOD),
    "delta null": (event({"choices": [{"delta": None}]}), event({"choices": [{"delta": 5.5, "index": 1}]}), *GOOD),
    "null beside a choice": (event({"choices": [None, delta("Hel")["choices"][0]]}), *GOOD[1:]),
    "one choice without a list": (event({"choices": delta("Hel")["choices"][0]}), *GOOD[1:]),
    "no index": (event({"choices": [{"delta": {"content": "Hel"}}]}), *GOOD[1:]),
    "index as text": (event({"choices": [{"index": "0", "delta": {"content": "Hel"}}]}), *GOOD[1:]),
    "several choices": (event({"choices": [{"index": 1, "delta": {"content": "X"}}, {"index": 0, "delta": {"content": "Hel"}}]}),
                        event({"choices": [{"index": 1, "delta": {"content": "X"}}]}), *GOOD[1:]),
    "done with blanks": (*GOOD[:3], b"data:   [DONE]  \n\n"),
    "done small": (*GOOD[:3], b"data: [done]\n\n"),
    "done quoted": (*GOOD[:3], b'data: "[DONE]"\n\n'),
    "nothing after done": (*GOOD, event(delta("never"))),
    "no done": GOOD[:3],
    "no finish": (*GOOD[:2], DONE),
    "no end at all": GOOD[:2],
    "no last blank line": (*GOOD[:2], GOOD[2].rstrip(b"\n")),
    "one line per event": tuple(part.replace(b"\n\n", b"\n") for part in GOOD),
    "CR": tuple(part.replace(b"\n", b"\r") for part in GOOD),
    "CRLF": tuple(part.replace(b"\n", b"\r\n") for part in GOOD),
    "byte order mark": (BOM_UTF8, *GOOD),
    "blank lines first": (b"\n\n \r\n", *GOOD),
    "comments and events": (b": hello\n\nevent: message\nid: 1\nretry: 5\n", GOOD[0], b": ping\n\n", *GOOD[1:]),
    "no blank after data": tuple(part.replace(b"data: ", b"data:") for part in GOOD),
    "field in capitals": tuple(part.replace(b"data: ", b"Data : ") for part in GOOD),
    "an event called error without an error": (b"event: error\ndata: null\n\n", b"event: error\n", *GOOD),
    "error null": (event({**delta("Hel"), "error": None}), *GOOD[1:]),
    "error empty": (event({**delta("Hel"), "error": ""}), event({**delta("lo"), "error": {}}), event({"error": False}), *GOOD[2:]),
    "error of nulls": (event({**delta("Hel"), "error": {"message": None, "code": None}}), *GOOD[1:]),
    "error after the end": (*GOOD[:3], event({"error": {"message": "cannot count"}}), DONE),
    "damage after the end": (*GOOD[:3], b'data: {"usage": {"prompt_to\n\n'),
    "events within events": tuple(part.replace(b"data: ", b"data: data: ") for part in GOOD),
    "error of success": (event({**delta("Hel"), "error": {"code": 200, "message": "ok"}}), event({**delta("lo"), "error": "null"}), *GOOD[2:]),
    "lines of JSON": tuple(part.removeprefix(b"data: ").replace(b"\n\n", b"\n") for part in GOOD[:3]),
    "lines of JSON with a last word": (*(part.removeprefix(b"data: ").replace(b"\n\n", b"\n") for part in GOOD[:3]), b"[DONE]\n"),
    "a line of JSON before the events": (b'{"status": "queued"}\n', *GOOD),
    "a list of chunks": (json.dumps([delta("Hel"), delta("lo"), finish()]).encode(),),
    "a whole answer": (json.dumps({"choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]}).encode(),),
    "a whole answer in lines": (json.dumps({"choices": [{"message": {"content": "Hello"}}]}, indent=2).encode(),),
    "a whole answer as an event": (event({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}),),
    "a whole answer after the parts": (*GOOD[:2], event({"choices": [{"delta": {}, "message": {"content": "Hello"}, "finish_reason": "stop"}]})),
    "legacy text": (event({"choices": [{"text": "Hel"}]}), event({"choices": [{"text": "lo", "finish_reason": "stop"}]})),
    "text beside the delta": (event(delta("Hel", text="Hel")), event(delta("lo", text="Hello")), *GOOD[2:]),
    "content of parts": (event(delta([{"type": "text", "text": "Hel"}, "lo", None, 5])), *GOOD[2:]),
    "content as a part": (event(delta({"type": "text", "text": "Hel"})), event(delta({"text": {"value": "lo"}})), *GOOD[2:]),
    "role only": (event(delta(None)), event(delta("")), event({"choices": [{"delta": {"role": 5}}]}), *GOOD),
    "two ends": (*GOOD[:3], event(finish()), event(finish()), DONE),
    "text after the end": (GOOD[0], event(finish()), GOOD[1], DONE),
    "an end in every event": (event(delta("Hel", finish_reason="stop")), event(delta("lo", finish_reason="stop")), DONE),
    "an unknown end": (*GOOD[:2], event(finish("eos_token")), DONE),
    "an end that is no word": (*GOOD[:2], event(finish({"type": "stop"})), DONE),
    "NaN": (b'data: {"choices":[{"delta":{"content":"Hel"}}],"timings":{"prompt_ms":NaN,"predicted_ms":-Infinity},"x":Infinity}\n\n', *GOOD[1:]),
    "numbers of a thousand digits": (b'data: {"choices":[{"delta":{"content":"Hel"}}],"usage":{"prompt_tokens":' + b"9" * 5000 + b"}}\n\n", *GOOD[1:]),
    "odd usage": (event({**delta("Hel"), "usage": {"prompt_tokens": "many", "completion_tokens": -5, "prompt_tokens_details": [1]}}), *GOOD[1:]),
    "usage as a list": (event({**delta("Hel"), "usage": [1, 2], "timings": "fast", "model": 5}), *GOOD[1:]),
    "odd log-probabilities": (event(delta("Hel", logprobs=[1])), event(delta("lo", logprobs={"content": "x"})), *GOOD[2:]),
    "a name twice": (b'data: {"choices":null,"choices":[{"delta":{"content":"Hel"}}]}\n\n', *GOOD[1:]),
    "a control character": (b'data: {"choices":[{"delta":{"content":"Hel"}}],"x":"\x01\t"}\n\n', *GOOD[1:]),
    "bytes that are no text": (b'data: {"choices":[{"delta":{"content":"Hel"}}],"x":"\xff"}\n\n', *GOOD[1:]),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_STREAMS)
def test_an_odd_stream_gives_the_whole_answer(name: str) -> None:
    text, thought, end = told(read(*ODD_STREAMS[name]))
    assert (text, thought) == ("Hello", "") or (name, text) == ("content of parts", "Hello")
    assert end.finish_reason == "stop"


@pytest.mark.parametrize("name", ODD_STREAMS)
def test_every_cut_of_an_odd_stream_gives_the_same_items(name: str) -> None:
    whole = b"".join(ODD_STREAMS[name])
    step = 1 if len(whole) < 4000 else 97
    assert read(*(whole[i : i + step] for i in range(0, len(whole), step))) == read(whole)


@pytest.mark.parametrize(
    ("tail", "says"),
    [
        ((event({"error": {"message": "boiler burst"}}),), "boiler burst"),
        ((event({"error": "boiler burst"}),), "boiler burst"),
        ((event({"error": True}),), "HTTP 500"),
        ((event({"object": "error", "message": "boiler burst", "code": 500}),), "boiler burst"),
        ((event({"type": "error", "error": {"message": "boiler burst"}}),), "boiler burst"),
        ((b"event: error\n", event({"message": "boiler burst"})), "boiler burst"),
        ((b"event: error\n", b"data: boiler burst\n\n"), "boiler burst"),
        ((b'error: {"code": 500, "message": "boiler burst"}\n\n',), "boiler burst"),
        ((b'{"error": {"message": "boiler burst"}}\n',), "boiler burst"),
        ((event(finish("abort")),), "broke off"),
        ((event(finish("error")),), "broke off"),
        ((b'data: {"choices": [{"delta": {"cont\n\n',), "no chat event"),
    ],
)  # fmt: skip
def test_an_error_amid_the_answer_is_an_error(tail: tuple[bytes, ...], says: str) -> None:
    with pytest.raises(WorkerFailedError, match=says):
        read(GOOD[0], *tail)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "did not answer with a stream"),
        (b"\n\n\n", "did not answer with a stream"),
        (b"<html><body>Welcome</body></html>", "did not answer with a stream. It sent a page of HTML"),
        (b"It works!", "It said: It works!"),
        (b'{"choices": []}', "did not answer with a stream"),
        (b'{"status": "ok"}', "did not answer with a stream"),
        (b'{"detail": "wrong path"}', "wrong path"),
        (b'{"error": "boiler burst"}', "boiler burst"),
        (b'{"choices": [{"message": {"content": "cut', "no chat event"),
        (DONE, "before it was finished"),
        (event(delta("")), "before it was finished"),
        (event({"choices": [{"delta": {"reasoning": "hm"}}]}), "before it was finished"),
        (b": ping\n\n", "did not answer"),
    ],
)
def test_what_holds_no_answer_is_an_error(body: bytes, says: str) -> None:
    with pytest.raises(WorkerFailedError, match=says):
        read(body)


def test_lines_of_json_are_told_as_they_come() -> None:
    reader = ChatReader("the test server")
    assert list(reader.feed(GOOD[0].removeprefix(b"data: "))) == [ChatDelta(text="Hel")]


def test_an_error_with_a_status_keeps_its_meaning() -> None:
    with pytest.raises(RuntimeTimeoutError):
        read(event({"error": {"message": "too slow", "code": "504"}}))


def test_an_answer_of_nothing_that_was_finished_is_an_answer() -> None:
    assert told(read(event(finish()), DONE))[0] == ""


# ------------------------------------------------------------------------------------------- thoughts


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"thinking": "hm"},
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm", "format": None}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}, {"type": "reasoning.encrypted", "data": "x"}]},
        {"reasoning": None, "reasoning_content": "hm"},
        {"reasoning": {"content": "hm"}},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True}]},
        {"content": [{"type": "thinking", "thinking": "hm"}]},
        {"content": [{"type": "reasoning", "text": "hm"}]},
        {"content": [{"type": "reasoning", "summary": [{"text": "hm"}]}]},
    ],
)  # fmt: skip
def test_a_thought_is_told_apart_in_every_dialect(message: dict[str, Any]) -> None:
    stream = (event({"choices": [{"delta": message}]}), event(delta("Four.")), event(finish()))
    assert told(read(*stream))[:2] == ("Four.", "hm")
    whole = {"choices": [{"message": {"content": "Four.", **message}, "finish_reason": "stop"}]}
    text, thought, _ = told(read(json.dumps(whole).encode()))
    assert thought == "hm"
    assert text in ("Four.", "" if isinstance(message.get("content"), list) else "Four.")


def test_a_thought_that_is_repeated_whole_at_the_end_is_not_doubled() -> None:
    stream = (
        event({"choices": [{"delta": {"reasoning": "h"}}]}),
        event({"choices": [{"delta": {"reasoning": "m"}}]}),
        event(delta("Four.")),
        event({"choices": [{"delta": {"reasoning_details": [{"text": "hm"}]}, "finish_reason": "stop"}]}),
    )
    assert told(read(*stream))[:2] == ("Four.", "hm")


def test_tags_in_the_text_are_left_to_the_core() -> None:
    assert told(read(event(delta("<think>hm</think>Four.")), DONE))[:2] == ("<think>hm</think>Four.", "")


def test_a_refusal_in_words_is_the_answer() -> None:
    assert text_and_thought({"content": None, "refusal": "I cannot."}) == ("I cannot.", {})


# ---------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("told_reason", "expected"),
    [
        ("stop", "stop"), ("length", "length"), ("max_tokens", "length"), ("MAX_TOKENS", "length"), ("model_length", "length"),
        ("content_filter", "content_filter"), ("content-filter", "content_filter"), ("SAFETY", "content_filter"),
        ("tool_calls", "stop"), ("end_turn", "stop"), ("whatever", "stop"), (True, "stop"), (7, "stop"),
        (None, None), ("", None), ("null", None), (0, None), (False, None), ({}, None),
    ],
)  # fmt: skip
def test_the_reason_for_the_end_is_one_of_three(told_reason: object, expected: str | None) -> None:
    assert finish_reason(told_reason) == expected


def test_a_cut_is_remembered_though_a_plain_end_follows() -> None:
    assert told(read(GOOD[0], event(finish("length")), event(finish("stop")), DONE))[2].finish_reason == "length"


def test_an_unexplained_end_at_the_token_limit_is_a_cut() -> None:
    usage = {"choices": [], "usage": {"completion_tokens": 2}}
    assert told(read(GOOD[0], GOOD[1], event(usage), DONE, limit=2))[2].finish_reason == "length"
    assert told(read(GOOD[0], GOOD[1], event(usage), DONE, limit=3))[2].finish_reason == "stop"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 32.0, "completion_tokens": "2"}, (32, 2)),
        ({"prompt_tokens": 10**30, "completion_tokens": -2}, (0, 0)),
        ({"prompt_tokens": None, "completion_tokens": True}, (0, 0)),
        ({"prompt_tokens": [32], "completion_tokens": {}}, (0, 0)),
    ],
)
def test_counts_are_read_or_unknown(usage: dict[str, Any], expected: tuple[int, int]) -> None:
    end = told(read(*GOOD[:3], event({"choices": [], "usage": usage}), DONE))[2]
    assert (end.prompt_tokens, end.completion_tokens) == expected


def test_an_odd_count_does_not_replace_a_good_one() -> None:
    good, odd = ({"choices": [], "usage": {"completion_tokens": count}} for count in (2, None))
    assert told(read(*GOOD[:3], event(good), event(odd), event({"usage": None}), DONE))[2].completion_tokens == 2


# ------------------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize(
    "value",
    [
        {"content": [{"token": "4", "logprob": -0.5, "top_logprobs": [{"token": "5", "logprob": -2}, {"token": "4", "logprob": -0.5}]}]},
        {"content": [{"token": "4", "logprob": -0.5, "bytes": None, "top_logprobs": {"4": -0.5, "5": -2.0}}, {"token": None}, None]},
        [{"token": "4", "logprob": "-0.5", "top_logprobs": [{"token": "5", "logprob": -2}, None, 7, {"token": "4", "logprob": -0.5}]}],
        {"tokens": ["4"], "token_logprobs": [-0.5], "top_logprobs": [{"4": -0.5, "5": -2.0}], "text_offset": [0]},
    ],
)  # fmt: skip
def test_log_probabilities_are_read_in_every_shape_the_likeliest_first(value: object) -> None:
    (token,) = read_logprobs(value)
    assert (token.token, token.logprob) == ("4", -0.5)
    assert [(other.token, other.logprob) for other in token.top] == [("4", -0.5), ("5", -2.0)]


@pytest.mark.parametrize("value", [None, float("nan"), "low", [], True, float("-inf")])
def test_a_log_probability_that_is_no_number_is_the_least(value: object) -> None:
    assert read_logprobs({"content": [{"token": "a", "logprob": value}]})[0].logprob == LEAST_LOGPROB


# ------------------------------------------------------------------------------------- any nonsense

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
nonsense = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6)  # fmt: skip

BESIDE = (
    ("id",), ("object",), ("created",), ("model",), ("usage",), ("timings",), ("system_fingerprint",), ("x_groq",),
    ("choices", 0, "logprobs"), ("choices", 0, "stop_reason"), ("choices", 0, "token_ids"), ("choices", 0, "usage"),
    ("choices", 0, "delta", "role"), ("choices", 0, "delta", "tool_calls"), ("choices", 0, "delta", "function_call"),
    ("choices", 0, "delta", "audio"), ("choices", 0, "message"), ("choices", 0, "text"),
    ("usage", "prompt_tokens"), ("usage", "completion_tokens"), ("usage", "prompt_tokens_details"), ("timings", "predicted_ms"),
)  # fmt: skip
"""The members of an event that are not the answer itself. `finish_reason`, `error` and `index` mean something."""


def spoilt(chunk: dict[str, Any], path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    changed = copy.deepcopy(chunk)
    place: Any = changed
    for step, following in pairwise(path):
        wanted = list if isinstance(following, int) else dict
        if isinstance(place, dict) and not isinstance(place.get(step), wanted):
            place[step] = {}
        place = place[step]
    place[path[-1]] = value
    return changed


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(BESIDE), nonsense), max_size=8), st.data())
def test_nonsense_beside_the_answer_leaves_the_answer_whole(
    changes: list[tuple[int, tuple[str | int, ...], object]], data: st.DataObject
) -> None:
    chunks = [delta("Hel"), delta("lo"), delta("", finish_reason="length")]
    for which, path, value in changes:
        chunks[which] = spoilt(chunks[which], path, value)
    stream = b"".join(map(event, chunks)) + DONE
    text, thought, end = told(read(stream))
    assert (text, thought, end.finish_reason) == ("Hello", "", "length")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    blocks = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(*blocks) == read(stream)


@given(st.lists(nonsense | st.fixed_dictionaries({"choices": nonsense}), max_size=4))
def test_events_of_nonsense_between_the_pieces_change_nothing_or_are_an_error(values: list[object]) -> None:
    events = b"".join(map(event, values))
    try:
        text, _, _ = told(read(GOOD[0], events, *GOOD[1:]))
    except TmdeError:
        assert any(
            isinstance(value, dict) and {"error", "object", "type", "choices"} & value.keys() for value in values
        )
    else:
        assert text.startswith("Hel")
        assert text.endswith("lo")


@given(st.binary(max_size=300))
def test_any_bytes_end_in_an_answer_or_an_error_of_ours(body: bytes) -> None:
    with contextlib.suppress(TmdeError):
        told(read(body))
