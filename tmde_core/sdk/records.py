"""The base of immutable records, their JSON format, and messages about invalid values."""

from __future__ import annotations

from tmde_core.records.base import Record, from_json, invalid_field, to_json, utc_now
from tmde_core.records.wrong_values import in_words

__all__ = ["Record", "from_json", "in_words", "invalid_field", "to_json", "utc_now"]
