"""The base of immutable records, their JSON format, and messages about invalid values."""

from __future__ import annotations

from tmde_core.records.base import Record, from_json, to_invalid_input, to_json, utc_now
from tmde_core.records.wrong_values import describe_problem

__all__ = ["Record", "describe_problem", "from_json", "to_invalid_input", "to_json", "utc_now"]
