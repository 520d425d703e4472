"""What describes a setting stands once, at its field, and every face says it from there."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from msgspec import Meta

from docs.settings_tables import row
from tmde_core.cli.finetune.command import config_help
from tmde_core.records.base import Record
from tmde_core.records.fields import by_group, fields_of
from tmde_core.records.finetune import GROUPS, FineTuneConfig
from tmde_core.settings import Settings
from tmde_ui.finetune.form import ConfigForm
from tmde_ui.kit.hyperparameters import NAMES


class More(FineTuneConfig, frozen=True):
    """The hyperparameters, and one that there is not yet."""

    dropout: Annotated[
        float,
        Meta(ge=0, le=0.5, title="Dropout", description="Forgets so much of itself.", extra={"group": "Learning"}),
    ] = 0.125


class Odd(Record):
    plain: int = 1
    some_name: Annotated[float, Meta(gt=0, le=2, title="Some name", extra={"unit": "seconds"})] = 1.5
    choice: Literal["a", "b"] = "a"
    maybe: Annotated[int, Meta(ge=1)] | None = None
    many: tuple[str, ...] = ()


def test_a_field_says_what_its_meta_says():
    plain, some, choice, maybe, many = fields_of(Odd)
    assert (plain.title, plain.help, plain.kind, plain.minimum, plain.is_number) == ("plain", "", "int", None, True)
    assert (some.wire_name, some.title, some.unit) == ("someName", "Some name", "seconds")
    assert (some.minimum, some.maximum, some.exclusive, some.default) == (0, 2, True, 1.5)
    assert (choice.kind, choice.choices) == ("str", ("a", "b"))
    assert (maybe.kind, maybe.optional, maybe.minimum, maybe.default) == ("int", True, 1, None)
    assert (many.kind, many.default) == ("list", ())


def test_groups_come_in_the_order_that_is_asked_for_and_others_last():
    groups = by_group(fields_of(FineTuneConfig), GROUPS)
    assert list(groups) == [*GROUPS, "Backend"]
    assert [field.name for field in groups["Data"]] == ["min_quality_score", "cut_answers", "min_traces"]


def test_a_new_hyperparameter_is_on_the_command_line_the_page_and_in_the_docs():
    dropout = fields_of(More)[-1]
    assert "dropout  0–0.5\n  Forgets so much of itself." in config_help(fields_of(More))
    assert row(dropout, "finetune.") == ("| `finetune.dropout` | `0.125` | 0 – 0.5 | Forgets so much of itself. |\n")
    assert dropout in ConfigForm(More(), None).groups["Learning"]


def test_every_hyperparameter_is_on_the_command_line_and_on_the_page():
    fields = fields_of(FineTuneConfig)
    told = config_help(fields)
    assert all(f"\n{field.name}" in told for field in fields)
    shown = [field for group in ConfigForm(FineTuneConfig(), None).groups.values() for field in group]
    assert {field.name for field in shown} | {"backend", "base_model"} == {field.name for field in fields}
    assert NAMES.keys() == {field.wire_name for field in fields}


def records(record: type, prefix: str = "") -> list[tuple[str, type]]:
    found = [(prefix, record)]
    for field in fields_of(record):
        if field.kind == "record":
            found += records(type(field.default), f"{prefix}{field.name}.")
    return found


@pytest.mark.parametrize(("prefix", "record"), records(Settings))
def test_every_setting_has_a_title_and_says_what_it_does(prefix: str, record: type):
    for field in fields_of(record):
        if field.kind != "record":
            assert field.title != field.name, f"{prefix}{field.name}"
            assert field.help.endswith("."), f"{prefix}{field.name}"
            assert "|" not in field.help
