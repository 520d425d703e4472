"""What is said of a value that does not fit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from tmde_core.errors import InvalidInputError
from tmde_core.records.base import Record, from_json


class Inner(Record):
    kind: Literal["round", "square"] = "round"


class Sample(Record):
    how_many: Annotated[int, Meta(ge=1, le=9)] = 1
    share: Annotated[float, Meta(gt=0, lt=1)] | None = None
    name: Annotated[str, Meta(min_length=1, max_length=3)] = "a"
    code: Annotated[str, Meta(pattern="^x+$")] = "x"
    rows: Annotated[tuple[int, ...], Meta(max_length=2)] = ()
    pair: tuple[int, int] = (1, 2)
    mode: Literal["debate", "proposer"] = "debate"
    at: Annotated[datetime, Meta(tz=True)] | None = None
    identity: UUID | None = None
    sure: bool = False
    blocks: Annotated[int, Meta(multiple_of=8)] = 8
    inner: tuple[Inner, ...] = ()
    named: dict[str, Inner] = {}  # noqa: RUF012  # msgspec copies it


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ('{"howMany": 0}', "howMany: must be a whole number of at least 1."),
        ('{"howMany": 10}', "howMany: must be a whole number of at most 9."),
        ('{"howMany": "3"}', "howMany: must be a whole number, not text."),
        ('{"howMany": 1.5}', "howMany: must be a whole number, not a number with a fraction."),
        ('{"howMany": 1e999}', "howMany: is too large a number."),
        ('{"share": 0}', "share: must be a number above 0.0."),
        ('{"share": 1}', "share: must be a number below 1.0."),
        ('{"share": []}', "share: must be a number or null, not a list."),
        ('{"name": ""}', "name: must not be empty."),
        ('{"name": "abcd"}', "name: must be text with at most 3 characters."),
        ('{"code": "y"}', "code: must be text that matches '^x+$'."),
        ('{"rows": [1, 2, 3]}', "rows: must be a list with at most 2 entries."),
        ('{"pair": [1]}', "pair: must be a list with exactly 2 entries."),
        ('{"mode": "duel"}', "mode: cannot be 'duel', but one of debate, proposer."),
        ('{"inner": [{"kind": "flat"}]}', "kind: cannot be 'flat', but one of round, square."),
        ('{"sure": 1}', "sure: must be true or false, not a whole number."),
        ('{"blocks": 12}', "blocks: must be a whole number that is a multiple of 8."),
        ('{"at": "2026-01-31T02:00:00"}', "at: must be a date with time, like 2026-01-31T02:00:00Z; the zone is missing."),
        ('{"at": "tomorrow"}', "at: must be a date with time, like 2026-01-31T02:00:00Z."),
        ('{"identity": "7"}', "identity: must be an id, like 0b7a4c1e-5d2f-4e3a-9c8b-7a6f5e4d3c2b."),
        ('{"size": 1}', "size: there is no such field."),
        ("[]", "This must be an object of named fields, not a list."),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_told_what_it_must_be(sent: str, said: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        from_json(sent, Sample)
    assert refused.value.detail.removeprefix("inner[0].") == said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _refusal(sent: bytes) -> InvalidInputError | None:
    try:
        from_json(sent, Sample)
    except InvalidInputError as error:
        return error
    return None


@given(field=st.sampled_from(Sample.__struct_encode_fields__), value=json_values)
def test_no_value_is_answered_in_the_words_of_a_library(field: str, value: Any) -> None:
    error = _refusal(msgspec.json.encode({field: value}))
    if error is not None:
        assert not any(word in error.detail for word in ("Expected", "Invalid", "Object"))
        assert error.context["field"].startswith(field)
