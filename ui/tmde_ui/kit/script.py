"""Calling the functions of `assets/tmde.js`."""

from __future__ import annotations

import msgspec


def call(function: str, *arguments: object) -> str:
    """JavaScript that calls a function of `assets/tmde.js`.

    Args:
        arguments: what JSON can write. An element is given as its id.
    """
    return f"tmde.{function}({', '.join(msgspec.json.encode(one).decode() for one in arguments)})"
