"""Remembers which parts of a chat request a server refuses, and leaves them out of the next requests.

Servers with an OpenAI-style chat differ in the parameters that they take, and refuse the others with an error. The
error names the parameter, so the request is sent again without it:

- `max_tokens` becomes `max_completion_tokens`.
- A system message becomes the beginning of the first user message.
- Every other parameter of `OPTIONAL` is left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import msgspec

from tmde_core.errors import TmdeError
from tmde_core.records.chat import ChatItem
from tmde_core.sdk.chat_errors import Told, is_context_overflow, read_told

__all__ = ["MOST_REFUSALS", "OPTIONAL", "Refusals", "RefusedError", "ask_with_less", "fold_system"]

log = logging.getLogger(__name__)

OPTIONAL = (
    "stream_options",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    "response_format",
    "format",
    "chat_template_kwargs",
    "reasoning_effort",
    "think",
    "max_tokens",
    "max_completion_tokens",
    "cache_prompt",
    "truncate",
    "shift",
    "keep_alive",
)
"""The parameters that may be left out. Without one of them there is still an answer. An adapter is not among them: an
answer of the base model would be taken for the adapter's."""

MOST_REFUSALS = 12
"""How often one request is sent again with less."""
REFUSING = (400, 404, 415, 422, 500, 501)
"""The statuses with which servers refuse parameters. Chat templates that fail give 500."""
_MOST_VALUES = 64

_LIMITS = ("max_tokens", "max_completion_tokens")
_THINKING = ("chat_template_kwargs", "reasoning_effort", "think")
_THOUGHT = r"thinking\b|reasoning\b"
"""Every spelling of the switch is left out if an error names none of them: the model cannot choose to think."""
_TOGETHER = {"logprobs": ("logprobs", "top_logprobs"), "top_logprobs": ("logprobs", "top_logprobs")}

_OTHER_NAMES = {
    "response_format": r"response[ _]format|json[ _]?schema|structured outputs?|guided (decoding|json)|grammar",
    "format": r"json[ _]?schema|structured outputs?|grammar|invalid format",
    "stream_options": r"stream_options|include_usage",
    "logprobs": r"logprobs|log[ -]?prob(abilitie)?s",
    **dict.fromkeys(_THINKING, _THOUGHT),
}
"""Further words for a parameter in errors, besides its own name."""
_EVERYDAY = {"stop", "seed", "format", "think", "shift"}
"""Names that are also common words. Such a word counts only in quotation marks or beside "parameter" and the like."""

_UNKNOWN = re.compile(
    r"unsupported|not (be )?(supported|permitted|allowed|available|accepted|implemented|recogni[sz]ed|enabled)|n't (support|accept)"
    r"|not (support|accept)|unrecogni[sz]ed|unknown|unexpected|forbidden|extra (fields|inputs)|no such|deprecated|invalid (param|arg|field|name)|不支持|未知",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"must be|should be|range|between|greater|less than|at (least|most)|too (large|small|high|low|big|many|complex|deep)|maximum|minimum"
    r"|exceed|invalid (value|schema|format|json)|failed to parse|unsupported[ _]value|does not support [\d.]",
    re.IGNORECASE,
)
_ALTERNATIVES = re.compile(
    r"expected (one of|any of)|(allowed|valid|supported|known|accepted) (fields|params|parameters|arguments|values|keys|options)"
    r"|did you mean|\buse ['\"`]|instead use|['\"]input['\"]:",
    re.IGNORECASE,
)
"""What follows is what the server takes, or the whole request, and not what it refuses."""

