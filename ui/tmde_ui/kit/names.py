"""The names of adapters as the pages last read them.

An id belongs to one adapter, wherever it is. So all pages of the process share the names, and a sentence about an
adapter needs only the id. A deleted adapter keeps its name here until the process ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from tmde_core.records.lora import LoRAAdapter
from tmde_ui.kit.words import short_id

BASE = "the base model"

_names: dict[str, str] = {}


def remember_names(adapters: Iterable[LoRAAdapter]) -> None:
    """Store the names of adapters that were just read."""
    _names.update((str(one.id), one.name) for one in adapters if one.name)


def is_named(adapter_id: UUID | str) -> bool:
    """Return whether the name of an adapter was read."""
    return str(adapter_id) in _names


def short_name(adapter_id: UUID | str) -> str:
    """Return the name of an adapter, for a place that shows the id elsewhere; without a name, the short id."""
    return _names.get(str(adapter_id)) or short_id(adapter_id)


def full_name(adapter_id: UUID | str) -> str:
    """Return `Fractions (1a2b3c4d)`: two adapters may have the same name."""
    name, short = short_name(adapter_id), short_id(adapter_id)
    return name if short in name else f"{name} ({short})"


def name_of(adapter_id: UUID | str | None) -> str:
    """Return `adapter Fractions (1a2b3c4d)`, `adapter 1a2b3c4d` if its name is not known, or `the base model`."""
    return BASE if adapter_id is None else f"adapter {full_name(adapter_id)}"


def capital(words: str) -> str:
    """Return the words with a capital first letter. All other letters stay: a name has its own."""
    return words[:1].upper() + words[1:]
