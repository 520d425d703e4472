"""What hyperparameters are called, and how their values and losses are written."""

from __future__ import annotations

from collections.abc import Mapping

from tmde_core.records.fields import Field, fields_of
from tmde_core.records.finetune import FineTuneConfig


def labelled(field: Field) -> str:
    """What a field is called on the page, with its unit: `Longest example, tokens`."""
    return ", ".join(part for part in (field.title, field.unit) if part)


NAMES: Mapping[str, str] = {field.wire_name: labelled(field) for field in fields_of(FineTuneConfig)}
"""Hyperparameter on the wire → its name on the page. One that is missing goes by its name on the wire."""


def figure_of(value: object) -> str:
    """A hyperparameter's value as a person would type it."""
    if not isinstance(value, float):
        return str(value)
    plain = f"{value:g}"
    return plain if "e" not in plain else f"{value:.12f}".rstrip("0")


def loss(value: float | None) -> str:
    """A loss to three decimals; a dash where it was never measured."""
    return "–" if value is None else f"{value:.3f}"
