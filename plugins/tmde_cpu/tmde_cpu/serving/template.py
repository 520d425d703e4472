"""Write prompts in which the texts of a chat stay text, whatever a person types.

llama.cpp's chat endpoint renders the model's chat template and then reads control tokens anywhere in the result, also
in a question. Whoever types `<|im_end|>` would end the turn. A chat without such a text goes to the chat endpoint as it
is. Any other chat is rendered here with a stand-in for each control text, cut at the template's own control tokens, and
sent as token ids. Every piece is tokenised in the same way as within the whole prompt, so the ids of the two ways are
equal wherever the texts are.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tmde_core.sdk.chat_template import LOOKS_LIKE_CONTROL, THOUGHT_OPENS, close_thought, fit_messages, template_values
from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.gguf_header import PRE_TOKENIZER_KEY, read_header, read_marked_tokens
from tmde_core.sdk.runtimes import ChatRequest, Message

CONTROL, UNKNOWN, USER_DEFINED, NORMAL = 3, 2, 4, 1
"""llama.cpp's token types."""

HARMONY = frozenset({"<|start|>", "<|message|>", "<|channel|>", "<|constrain|>"})
"""The control tokens of gpt-oss that llama.cpp reads even in plain text, so a text that holds them is cut there."""

COMPOSED = frozenset({"qwen2", "qwen35"})
"""Values of `tokenizer.ggml.pre` whose tokenizers read composed letters (NFC). llama.cpp does not compose letters, so
decomposed text would become other tokens than in training."""

Ask = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""Sends a JSON body to a path of the model's server and returns the decoded answer."""


class Traits(msgspec.Struct, frozen=True):
    """What a model's chat template and vocabulary need."""

    control: Mapping[str, int]
    """Control text → token id."""
    pattern: re.Pattern[str] | None
    """Finds the control texts, the longest first; None: the vocabulary has none."""
    loose: frozenset[str]
    """The control texts that the server reads in any text, so that only cutting them keeps them text."""
    system: bool
    """Whether the template takes a system message."""
    alternates: bool
    """Whether the template refuses two messages of the same role in a row."""
    opens_thought: Mapping[bool | None, bool]
    """`ChatRequest.thinking` → whether the prompt ends inside a thought."""
    composed: bool
    """Whether texts are composed (NFC) before they are tokenised."""


class TokenPrompt(msgspec.Struct, frozen=True):
    """A prompt as token ids."""

    ids: list[int]
    in_thought: str
    """The tag by which the prompt opened a thought that the answer continues; empty: none."""


class ChatTemplate:
    """The chat template of one model file. Its traits are found with the first request."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._traits: Traits | None = None
        self._finding = asyncio.Lock()

    async def traits(self, ask: Ask) -> Traits:
        """Return the template's traits, found once by reading the vocabulary and trying the template."""
        async with self._finding:
            if self._traits is None:
                self._traits = await _find_traits(self._path, ask)
            return self._traits

    async def fit(self, request: ChatRequest, ask: Ask) -> ChatRequest:
        """Return the request with messages that the template accepts."""
        traits = await self.traits(ask)
        messages = request.messages
        if traits.composed:
            messages = tuple(Message(one.role, unicodedata.normalize("NFC", one.content)) for one in messages)
        messages = fit_messages(messages, system=traits.system, alternates=traits.alternates)
        return msgspec.structs.replace(request, messages=messages)

    async def needs_tokens(self, request: ChatRequest, ask: Ask) -> bool:
        """Return whether the chat endpoint would read a text of this fitted request as a control token, or think."""
        traits = await self.traits(ask)
        if request.thinking is False and traits.opens_thought[False]:
            return True
        pattern = traits.pattern
        return pattern is not None and any(pattern.search(message.content) for message in request.messages)

    async def tokens(self, request: ChatRequest, ask: Ask) -> TokenPrompt:
        """Return the prompt of a fitted request as token ids, with every text of the chat as plain text."""
        traits = await self.traits(ask)
        nonce = f"z{secrets.token_hex(8)}z"  # no template changes letters and digits, and no text contains it by chance
        hidden: list[str] = []

        def hide(found: re.Match[str]) -> str:
            hidden.append(found.group())
            return f"{nonce}{len(hidden) - 1}z"

        pattern = traits.pattern
        messages = [
            {"role": one.role, "content": pattern.sub(hide, one.content) if pattern else one.content}
            for one in request.messages
        ]
        rendered = await _render(ask, messages, request.thinking)
        opened = THOUGHT_OPENS.search(rendered)
        if opened and (request.thinking is False or request.json_schema is not None):
            # The template has no switch, or the answer must follow a schema from its first token: end the thought.
            rendered, opened = close_thought(rendered), None

        def reveal(text: str) -> str:
            return re.sub(rf"{nonce}(\d+)z", lambda found: hidden[int(found.group(1))], text)

        # An empty text comes first: the server adds a begin-of-sequence token to it if the model wants one.
        parts: list[str | int] = [""]
        place = 0
        for found in pattern.finditer(rendered) if pattern else ():
            parts += [*_plain(reveal(rendered[place : found.start()]), traits), traits.control[found.group()]]
            place = found.end()
        parts += _plain(reveal(rendered[place:]), traits)
        answer = await ask("/tokenize", {"content": parts, "add_special": True, "parse_special": False})
        return TokenPrompt(ids=list(answer["tokens"]), in_thought=opened.group().rstrip() if opened else "")


