"""Validates a question before a debate starts."""

from __future__ import annotations

import re

from tmde_core.errors import InvalidInputError
from tmde_core.settings import MAX_QUERY_BYTES
from tmde_core.storage.words import is_blank

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")
"""Matches signs of binary data.

These are control characters other than tab and line ends, and code points that are not characters.
"""


def check_question(query: str, field: str = "query") -> str:
    """Return the question without surrounding blanks, after validating it.

    Args:
        field: The name of the question's field in the caller's input, for error messages.

    Raises:
        InvalidInputError: The question is empty, longer than 32 KiB as UTF-8, or binary.
    """
    size = len(query.encode("utf-8", "surrogatepass"))
    if size > MAX_QUERY_BYTES:
        raise InvalidInputError(
            f"The question has {size:,} bytes; at most {MAX_QUERY_BYTES:,} (32 KiB) are allowed. Shorten it.",
            field=field,
            limit=MAX_QUERY_BYTES,
            actual=size,
        )
    if found := _CONTROL.search(query):
        raise InvalidInputError(
            f"The question is not plain text: it holds the control character U+{ord(found[0]):04X} at position "
            f"{found.start() + 1}. Send text.",
            field=field,
        )
    text = query.replace("\r\n", "\n").replace("\r", "\n").strip()
    if is_blank(text):
        raise InvalidInputError("The question is empty. Write what you want to know.", field=field)
    return text
