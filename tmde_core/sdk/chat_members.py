"""Reads the members of a chat answer leniently: text, thought, log-probabilities, and the reason for its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tmde_core.records.chat import FinishReason, TokenAlternative, TokenLogprob
from tmde_core.sdk.lenient_json import as_list, as_number, as_object, as_text

__all__ = ["LEAST_LOGPROB", "calls_tool", "finish_reason", "objects", "read_logprobs", "text_and_thought"]

LEAST_LOGPROB = -9999.0
"""Replaces minus infinity, which JSON cannot express. vLLM uses the same number."""

_CUT = frozenset(
    {"length", "max_tokens", "max_completion_tokens", "max_output_tokens", "model_length", "token_limit", "max_length"}
)
_FILTERED = frozenset(
    {"content_filter", "content_filtered", "safety", "refusal", "blocklist", "prohibited_content", "recitation", "spii"}
)
_NO_REASON = frozenset({"", "null", "none", "undefined", "finish_reason_unspecified"})


def finish_reason(told: object) -> FinishReason | None:
    """Return why an answer ended, from a server's word for it; None if there is no word. Unknown words mean `stop`."""
    if not isinstance(told, str):
        return "stop" if told else None
    word = told.strip().lower().replace("-", "_").replace(" ", "_")
    if word in _NO_REASON:
        return None
    return "length" if word in _CUT else "content_filter" if word in _FILTERED else "stop"


_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
"""The members of a message that hold a thought. vLLM and DeepSeek: `reasoning_content`; newer vLLM, Groq, OpenRouter:
`reasoning` and `reasoning_details`; Ollama: `thinking`."""
_THOUGHT_PARTS = ("thinking", "reasoning", "thought", "reasoning.text", "reasoning.summary", "reasoning_text")
"""The types of parts that hold a thought. Mistral: `thinking`."""
_TEXT_PARTS = ("", "text", "output_text", "refusal")


def text_and_thought(message: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the text of a message or delta, and its thought by the member that holds the thought."""
    content = message.get("content")
    if isinstance(content, str) and content and len(message) <= 2 and message.keys() <= {"content", "role"}:
        return content, {}  # nearly every token
    text, thought = _content(content)
    if not text:
        text = as_text(message.get("refusal"))
    thoughts = {name: _thought(message[name]) for name in _THOUGHTS if name in message}
    if thought:
        thoughts["content"] = thought
    return text, {name: told for name, told in thoughts.items() if told}


def calls_tool(choice: Mapping[str, Any]) -> bool:
    """Return whether a choice, or a line of Ollama, calls a tool."""
    members = (as_object(choice.get(name)) for name in ("delta", "message"))
    return any(member.get("tool_calls") or member.get("function_call") for member in members)


def _content(content: object) -> tuple[str, str]:
    """Return text and thought of a message's content: a string, a part, or a list of parts."""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, int | float) and not isinstance(content, bool):
        return msgspec.json.encode(content).decode() if as_number(content) is not None else "", ""
    texts, thoughts = [], []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            texts.append(part)
            continue
        found = as_object(part)
        kind = as_text(found.get("type")).lower()
        if kind in _THOUGHT_PARTS:
            thoughts.append(_thought(found))
        elif kind in _TEXT_PARTS:
            texts.append(
                next((told for name in ("text", "content", "refusal") if (told := _plain(found.get(name)))), "")
            )
    return "".join(texts), "".join(thoughts)


def _thought(value: object) -> str:
    """Return the thought that a string, a part or a list of parts holds."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_thought(item) for item in value)
    names = ("thinking", "text", "reasoning", "reasoning_content", "summary", "content")
    found = as_object(value)
    return next((told for name in names if name in found and (told := _thought(found[name]))), "")


def _plain(value: object) -> str:
    """Return a part's text, which some servers wrap as `{"value": …}`."""
    return as_text(as_object(value).get("value")) if isinstance(value, dict) else as_text(value)


def read_logprobs(told: object) -> tuple[TokenLogprob, ...]:
    """Return the tokens of a `logprobs` member: `{"content": [...]}`, a bare list, or the older parallel lists."""
    if not told:
        return ()
    if isinstance(told, dict) and isinstance(told.get("tokens"), list):
        columns = (as_list(told.get(name)) for name in ("token_logprobs", "top_logprobs"))
        values, tops = columns
        told = [
            {"token": token, "logprob": _at(values, place), "top_logprobs": _at(tops, place)}
            for place, token in enumerate(told["tokens"])
        ]
    entries = told if isinstance(told, list) else as_list(as_object(told).get("content"))
    return tuple(_logprob(entry) for entry in objects(entries) if isinstance(entry.get("token"), str))


def _at(values: list[Any], place: int) -> Any:
    return values[place] if place < len(values) else None


def _logprob(entry: Mapping[str, Any]) -> TokenLogprob:
    top = entry.get("top_logprobs")
    if isinstance(top, dict):
        top = [{"token": token, "logprob": logprob} for token, logprob in top.items()]
    others = [other for other in objects(as_list(top)) if isinstance(other.get("token"), str)]
    return TokenLogprob(
        token=entry["token"],
        logprob=_natural(entry.get("logprob")),
        top=tuple(
            sorted(
                (TokenAlternative(token=other["token"], logprob=_natural(other.get("logprob"))) for other in others),
                key=lambda alternative: -alternative.logprob,
            )
        ),
    )


def _natural(value: object) -> float:
    logprob = as_number(value)
    return LEAST_LOGPROB if logprob is None else min(0.0, max(LEAST_LOGPROB, logprob))


def objects(value: object) -> list[dict[str, Any]]:
    """Return the objects among the items of an array, or the object itself; everything else is left out."""
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