_SYSTEM = re.compile(
    r"(system|developer)['\"`]?[ _-]*(role|message|prompt|instruction)|\broles?\b.{0,60}['\"`]?system|['\"`]system['\"`]",
    re.IGNORECASE | re.DOTALL,
)
_NEGATION = re.compile(
    r"\bnot\b|n't\b|\bno\b|unsupported|unknown|unexpected|invalid|unrecogni|refus|forbid|\bonly\b", re.IGNORECASE
)
_ROLES = re.compile(
    r"only user and assistant|should be ['\"]user['\"]|first message must (be|have)[^.]{0,20}\buser\b", re.IGNORECASE
)
_ALTERNATION = re.compile(r"roles? (must|should) alternate", re.IGNORECASE)
_SYSTEM_ALLOWED = re.compile(r"optional system", re.IGNORECASE)


class _Known(msgspec.Struct):
    """What is known of one model of the server."""

    left_out: set[str] = msgspec.field(default_factory=set)
    values: set[tuple[str, bytes]] = msgspec.field(default_factory=set)
    """Parameters that are refused with this value only."""
    renamed: bool = False
    """Whether `max_tokens` is sent as `max_completion_tokens`."""
    folded: bool = False
    """Whether system messages become a part of the first user message."""
    alternating: bool = False
    """Whether neighbouring messages of one role become one message."""


class Refusals:
    """What one server refuses, for each of its models. The memory lasts as long as this object."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def fit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request without what the server is known to refuse."""
        fitted = dict(body)
        known = self._known.get(_model(body))
        if known is None:
            return fitted
        if known.renamed and "max_tokens" in fitted:
            fitted["max_completion_tokens"] = fitted.pop("max_tokens")
        for name in list(fitted):
            if name in known.left_out or (name, _encoded(fitted[name])) in known.values:
                del fitted[name]
        if known.folded:
            fitted["messages"] = fold_system(fitted.get("messages") or [])
        if known.alternating:
            fitted["messages"] = _joined(fitted.get("messages") or [])
        return fitted

    def learn(self, body: Mapping[str, Any], status: int, content: bytes) -> bool:
        """Remember what the error says about the request. Return True if the next request will differ.

        Args:
            body: the request that was sent, as `fit` returned it.
            status: the HTTP status of the error.
            content: the body of the error.
        """
        if status not in REFUSING:
            return False
        told = read_told(content)
        if is_context_overflow(told):
            return False
        known = self._known.setdefault(_model(body), _Known())
        if self._learn_roles(known, body, told):
            log.info("The model %s takes no system message. It becomes a part of the first question.", _model(body))
            return True
        names = _refused(body, status, told)
        for name in names:
            self._learn(known, name, body[name], told)
        if names:
            log.info("The model %s refuses %s. It is asked without.", _model(body), ", ".join(names))
        return bool(names)

    @staticmethod
    def _learn(known: _Known, name: str, value: object, told: Told) -> None:
        if name == "max_tokens" and not known.renamed:
            known.renamed = True
        elif _only_value(told) and len(known.values) < _MOST_VALUES:
            known.values.add((name, _encoded(value)))
        else:
            known.left_out.add(name)

    @staticmethod
    def _learn_roles(known: _Known, body: Mapping[str, Any], told: Told) -> bool:
        roles = [message.get("role") for message in body.get("messages") or []]
        text = _complaint(told)
        alternation = _ALTERNATION.search(text) is not None
        if "system" in roles and not known.folded:
            refused = (_SYSTEM.search(text) and _NEGATION.search(text)) or _ROLES.search(text)
            named = any(name.startswith("messages") and "role" in name for name in told.params)
            if refused or named or (alternation and not _SYSTEM_ALLOWED.search(text)):
                known.folded = True
                return True
        if alternation and not known.alternating and any(one == two for one, two in pairwise(roles)):
            known.alternating = True
            return True
        return False


class RefusedError(Exception):
    """A server answered with an error status, before any part of an answer."""

    def __init__(self, status: int, content: bytes, error: TmdeError) -> None:
        super().__init__(str(error))
        self.status = status
        self.content = content
        self.error = error


