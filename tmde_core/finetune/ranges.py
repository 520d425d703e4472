"""The ranges of the hyperparameters, checked in one place, and the sentence that names field, value and range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tmde_core.errors import InvalidInputError
from tmde_core.records.base import Record, invalid_field
from tmde_core.records.finetune import FineTuneConfig

Bounds = msgspec.inspect.IntType | msgspec.inspect.FloatType


ABOUT: Mapping[str, str] = {
    "loraRank": "How much the adapter can hold. More learns more detail, takes more memory and forgets more.",
    "loraAlpha": "How strongly the adapter speaks. Twice the rank is usual.",
    "learningRate": "How far each step goes. Too high and the loss jumps or is no number; too low and little is learned.",
    "batchSize": "Examples that are looked at together. Halve it when memory runs out.",
    "gradientAccumulationSteps": "Batches that make up one step. Twice as many with half the batch learns the same in less memory.",
    "epochs": "How often every example is seen. Too often, and answers are learned by heart.",
    "maxSeqLength": "Longer examples are left out, never cut. Memory grows with the longest one.",
    "warmupRatio": "Share of the steps in which the rate rises from nothing.",
    "evalSteps": "Looks at the held-out examples so often, beside the end of each epoch. 0: only then.",
    "weightDecay": "Pulls the weights towards zero, which works against learning by heart.",
    "lrScheduler": "How the rate falls after the warm-up: along a cosine, or evenly.",
    "minQualityScore": "Only answers that score at least this are learned from.",
    "minTraces": "With fewer examples no run begins.",
    "baseModel": "A model of the backend, or a directory of safetensors. Empty: the embedded model.",
    "backend": "What trains: each has an environment of its own.",
    "seed": "The same seed and examples give the same adapter.",
}
"""A word on what each hyperparameter does, for a person who has to choose."""


class Range(Record):
    """What one hyperparameter may be."""

    field: str
    """Its name on the wire."""
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    about: str = ""
    """What it does."""


def ranges() -> dict[str, Range]:
    """Every hyperparameter by its name on the wire, in the order of the record."""
    described = msgspec.inspect.type_info(FineTuneConfig)
    assert isinstance(described, msgspec.inspect.StructType)
    found = {}
    for field in described.fields:
        kind = field.type
        bounds = kind if isinstance(kind, Bounds) else None
        found[field.encode_name] = Range(
            field=field.encode_name,
            default=field.default,
            minimum=bounds.ge if bounds else None,
            maximum=bounds.le if bounds else None,
            choices=tuple(map(str, kind.values)) if isinstance(kind, msgspec.inspect.LiteralType) else (),
            about=ABOUT.get(field.encode_name, ""),
        )
    return found


def config_from(values: Mapping[str, Any], base: FineTuneConfig | None = None) -> FineTuneConfig:
    """A configuration from its wire form; what `values` leaves out comes from `base`.

    Raises:
        InvalidInputError: an unknown field, or a value of the wrong type or out of range; context has `field`, and `value`,
            `minimum` and `maximum` where there are such.
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
        raise invalid_field(error, FineTuneConfig) from None


def checked(config: FineTuneConfig) -> FineTuneConfig:
    """The same configuration, once every value was found in its range; for those that were not decoded but built.

    Raises:
        InvalidInputError: as `config_from`.
    """
    return config_from(msgspec.to_builtins(config))


def _check(allowed: Range, value: Any) -> None:
    name = allowed.field
    if allowed.choices and value not in allowed.choices:
        raise InvalidInputError(
            f"{name}: {str(value)[:60]!r} is not one of {', '.join(allowed.choices)}.", field=name, value=value
        )
    if allowed.minimum is None or allowed.maximum is None:
        return
    span = f"from {_figure(allowed.minimum)} to {_figure(allowed.maximum)}"
    whole = isinstance(allowed.default, int)
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