def template_fields(thinking: bool | None) -> dict[str, Any]:
    """Return the fields of a request with the values that the template gets besides the messages."""
    return {"chat_template_kwargs": template_values(thinking)}


def _plain(text: str, traits: Traits) -> list[str]:
    """Return the pieces of a plain text, cut so that the server finds no loose control text in it."""
    if not text:
        return []
    if not traits.loose or traits.pattern is None:
        return [text]
    pieces, place = [], 0
    for found in traits.pattern.finditer(text):
        if found.group() in traits.loose:
            pieces.append(text[place : found.start() + 1])
            place = found.start() + 1
    return [*pieces, text[place:]]


async def _find_traits(path: Path, ask: Ask) -> Traits:
    marked = await asyncio.to_thread(read_marked_tokens, path, _is_candidate)
    control, loose = {}, set()
    for token in marked:
        if token.kind in (CONTROL, UNKNOWN):
            control[token.text] = token.id
            if token.text in HARMONY:
                loose.add(token.text)
            continue
        # llama.cpp takes some ordinary tokens for control tokens by their text, so the server is asked.
        read, plain = [
            (await ask("/tokenize", {"content": token.text, "add_special": False, "parse_special": parsed}))["tokens"]
            for parsed in (True, False)
        ]
        if len(read) == 1:
            control[token.text] = read[0]
            if plain == read:
                loose.add(token.text)
    longest_first = sorted(control, key=len, reverse=True)
    user, twice = {"role": "user", "content": "Hello"}, [{"role": "user", "content": "Hello"}] * 2
    properties = await ask("/props", {})
    return Traits(
        control=control,
        pattern=re.compile("|".join(map(re.escape, longest_first))) if control else None,
        loose=frozenset(loose),
        system=bool(properties.get("chat_template_caps", {}).get("supports_system_role", True)),
        alternates=not await _accepts(ask, twice) and await _accepts(ask, [user]),
        opens_thought={one: await _opens_thought(ask, [user], one) for one in (None, True, False)},
        composed=read_header(path).metadata.get(PRE_TOKENIZER_KEY) in COMPOSED,
    )


def _is_candidate(kind: int, raw: bytes) -> bool:
    if kind in (CONTROL, UNKNOWN):
        return bool(raw)
    # The first comparison spares most of a hundred thousand ordinary tokens the slow one.
    framed = raw[:1] in (b"<", b"[") and raw[-1:] in (b">", b"]")
    return (
        framed and kind in (NORMAL, USER_DEFINED) and bool(LOOKS_LIKE_CONTROL.fullmatch(raw.decode("utf-8", "replace")))
    )


async def _render(ask: Ask, messages: Sequence[Mapping[str, str]], thinking: bool | None) -> str:
    rendered = await ask("/apply-template", {"messages": messages, **template_fields(thinking)})
    return str(rendered["prompt"])


async def _accepts(ask: Ask, messages: Sequence[Mapping[str, str]]) -> bool:
    try:
        await _render(ask, messages, None)
    except TmdeError as error:
        if error.context.get("status") is None:  # the server is gone, which says nothing about its template
            raise
        return False
    return True


async def _opens_thought(ask: Ask, messages: Sequence[Mapping[str, str]], thinking: bool | None) -> bool:
    if not await _accepts(ask, messages):
        return False
    return THOUGHT_OPENS.search(await _render(ask, messages, thinking)) is not None
