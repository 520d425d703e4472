"""Charts as markup."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_ui.kit.chart.axes import format_tick, ticks, time_ticks
from tmde_ui.kit.chart.lines import LABEL_PERCENT, Band, Mark, Series, chart, thin_out
from tmde_ui.kit.chart.shapes import Bar, bars, columns, radar

finite = st.floats(-1e6, 1e6)


def coordinates(markup: str, kind: str) -> list[tuple[float, float]]:
    """What the paths of a class go through."""
    paths = re.findall(rf'class="{kind}[^"]*"[^>]* d="([^"]*)"', markup)
    pairs = (re.findall(r"(-?[\d.]+) (-?[\d.]+)", path) for path in paths)
    return [(float(x), float(y)) for path in pairs for x, y in path]


def test_a_line_goes_from_its_first_point_to_its_last_with_the_highest_on_top():
    points = coordinates(chart([Series("loss", ((1, 3.0), (2, 2.0), (3, 1.0)))], title="Loss"), "line")
    assert points == [(0, 0), (50, 50), (100, 100)]


@given(st.lists(st.tuples(st.integers(0, 10**6), finite), min_size=1, max_size=60))
def test_whatever_is_drawn_lies_inside_the_box(points):
    markup = chart([Series("loss", tuple(sorted(points)))], title="Loss")
    for x, y in coordinates(markup, "line"):
        assert 0 <= x <= 100
        assert 0 <= y <= 100


@given(st.lists(finite, max_size=3_000), st.integers(4, 600))
def test_thinning_out_keeps_both_ends_the_order_and_every_peak(values, limit):
    points = list(enumerate(values))
    kept = thin_out(points, limit)
    assert len(kept) <= max(limit, min(len(points), limit))
    assert kept == sorted(set(kept))
    assert set(kept) <= set(points)
    if points:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        assert (min(y for _, y in kept), max(y for _, y in kept)) == (min(values), max(values))


def test_a_long_run_is_drawn_with_few_points():
    many = tuple((step, math.sin(step)) for step in range(100_000))
    assert len(coordinates(chart([Series("loss", many)], title="Loss"), "line")) <= 600


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (7, 38, [10, 20, 30])],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_there_is_no_half_step():
    assert ticks(0, 3, whole=True) == [0, 1, 2, 3]


@pytest.mark.parametrize(("value", "step", "words"), [(2.5, 0.5, "2.5"), (1_000, 200, "1,000"), (0.1, 0.05, "0.10")])
def test_figures_have_the_decimals_that_their_ticks_need(value, step, words):
    assert format_tick(value, step) == words


def test_figures_that_are_none_leave_the_line_whole():
    markup = chart([Series("loss", ((1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0)))], title="Loss")
    assert len(coordinates(markup, "line")) == 2
    assert "nan" not in markup
    assert "inf" not in markup


def test_no_points_are_said_in_words():
    assert "Not yet" in chart([Series("loss", ())], title="Loss", nothing="Not yet.")


def test_one_point_is_a_dot():
    assert coordinates(chart([Series("loss", ((5, 1.0),))], title="Loss"), "dots")


def test_names_and_marks_only_ever_become_text():
    hostile = '"><script>alert(1)</script>'
    markup = chart([Series(hostile, ((1, 1), (2, 2)))], title=hostile, marks=[Mark(1, hostile)], x_label=hostile)
    assert "<script" not in markup + columns([(hostile, 2)], title=hostile)


def test_a_band_and_the_line_in_it_share_their_axis():
    markup = chart(
        [Series("score", ((1, 5), (2, 6)))], bands=[Band(((1, 3, 7), (2, 4, 8)))], title="Score", y_span=(0, 10)
    )
    assert coordinates(markup, "band") == [(0, 30), (100, 20), (100, 60), (0, 70)]
    assert coordinates(markup, "line") == [(0, 50), (100, 40)]


def test_a_chart_says_where_each_line_begins_and_ends():
    markup = chart([Series("loss", ((1, 3.25), (9, 0.5)))], title="Loss by step")
    assert 'aria-label="Loss by step: loss from 3.25 to 0.5."' in markup


def test_the_highest_column_is_as_high_as_the_ground():
    heights = re.findall(r"height:(\d+)px", columns([("0", 7), ("50", 14), ("100", 0)], title="Lengths"))
    assert heights == ["38", "76", "0"]


# ---------------------------------------------------------------------------------- radar, bars, time


def corners(markup: str) -> list[list[tuple[float, float]]]:
    shapes = re.findall(r'class="shape[^"]*"[^>]* points="([^"]*)"', markup)
    return [[(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", shape)] for shape in shapes]


def test_a_radar_puts_each_value_on_its_spoke_and_the_first_shape_above_the_others():
    markup = radar(
        ["a", "b", "c", "d"],
        [("now", [10, 5, 0, None], "accent"), ("base", [5, 5, 5, 5], "skeptic")],
        title="Quality",
        top=10,
    )
    base, now = corners(markup)
    assert now == [(0, -100), (50, 0), (0, 0), (0, 0)]
    assert base == [(0, -50), (50, 0), (0, 50), (-50, 0)]
    assert 'aria-label="Quality: now: a 10.0, b 5.0, c 0.0, d –; base: a 5.0' in markup


def test_a_bar_has_its_interval_and_what_it_is_held_against():
    markup = bars(
        [Bar("Science", 5.0, 2.5, 7.5, 6.0), Bar("Coding", None)], title="Quality", top=10, mark="the base model"
    )
    assert 'class="fill" style="width:50.0%' in markup
    assert 'class="whisker" style="left:25.0%;width:50.0%"' in markup
    assert 'class="held" style="left:60.0%"' in markup
    assert 'aria-label="Quality: Science 5.0, Coding –"' in markup


def test_names_in_a_radar_or_a_bar_chart_only_ever_become_text():
    hostile = '"><script>alert(1)</script>'
    drawn = radar([hostile] * 3, [(hostile, [1, 2, 3], "accent")], title=hostile, top=10)
    assert "<script" not in drawn + bars([Bar(hostile, 1.0)], title=hostile, top=10, mark=hostile)


def seconds(*moment: int) -> float:
    return datetime(*moment, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (seconds(2026, 11, 24, 17, 1), seconds(2026, 11, 24, 17, 4), ["17:01", "17:02", "17:03", "17:04"]),
        (seconds(2026, 11, 22, 3), seconds(2026, 11, 25, 3), ["12:00", "23 Nov", "12:00", "24 Nov", "12:00", "25 Nov"]),
        (seconds(2026, 8, 20), seconds(2026, 12, 3), ["Sep 2026", "Oct 2026", "Nov 2026", "Dec 2026"]),
        (seconds(2010, 6, 1), seconds(2014, 6, 1), ["2011", "2012", "2013", "2014"]),
    ],
)
def test_a_time_axis_is_labelled_at_round_moments(low, high, words):
    assert [text for _, text in time_ticks(low, high)] == words


@given(st.integers(0, 2 * 10**9), st.integers(60, 2 * 10**9))
def test_however_long_a_time_axis_is_its_labels_are_few_and_inside(low, width):
    found = time_ticks(low, low + width)
    assert len(found) <= 14
    assert all(low <= at <= low + width for at, _ in found)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40, unique=True))
def test_labels_of_marks_never_overlap(places):
    markup = chart(
        [Series("score", ((0, 1), (100, 2)))], title="Score", marks=[Mark(at, f"{at:.8f}"[:8]) for at in places]
    )
    labels = re.findall(r'<span class="row-(\d)( before)?" style="left:([\d.]+)%">', markup)
    assert labels
    spans = sorted((row, float(at) - LABEL_PERCENT * bool(before)) for row, before, at in labels)
    for (row, low), (next_row, next_low) in pairwise(spans):
        assert row != next_row or next_low - low >= LABEL_PERCENT - 0.01
