"""Turn conversations into tokens as the runtime does: the template's control tokens are tokens, texts are text.

Private: import from `tmde_core.sdk.worker`. `ConversationEncoder.prompt` returns the tokens that the model reads before
it answers. Whatever stands in a question or an answer is encoded as plain text, also the name of a control token. The rules for templates are those of
`tmde_core.sdk.chat_template`, which the runtime follows too. This module imports no library: it uses the tokenizer that
it is given.
"""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

from tmde_core.records.chat import Message
from tmde_core.records.training import TrainingExample
from tmde_core.sdk.chat_template import (
    LOOKS_LIKE_CONTROL,
    TEMPLATE_DATE,
    close_thought,
    fit_messages,
    template_values,
)
from tmde_core.sdk.worker.examples import UnusableExampleError
from tmde_core.sdk.worker.kit import TrainingFailedError

__all__ = ["IGNORED", "ConversationEncoder", "EncodedExample"]

IGNORED = -100
"""The label of a token that is not trained on, in PyTorch's cross entropy."""

STOP_NAMES = frozenset(
    {
        "</s>",
        "<|im_end|>",
        "<|end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|eot|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_turn>",
        "<turn|>",
        "<|return|>",
        "<|call|>",
        "<|end_of_turn|>",
        "<|END_OF_TURN_TOKEN|>",
        "<｜end▁of▁sentence｜>",
        "<eos>",
        "<EOT>",
    }
)
"""Tokens at which llama.cpp ends an answer in addition to the model's own end token, whatever the model declares."""

LOOSE_NAMES = frozenset({"<|start|>", "<|message|>", "<|channel|>", "<|constrain|>"})
"""Control tokens that llama.cpp treats as ordinary added tokens."""

PRIVATE = "\U0010fffd"
"""Encloses the names that control tokens have in the tokenizer's copy."""

CUT = "cut"

_CLOCK = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


