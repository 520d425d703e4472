"""Fits a role's conversation into its model's context by shortening old rounds.

The last round is shortened last, and the opening never. A conversation only grows until it overflows. Then its old
turns are shortened permanently, in large steps, to well below the limit. The rounds after that extend one fixed prefix
again, instead of changing the prefix each time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

from tmde_core.errors import ContextOverflowError
from tmde_core.prompts import ELLIPSIS
from tmde_core.records.base import Record
from tmde_core.records.chat import Message
from tmde_core.sdk.runtimes import ModelRuntime

TURN_OVERHEAD = 8
"""Tokens that a chat template adds to one turn; ChatML adds 5."""

BYTES_PER_TOKEN = 3
"""The estimate for runtimes that cannot count tokens.

English takes about 4 bytes per token, so dividing by 3 overestimates the count, which is safe.
"""

ROOM_AFTER_SHORTENING = 0.7
"""Old turns are shortened until the prompt takes this share of its room.

The next rounds then fit without further shortening.
"""

SHORTEST_ANSWER = 32
"""The smallest useful room for the answer, in tokens. With less room, the model is not asked."""

STEPS = (0.5, 0.25, 0.125, 0.05)
"""The shares of its characters that an old turn keeps, step by step."""


class QuestionTooLongError(ContextOverflowError):
    """The question alone, with its instructions, does not fit, so that shortening old rounds cannot help."""


class Fitted(Record, frozen=True):
    """A prompt that fits, and the token budget left for its answer."""

    messages: tuple[Message, ...]
    max_tokens: int
    room: int
    """Tokens that the context has left after the prompt. At least `max_tokens`."""


class TokenSizes:
    """Counts the tokens of texts for one model; each text is counted once."""

    def __init__(self, runtime: ModelRuntime, model: str) -> None:
        self._runtime = runtime
        self._model = model
        self._known: dict[str, int] = {}
        self._counts = runtime.capabilities.token_counts

    async def total(self, messages: Sequence[Message], enough: int) -> int:
        """Return the number of tokens of a conversation, or an upper bound if this bound is at most `enough`.

        The bound is cheap: it assumes one token per byte. The tokens are counted only if the bound exceeds `enough`.
        """
        overhead = TURN_OVERHEAD * (len(messages) + 1)
        bound = overhead + sum(len(message.content.encode()) for message in messages)
        if bound <= enough:
            return bound
        await self._count([message.content for message in messages])
        return overhead + sum(self._known[message.content] for message in messages)

    async def _count(self, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        counts = await self._runtime.count_tokens(new, self._model) if new and self._counts else None
        for index, text in enumerate(new):
            self._known[text] = counts[index] if counts else math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


class Conversation:
    """One role's chat with its model.

    Args:
        opening: The system turn and the first user turn, or more; never shortened.
    """

    def __init__(self, opening: Sequence[Message]) -> None:
        self._opening = tuple(opening)
        self._turns: list[Message] = []
        self._original: list[Message] = []
        self._level: list[int] = []

    @property
    def messages(self) -> tuple[Message, ...]:
        """The current prompt."""
        return (*self._opening, *self._turns)

    def add(self, *turns: Message) -> None:
        """Append turns."""
        self._turns += turns
        self._original += turns
        self._level += [0] * len(turns)

    async def fit(self, sizes: TokenSizes, limit: int, max_tokens: int) -> Fitted:
        """Shorten the conversation permanently, as far as needed to fit.

        The turns before the last round are shortened first, then the answer's budget, then the last round.

        Args:
            limit: Tokens that the prompt and the answer may have together.
            max_tokens: Tokens wanted for the answer.

        Raises:
            QuestionTooLongError: The opening alone does not fit. The error's context has `tokens` and `limit`.
        """
        shortest = min(max_tokens, SHORTEST_ANSWER)
        roomy, tight = limit - max_tokens, limit - shortest
        size = await sizes.total(self.messages, roomy)
        if size > roomy:
            # The last round: the previous answer and the turn that replies to it.
            size = await self._shorten(len(self._turns) - 2, sizes, roomy)
        if size > tight:
            size = await self._shorten(len(self._turns), sizes, tight)
        if size > tight:
            raise QuestionTooLongError(
                f"The question takes about {size:,} tokens with its instructions, but the model reads {limit:,} in all, "
                "its answer included. Shorten the question, or choose a model with a longer context.",
                tokens=size,
                limit=limit,
            )
        room = max(1, limit - size)
        return Fitted(messages=self.messages, max_tokens=min(max_tokens, room), room=room)

    async def _shorten(self, end: int, sizes: TokenSizes, room: int) -> int:
        """Shorten the turns before `end` until the prompt is well below `room`, and return the prompt's size.

        All turns are shortened by one step, oldest first, before the next step begins.
        """
        target = int(room * ROOM_AFTER_SHORTENING)
        size = await sizes.total(self.messages, target)
        for step, share in enumerate(STEPS, 1):
            for index in range(max(0, end)):
                if size <= target:
                    return size
                if self._level[index] < step:
                    self._level[index] = step
                    original = self._original[index]
                    self._turns[index] = msgspec.structs.replace(original, content=shorten(original.content, share))
                    size = await sizes.total(self.messages, target)
        return size


_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")


def shorten(text: str, share: float) -> str:
    """Return the beginning of `text`, about `share` of its characters, with an ellipsis.

    The text is cut after a whole sentence if possible, otherwise after a whole word.
    """
    room = int(len(text) * share)
    if len(text) <= room:
        return text
    sentence_ends = [found.start() for found in _SENTENCE_END.finditer(text) if found.start() <= room]
    if sentence_ends and sentence_ends[-1] >= room // 2:
        return f"{text[: sentence_ends[-1]].rstrip()} {ELLIPSIS}"
    word_ends = [found.start() for found in re.finditer(r"\s+", text[: room + 1])]
    if word_ends and word_ends[-1] > 0:
        return f"{text[: word_ends[-1]].rstrip()} {ELLIPSIS}"
    # No word ends here. Text in a script without blanks, such as Chinese, may be cut between two characters.
    return f"{text[:room]}{ELLIPSIS}" if re.match(r"[^\x00-\x7f]", text) else ELLIPSIS