async def ask_with_less(
    body: Mapping[str, Any],
    refusals: Refusals,
    ask: Callable[[dict[str, Any]], AsyncGenerator[ChatItem, None]],
) -> AsyncGenerator[ChatItem, None]:
    """Stream the items of `ask`. When it raises RefusedError, ask again without what the server refused.

    Args:
        body: the request.
        refusals: what the server is known to refuse. This function adds to it.
        ask: sends a request and streams its answer.

    Raises:
        TmdeError: the error of the last RefusedError, if leaving something out does not help.
    """
    for left in reversed(range(MOST_REFUSALS + 1)):
        fitted = refusals.fit(body)
        try:
            async with aclosing(ask(fitted)) as items:
                async for item in items:
                    yield item
            return
        except RefusedError as refused:
            if not left or not refusals.learn(fitted, refused.status, refused.content):
                raise refused.error from None


def fold_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with every system text at the beginning of the first user message, after a blank line."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    others = [dict(message) for message in messages if message["role"] != "system"]
    if not system:
        return others
    for message in others:
        if message["role"] == "user":
            message["content"] = f"{system}\n\n{message['content']}"
            return others
    return [{"role": "user", "content": system}, *others]


def _joined(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    joined: list[dict[str, Any]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1] = {**joined[-1], "content": f"{joined[-1]['content']}\n\n{message['content']}"}
        else:
            joined.append(dict(message))
    return joined


def _refused(body: Mapping[str, Any], status: int, told: Told) -> list[str]:
    """Return the parameters of the request that the error refuses."""
    present = [name for name in OPTIONAL if name in body]
    named = {re.split(r"[.\[]", name)[0] for name in told.params}
    named.update(re.findall(r"loc['\"]?: ?[(\[]['\"]body['\"], ?['\"](\w+)['\"]", told.message))
    named.update(re.findall(r"struct field [\w.]*?(\w+) of type", told.message))  # Go's words for a wrong type
    text = _complaint(told)
    found = [name for name in present if name in named]
    if not found and (status < 500 or _UNKNOWN.search(text) or _VALUE.search(text)):
        before = _ALTERNATIVES.split(text)[0]
        found = [name for name in present if re.search(_own_name(name), before, re.IGNORECASE)] or [
            name for name in present if name in _OTHER_NAMES and re.search(_OTHER_NAMES[name], before, re.IGNORECASE)
        ]
    together = [other for name in found for other in _TOGETHER.get(name, (name,))]
    return [name for name in dict.fromkeys(together) if name in body and not _is_limit(name, told)]


def _is_limit(name: str, told: Told) -> bool:
    """Return whether only the size of the token limit is refused. Without a limit the answer could be endless."""
    if name not in _LIMITS:
        return False
    text = _complaint(told)
    if _VALUE.search(text):
        return True
    other = name == "max_tokens" and "max_completion_tokens" in text
    return not other and not _UNKNOWN.search(text)


def _only_value(told: Told) -> bool:
    text = _complaint(told)
    return _VALUE.search(text) is not None and not re.search(r"only the default|unsupported param", text, re.IGNORECASE)


def _own_name(name: str) -> str:
    """Return a pattern for the parameter's own name in an error."""
    if name not in _EVERYDAY:
        return rf"(?<![\w-]){re.escape(name)}(?![\w-])"
    return (
        rf"['\"`]{name}['\"`]|\b(parameter|param|field|argument|option|key|value|supplied):? {name}\b"
        rf"|\b{name} (parameter|param|field|argument|option|value|is not|not supported)|: *{name}$"
    )


def _complaint(told: Told) -> str:
    """Return what the error says, with a code such as `unsupported_value`; the type alone says "invalid" of all."""
    code = told.code.replace("_", " ").lower()
    return f"{code} {told.message}" if code.startswith(("unsupported", "unknown")) else told.message


def _model(body: Mapping[str, Any]) -> str:
    return str(body.get("model") or "")


def _encoded(value: object) -> bytes:
    return msgspec.json.encode(value)
