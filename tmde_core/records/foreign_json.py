"""Reads JSON objects that other programs wrote. Duplicate names, NaN and infinity are refused."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from typing import Any, NoReturn


class ForeignJsonError(ValueError):
    """The text is refused; the message says why in a few words."""


def read_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object that `content` holds.

    This function is stricter than a parser must be. Readers differ in which of two equal names they use. A file with
    duplicate names could mean one thing to the reader that checks the file and another to the reader that uses it.

    Raises:
        ForeignJsonError: the content is not JSON, is not an object, is nested too deeply, or has a duplicate name.
    """
    if content.startswith(BOM_UTF8):
        # The files stay as they are, and other readers of adapters stop at the mark.
        raise ForeignJsonError("it begins with a byte order mark; save it as UTF-8 without one")
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_without_doubles, parse_constant=_no_number)
    except ForeignJsonError:
        raise
    except UnicodeDecodeError:
        raise ForeignJsonError("it is no UTF-8 text") from None
    except RecursionError:
        raise ForeignJsonError("it is nested too deeply") from None
    except ValueError as error:
        raise ForeignJsonError(f"it is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise ForeignJsonError("it is no JSON object")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ForeignJsonError(f"it has {twice[:60]!r} twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ForeignJsonError(f"it has {name}, which is no JSON number")
