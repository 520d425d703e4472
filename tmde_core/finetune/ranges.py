"""Checks the ranges of hyperparameters. An error names the field, the value and the range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tmde_core.errors import InvalidInputError
from tmde_core.records.base import to_invalid_input
from tmde_core.records.fields import Field, fields_of
from tmde_core.records.finetune import FineTuneConfig


def ranges(record: type[FineTuneConfig] = FineTuneConfig) -> dict[str, Field]:
    """Return every hyperparameter by its JSON name, in the order of the record."""
    return {field.wire_name: field for field in fields_of(record)}


def decode_config(values: Mapping[str, Any], base: FineTuneConfig | None = None) -> FineTuneConfig:
    """Create a configuration from values with JSON names; `base` supplies the missing values.

    Raises:
        InvalidInputError: a field is unknown, or a value has the wrong type or is out of range. Context has `field`,
            and `value`, `minimum` and `maximum` if they apply.
    """
    known = ranges()
    merged = {**msgspec.to_builtins(base or FineTuneConfig()), **values}
    for name, value in values.items():
        if name not in known:
            raise InvalidInputError(
                f"{name}: there is no such hyperparameter; there are {', '.join(known)}.", field=name
            )
        _check(known[name], value)
    try:
        return msgspec.convert(merged, FineTuneConfig)
    except msgspec.ValidationError as error:
        raise to_invalid_input(error, FineTuneConfig) from None


def check_config(config: FineTuneConfig) -> FineTuneConfig:
    """Return an equal configuration after checking that each value is in its range.

    Use this function for configurations that were created in Python and not decoded.

    Raises:
        InvalidInputError: as `decode_config`.
    """
    return decode_config(msgspec.to_builtins(config))


def _check(allowed: Field, value: Any) -> None:
    name = allowed.wire_name
    if allowed.choices and value not in allowed.choices:
        raise InvalidInputError(
            f"{name}: {str(value)[:60]!r} is not one of {', '.join(allowed.choices)}.", field=name, value=value
        )
    if allowed.minimum is None or allowed.maximum is None:
        return
    span = f"from {_figure(allowed.minimum)} to {_figure(allowed.maximum)}"
    whole = allowed.kind == "int"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise InvalidInputError(
            f"{name}: {str(value)[:60]!r} is not a {'whole ' if whole else ''}number {span}.",
            field=name,
            value=str(value)[:60],
        )
    if not allowed.minimum <= value <= allowed.maximum:  # false for NaN too
        raise InvalidInputError(
            f"{name}: {value} is out of range; it must be {span}.",
            field=name,
            value=value,
            minimum=allowed.minimum,
            maximum=allowed.maximum,
        )


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