@dataclass(frozen=True)
class EncodedExample:
    """One conversation as tokens. `tokens[answer_start:]` is the answer with the end of its turn, which is trained on."""

    tokens: tuple[int, ...]
    """Prompt and answer."""
    answer_start: int
    """The place of the answer's first token."""
    trace_id: str
    """The trace that the example comes from."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def supervised(self) -> int:
        """The number of tokens that are trained on."""
        return len(self.tokens) - self.answer_start

    @property
    def labels(self) -> tuple[int, ...]:
        """A label for each token: `IGNORED` for the prompt, and the token itself for the answer."""
        return (IGNORED,) * self.answer_start + self.tokens[self.answer_start :]


class ConversationEncoder:
    """Encodes conversations for one model."""

    def __init__(self, tokenizer: Any) -> None:
        """Examine the tokenizer and its chat template.

        Args:
            tokenizer: a tokenizer of transformers that is built on the library `tokenizers`.

        Raises:
            TrainingFailedError: the template accepts no conversation.
        """
        self._tokenizer = tokenizer
        self._template = _template(tokenizer)
        # Nobody can type what nobody knows. Letters alone, because some templates look for digits.
        self._nonce = "".join(secrets.choice(ascii_lowercase) for _ in range(16))
        self._stand_ins = re.compile(self._name(r"\d+h"))
        described = json.loads(tokenizer.backend_tokenizer.to_str())
        self._control = _control_tokens(described)
        longest_first = sorted(self._control, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._special = {added["content"] for added in described["added_tokens"] if added["special"]}
        self._plain, self._ids = self._without_control(described)
        self._bos = tokenizer.bos_token if tokenizer.init_kwargs.get("add_bos_token") is True else None
        self._find_traits()

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens that the model reads before it answers without thinking.

        Raises:
            UnusableExampleError: the template refuses the conversation.
        """
        return tuple(self._encoded(*self._prompt(messages)))

    def encode(self, example: TrainingExample) -> EncodedExample:
        """Encode one conversation. The answer and the end of its turn are trained on.

        Raises:
            UnusableExampleError: the template refuses the conversation, or the vocabulary cannot write the answer.
        """
        *asked, answer = example.messages
        text = answer.content.strip()
        prompt, hidden = self._prompt(asked)
        between, end = self._around_answer(asked)
        header, lead = ("", between) if not between.strip() else (between, "")
        read = self._encoded(prompt + header, hidden)
        said, hidden_in_answer = self._hide(text, len(hidden))
        everything = {**hidden, **hidden_in_answer}
        whole = self._encoded(prompt + header + lead + said + end, everything)
        # The answer's beginning may merge with the prompt's end. The model has read the whole prompt before it answers.
        merged = whole[: len(read)] != read
        learned = self._continued(lead + said + end, everything) if merged else whole[len(read) :]
        learned = self._ended(learned)
        self._check(learned, text + (self._pattern.sub("", end) if self._pattern else end))
        return EncodedExample((*read, *learned), len(read), example.trace_id)

    # ------------------------------------------------------------------------------------ rendering

    def _find_traits(self) -> None:
        question, instruction = Message("user", self._name("q")), Message("system", self._name("s"))
        try:
            shown = question.content in self._render([question])
        except UnusableExampleError as error:
            raise TrainingFailedError(
                "chat-template", f"{error.detail} Not even one question can be asked. Choose another base model."
            ) from None
        if not shown:
            raise TrainingFailedError(
                "chat-template", "The base model's chat template leaves out the question. Choose another base model."
            )
        self._system = self._shows([instruction, question])
        self._alternates = not self._shows([question, Message("user", self._name("r"))])

    def _shows(self, messages: Sequence[Message]) -> bool:
        """Return whether the template accepts the messages and shows the text of each."""
        try:
            rendered = self._render(messages)
        except UnusableExampleError:
            return False
        return all(message.content in rendered for message in messages)

    def _prompt(self, messages: Sequence[Message]) -> tuple[str, dict[str, str]]:
        """Return the rendered prompt, and the texts that its stand-ins hide."""
        hidden: dict[str, str] = {}
        fitted = []
        for message in fit_messages(messages, system=self._system, alternates=self._alternates):
            content, found = self._hide(message.content, len(hidden))
            hidden |= found
            fitted.append(Message(message.role, content))
        rendered = close_thought(self._render(fitted))
        if self._bos and not rendered.startswith(self._bos):
            rendered = self._bos + rendered
        return rendered, hidden

    def _around_answer(self, asked: Sequence[Message]) -> tuple[str, str]:
        """Return the template's text between prompt and answer, and after the answer up to where generation stops.

        The text between is empty unless the whole conversation begins with the prompt. Templates that show a past
        answer in another form, without its thought, do not.
        """
        stand_in = self._name("a")
        messages = [
            Message(message.role, self._hide(message.content, 1000 * place)[0])
            for place, message in enumerate(fit_messages(asked, system=self._system, alternates=self._alternates))
        ]
        whole = self._render([*messages, Message("assistant", stand_in)], answered=True)
        before, found, after = whole.rpartition(stand_in)
        if not found:
            raise UnusableExampleError("The model's chat template leaves out the answer.")
        return self._between(messages, before), self._end(after)

    def _between(self, messages: Sequence[Message], before: str) -> str:
        prompt = self._render(messages)
        if not before.startswith(prompt) or close_thought(prompt) != prompt:
            return ""
        between = before[len(prompt) :]
        # An empty thought in a past turn is no part of what the model reads or writes now.
        return "" if re.search(r"</(think|thinking|thought|reasoning)>", between) else between

    def _end(self, after: str) -> str:
        """Return the beginning of what follows the answer, up to the control token at which generation stops."""
        controls = list(self._pattern.finditer(after)) if self._pattern else []
        stops = STOP_NAMES | {self._tokenizer.eos_token}
        for found in controls:
            if found.group() in stops:
                return after[: found.end()]
        return after[: controls[0].end()] if controls else ""

    def _render(self, messages: Sequence[Message], *, answered: bool = False) -> str:
        try:
            rendered = self._tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.content} for message in messages],
                tokenize=False,
                add_generation_prompt=not answered,
                chat_template=self._template,
                **template_values(thinking=False),
            )
        except Exception as error:  # a template is a program of the model's makers, and may fail in any way
            said = " ".join(str(error).split())[:200].rstrip(".")
            raise UnusableExampleError(f"The model's chat template refuses the conversation: {said}.") from None
        return str(rendered)

    # ------------------------------------------------------------------------------------- encoding

    def _name(self, what: str) -> str:
        # No template changes letters and digits. The last letter keeps one name from being the beginning of another.
        return f"z{self._nonce}{what}z"

    def _hide(self, text: str, first: int) -> tuple[str, dict[str, str]]:
        """Return a text with a stand-in for each name of a control token, and the texts that they hide."""
        hidden: dict[str, str] = {}

        def hide(found: re.Match[str]) -> str:
            name = self._name(f"{first + len(hidden)}h")
            hidden[name] = found.group()
            return name

        return (self._pattern.sub(hide, text) if self._pattern else text), hidden

    def _encoded(self, rendered: str, hidden: dict[str, str]) -> list[int]:
        """Return the tokens of a rendered text. Its control tokens become tokens, what stand-ins hide stays text."""
        if self._pattern:
            rendered = self._pattern.sub(lambda found: self._private(self._control[found.group()]), rendered)
        rendered = self._stand_ins.sub(lambda found: self._as_text(hidden[found.group()]), rendered)
        ids = self._plain.encode(rendered, add_special_tokens=False).ids
        return [self._ids.get(one, one) for one in ids if self._ids.get(one, one) >= 0]

    def _continued(self, text: str, hidden: dict[str, str]) -> list[int]:
        """Return the tokens of a text that continues another one. Some tokenizers put a blank before a first text."""
        line_end = self._encoded("\n", {})
        both = self._encoded(f"\n{text}", hidden)
        return both[len(line_end) :] if both[: len(line_end)] == line_end else self._encoded(text, hidden)

    def _as_text(self, control: str) -> str:
        # The runtime finds these in any text, and keeps them text by tokenising both parts alone.
        found_in_text = control in LOOSE_NAMES or not (control in self._special or control in STOP_NAMES)
        return f"{control[0]}{self._private(CUT)}{control[1:]}" if found_in_text else control

    def _private(self, name: int | str) -> str:
        return f"{PRIVATE}{self._nonce}.{name}{PRIVATE}"

    def _without_control(self, described: dict[str, Any]) -> tuple[Any, dict[int, int]]:
        """Return a copy of the tokenizer in which control tokens have names that nobody can type.

        The copy gives added tokens other ids. Also return the tokens that these stand for; -1 stands for none.
        """
        names = {self._private(CUT): -1}
        kept = []
        for added in described["added_tokens"]:
            name = self._private(added["id"]) if added["content"] in self._control else added["content"]
            names[name] = added["id"]
            kept.append({**added, "content": name})
        plain = type(self._tokenizer.backend_tokenizer).from_str(
            json.dumps({**described, "added_tokens": kept, "post_processor": None})
        )
        plain.add_special_tokens([self._private(CUT)])
        plain.no_truncation()
        plain.no_padding()
        places = {plain.token_to_id(name): token for name, token in names.items()}
        return plain, {place: token for place, token in places.items() if place is not None}

    def _ended(self, learned: list[int]) -> list[int]:
        """Return the learned tokens with an end at which generation stops."""
        stops = {self._control[name] for name in STOP_NAMES & self._control.keys()} | {self._tokenizer.eos_token_id}
        stops.discard(None)
        if learned and learned[-1] in stops:
            return learned
        if self._tokenizer.eos_token_id is None:
            raise UnusableExampleError("Neither the model's chat template nor its tokenizer ends an answer.")
        return [*learned, self._tokenizer.eos_token_id]

    def _check(self, learned: Sequence[int], answer: str) -> None:
        """Raise an error if the learned tokens do not say the answer, as when the vocabulary lacks a character."""
        control = frozenset(self._control.values())
        text = [token for token in learned if token not in control]
        said = self._tokenizer.backend_tokenizer.decode(text, skip_special_tokens=False)
        if _folded(said) != _folded(answer):
            raise UnusableExampleError(
                f"The model's vocabulary cannot write the answer: it would learn {' '.join(said.split())[:60]!r}."
            )


def _control_tokens(described: dict[str, Any]) -> dict[str, int]:
    """Return the control tokens: those that the tokenizer declares, and added tokens that mark turns."""
    return {
        added["content"]: added["id"]
        for added in described["added_tokens"]
        if added["content"] and (added["special"] or LOOKS_LIKE_CONTROL.fullmatch(added["content"]))
    }


def _folded(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _template(tokenizer: Any) -> str:
    """Return the chat template. It writes the fixed date wherever it would ask the clock: today's is other tokens tomorrow.

    Raises:
        TrainingFailedError: the tokenizer has several templates and no default one.
    """
    try:
        template = str(tokenizer.get_chat_template())
    except ValueError as error:
        raise TrainingFailedError("chat-template", f"The base model's chat template is unclear: {error}") from None
    return _CLOCK.sub(lambda found: json.dumps(TEMPLATE_DATE.strftime(found.group(2))), template)
