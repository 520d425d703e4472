"""Figures as people read them."""

from __future__ import annotations

import pytest

from tmde_core.cli.kit import output
from tmde_core.errors import NotFoundError
from tmde_ui.kit import words


def test_scores_have_no_needless_decimals_and_none_is_no_zero():
    assert [words.score(value) for value in (8.0, 8.25, 0.0, None)] == ["8", "8.2", "0", "–"]


def test_counting():
    assert [words.count(number, "trace") for number in (0, 1, 1204)] == ["0 traces", "1 trace", "1,204 traces"]


def test_sizes():
    assert [words.format_bytes(number) for number in (None, 512, 98_000_000, 2_500_000_000)] == [
        "",
        "512 B",
        "98 MB",
        "2.5 GB",
    ]


@pytest.mark.parametrize("number", [0, 999, 1000, 999_000, 2_500_000_000, 3 * 10**12])
def test_pages_and_commands_write_units_alike(number):
    assert words.format_bytes(number).split()[1] == output.format_bytes(number).split()[1]


def test_a_snippet_is_one_line_without_markdown():
    assert words.snippet("# Title\n\n- **bold** `code`\n> quote") == "Title bold code quote"
    assert len(words.snippet("x" * 10_000)) == 240


def test_an_error_of_ours_speaks_for_itself_and_a_defect_keeps_its_insides_to_itself():
    assert words.sentence(NotFoundError("There is none.")) == "There is none."
    assert "secret" not in words.sentence(RuntimeError("secret"))
