"""Call the functions of `assets/tmde.js`."""

from __future__ import annotations

import msgspec


def call(function: str, *arguments: object) -> str:
    """Return JavaScript that calls a function of `assets/tmde.js`.

    Args:
        arguments: values that JSON can encode. Pass an element's id for an element.
    """
    return f"tmde.{function}({', '.join(msgspec.json.encode(one).decode() for one in arguments)})"
