"""Leave the thoughts of a thinking model out of its answer."""

from __future__ import annotations

from tmde_core.sdk.thoughts import split


def without_thoughts(answer: str) -> str:
    """Return the answer after its thoughts. An unfinished thought is no answer."""
    return split(answer).answer
