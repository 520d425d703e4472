"""Rules for chat templates that training and serving share, so that both give a model the same prompt.

A chat template is a Jinja template that turns messages into the text that a model reads. Templates differ: some refuse
a system message, some refuse two user messages in a row, some open the model's thought. This module imports no library,
because training processes with their own environments use it too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from tmde_core.records.chat import Message

__all__ = [
    "BETWEEN",
    "LOOKS_LIKE_CONTROL",
    "TEMPLATE_DATE",
    "THOUGHT_OPENS",
    "close_thought",
    "fit_messages",
    "template_values",
]

_CONTROL_FORMS = (
    r"<\|[^<>|]+\|>",
    r"<｜[^<>｜]+｜>",
    r"<\|[^<>|]+>",
    r"<[^<>|]+\|>",
    r"</?s>",
    r"<(start|end)_of_turn>",
    r"<(bos|eos|eot|unk|pad)>",
    r"\[/?(INST|SYSTEM_PROMPT|EOT|EOS|BOS)\]",
)

BETWEEN = "\n\n"
"""Separates two texts that share a turn."""

LOOKS_LIKE_CONTROL = re.compile("|".join(_CONTROL_FORMS), re.IGNORECASE)
"""Texts that mark turns in known templates. Some models declare them as ordinary added tokens."""

THOUGHT_OPENS = re.compile(r"<(think|thinking|thought|reasoning)>\s*$")
"""The end of a prompt whose template has opened the model's thought, as DeepSeek R1's does."""

TEMPLATE_DATE = date(2024, 7, 26)
"""The date that templates with a date in their header get. It is the default of Llama 3's template. Today's date would
make the same examples other tokens tomorrow."""


def template_values(thinking: bool | None) -> dict[str, Any]:
    """Return the values that a template gets besides the messages. Templates ignore values that they do not know.

    Args:
        thinking: whether the model thinks before it answers; None: the template's own default.
    """
    values: dict[str, Any] = {"date_string": "26 Jul 2024"}
    return values if thinking is None else {**values, "enable_thinking": thinking, "thinking": thinking}


def fit_messages(messages: Sequence[Message], *, system: bool, alternates: bool) -> tuple[Message, ...]:
    """Return messages that a template accepts.

    A system message that the template refuses becomes the beginning of the first user message. Two messages of one role
    in a row become one if the template wants the roles to alternate.

    Args:
        messages: the conversation.
        system: whether the template takes a system message.
        alternates: whether the template refuses two messages of the same role in a row.
    """
    fitted: list[Message] = []
    instruction = ""
    for message in messages:
        role, content = message.role, message.content
        if role == "system" and not system:
            instruction = f"{instruction}{BETWEEN}{content}" if instruction else content
            continue
        if role == "user" and instruction:
            content, instruction = f"{instruction}{BETWEEN}{content}", ""
        if alternates and fitted and fitted[-1].role == role:
            fitted[-1] = Message(role=role, content=f"{fitted[-1].content}{BETWEEN}{content}")
        else:
            fitted.append(Message(role=role, content=content))
    if instruction:
        fitted.append(Message(role="user", content=instruction))
    return tuple(fitted)


def close_thought(prompt: str) -> str:
    """Return a prompt that ends outside a thought. A thought that the template opened is left empty."""
    opened = THOUGHT_OPENS.search(prompt)
    return f"{prompt.rstrip()}\n\n</{opened.group(1)}>\n\n" if opened else prompt
