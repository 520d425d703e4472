"""The names of hyperparameters, and the texts of their values and of losses."""

from __future__ import annotations

from collections.abc import Mapping

from tmde_core.records.fields import Field, fields_of
from tmde_core.records.finetune import FineTuneConfig


def labelled(field: Field) -> str:
    """Return the name of a field on the page, with its unit: `Longest example, tokens`."""
    return ", ".join(part for part in (field.title, field.unit) if part)


NAMES: Mapping[str, str] = {field.wire_name: labelled(field) for field in fields_of(FineTuneConfig)}
"""JSON name of a hyperparameter → its name on the page. A missing one is shown by its JSON name."""


def figure_of(value: object) -> str:
    """Return a hyperparameter's value as a person would type it."""
    if not isinstance(value, float):
        return str(value)
    plain = f"{value:g}"
    return plain if "e" not in plain else f"{value:.12f}".rstrip("0")


def loss(value: float | None) -> str:
    """Return a loss with three decimals, or a dash if it was never measured."""
    return "–" if value is None else f"{value:.3f}"
