"""Describe a conversation as tokens. Only the tokens of the answer are trained on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One conversation. `tokens[answer_start:]` is the answer with the end of its turn, which is trained on."""

    tokens: tuple[int, ...]
    answer_start: int
    trace_id: str

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def supervised(self) -> int:
        """The number of tokens that are trained on."""
        return len(self.tokens) - self.answer_start
