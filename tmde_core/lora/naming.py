"""Checks names that people give, and makes names for adapters that have none."""

from __future__ import annotations

import re
from datetime import datetime

from tmde_core.errors import InvalidInputError
from tmde_core.records.lora import LoRAAdapter

MAX_NAME = 80
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, line separators, and marks that turn the direction of the text after them."""
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def check_name(name: str) -> str:
    """Return a name that a person gave, without blanks around it.

    Raises:
        InvalidInputError: the name is empty, too long, or has control characters.
    """
    plain = name.strip()
    if not plain or len(plain) > MAX_NAME or CONTROL.search(plain):
        raise InvalidInputError(f"name: must have 1 to {MAX_NAME} characters, on one line.", field="name")
    try:
        plain.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            "name: holds half a character (a lone surrogate); write it anew.", field="name"
        ) from None
    return plain


def date_words(moment: datetime) -> str:
    """Return the day and the month, such as `30 Nov`, in English whatever the locale."""
    return f"{moment.day} {MONTHS[moment.month - 1]}"


def make_name(adapter: LoRAAdapter) -> str:
    """Return a name for an adapter that has none, and of whose training run nothing is known here."""
    day = date_words(adapter.created_at)
    if not adapter.traces_used:
        return f"{day} · {str(adapter.id)[:8]}"
    return f"{day} · {adapter.traces_used:,} trace{'s' * (adapter.traces_used != 1)}"
