"""Every hyperparameter has a range, and what is outside is named with its value and the range."""

from __future__ import annotations

import math
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.errors import InvalidInputError
from tmde_core.finetune.presets import PRESETS
from tmde_core.finetune.ranges import check_config, decode_config, ranges
from tmde_core.records.fields import Field
from tmde_core.records.finetune import FineTuneConfig

NUMERIC = [entry for entry in ranges().values() if entry.minimum is not None]


def test_the_ranges_are_those_of_the_contract():
    spans: dict[str, tuple[object, object, object]] = {
        entry.wire_name: (entry.minimum, entry.maximum, entry.default) for entry in NUMERIC
    }
    assert spans["loraRank"] == (4, 128, 16)
    assert spans["loraAlpha"] == (8, 256, 32)
    assert spans["learningRate"] == (1e-5, 1e-3, 2e-4)
    assert spans["batchSize"] == (1, 32, 4)
    assert spans["gradientAccumulationSteps"] == (1, 16, 4)
    assert spans["epochs"] == (1, 10, 3)
    assert spans["maxSeqLength"] == (512, 8192, 4096)


@given(st.sampled_from(NUMERIC), st.integers(-(10**9), 10**9) | st.floats())
def test_a_number_is_taken_exactly_when_it_is_in_its_range(entry: Field, value: float):
    assert entry.minimum is not None
    assert entry.maximum is not None
    whole = isinstance(entry.default, int)
    if entry.minimum <= value <= entry.maximum and (isinstance(value, int) or not whole):
        assert msgspec.to_builtins(decode_config({entry.wire_name: value}))[entry.wire_name] == value
    else:
        with pytest.raises(InvalidInputError) as caught:
            decode_config({entry.wire_name: value})
        assert caught.value.context["field"] == entry.wire_name
        assert str(value) in caught.value.detail


def beside(entry: Field, bound: float, up: bool) -> float:
    """The next value that the field could have."""
    if isinstance(entry.default, int):
        return int(bound) + (1 if up else -1)
    return math.nextafter(bound, math.inf if up else -math.inf)


@pytest.mark.parametrize("entry", NUMERIC, ids=lambda entry: entry.wire_name)
def test_each_range_takes_its_bounds_and_what_is_just_inside_and_refuses_what_is_just_outside(entry: Field):
    assert entry.minimum is not None
    assert entry.maximum is not None
    low, high = entry.minimum, entry.maximum
    for value in (low, high, beside(entry, low, True), beside(entry, high, False)):
        assert msgspec.to_builtins(decode_config({entry.wire_name: value}))[entry.wire_name] == value
    for value in (beside(entry, low, False), beside(entry, high, True)):
        with pytest.raises(InvalidInputError) as caught:
            decode_config({entry.wire_name: value})
        told = caught.value
        assert told.context == {"field": entry.wire_name, "value": value, "minimum": low, "maximum": high}
        assert told.detail.startswith(f"{entry.wire_name}: {value} is out of range; it must be from ")
        assert re.search(r"from [\d.,e+-]+ to [\d.,e+-]+\.$", told.detail)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"loraRank": 300}, "loraRank: 300 is out of range; it must be from 4 to 128."),
        ({"epochs": "many"}, "epochs: 'many' is not a whole number from 1 to 10."),
        ({"epochs": True}, "epochs: 'True' is not a whole number from 1 to 10."),
        ({"lrScheduler": "step"}, "lrScheduler: 'step' is not one of cosine, linear."),
        ({"minTraces": 0}, "minTraces: 0 is out of range; it must be from 1 to 1,000,000."),
    ],
)
def test_the_sentence_names_field_value_and_range(values, sentence):
    with pytest.raises(InvalidInputError) as caught:
        decode_config(values)
    assert caught.value.detail == sentence


def test_an_unknown_field_is_refused_by_name():
    with pytest.raises(InvalidInputError, match="learning_rate: there is no such hyperparameter"):
        decode_config({"learning_rate": 1e-4})


def test_what_is_left_out_comes_from_the_base():
    assert decode_config({"epochs": 2}, FineTuneConfig(seed=7)) == FineTuneConfig(seed=7, epochs=2)


def test_a_config_that_was_built_and_not_decoded_is_checked_too():
    with pytest.raises(InvalidInputError, match="epochs"):
        check_config(FineTuneConfig(epochs=99))


def test_every_hyperparameter_says_what_it_does():
    assert [name for name, entry in ranges().items() if not entry.help] == []


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_presets_are_in_range_and_all_name_the_same(preset):
    assert decode_config(preset.values)
    assert preset.values.keys() == PRESETS[0].values.keys()
