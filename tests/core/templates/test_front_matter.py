"""Template files from anywhere are read safely, and complaints name line and field."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.errors import InvalidInputError, TmdeError, TooLargeError
from tmde_core.templates.front_matter import FrontMatter, TemplateFile, parse_template, render_template

HEAD = """name: Bisection
description: Halve it.
domain: software
methodology: bisection
keywords: [bug, halve]
"""
GOOD = f"---\n{HEAD}---\n\nSteps:\n\n1. Halve.\n"


def test_a_template_is_read():
    file = parse_template(GOOD.encode())
    assert file.front == FrontMatter(
        name="Bisection", description="Halve it.", domain="software", methodology="bisection", keywords=("bug", "halve")
    )
    assert file.body == "Steps:\n\n1. Halve.\n"


@pytest.mark.parametrize("change", [("\n", "\r\n"), ("---\nname", "\ufeff---\nname"), ("[bug, halve]", "bug, halve")])
def test_other_line_ends_marks_and_comma_lists_are_read_alike(change):
    assert parse_template(GOOD.replace(*change)).front.keywords == ("bug", "halve")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "Line 1"),
        ("# no front matter", "Line 1"),
        (f"---\n{HEAD}", "not closed"),
        (f"---\n{HEAD}---\n \n", "no text"),
        ("---\n---\nbody", "fields"),
        ("---\n- a\n---\nbody", "fields"),
        (GOOD.replace("domain: software\n", ""), "domain"),
        (GOOD.replace("domain: software", "domain: [a]"), "Line 4: domain"),
        (GOOD.replace("domain: software", "domain: ' '"), "Line 4: domain"),
        (GOOD.replace("domain: software", "domain: software\nauthor: me"), "no field called author"),
        (GOOD.replace("Bisection", "x" * 81), "Line 2: name"),
        (GOOD.replace("[bug, halve]", "[]"), "Line 6: keywords"),
        (GOOD.replace("domain: software", "domain: software\ndomain: other"), "stands there twice"),
        (GOOD.replace("Bisection", ""), "Line 2: name"),
        (GOOD.replace("Halve it.", "a: b: c"), "Line 3"),
        (GOOD.replace("Bisection", "!!python/object/apply:os.system [ls]"), "YAML"),
        (GOOD.replace("Bisection", "&a Bisection"), "anchors"),
        (GOOD.replace("[bug, halve]", "*a"), "anchors"),
        (GOOD.replace("[bug, halve]", "[" * 50 + "]" * 50), "nested too deeply"),
        (GOOD.replace("Halve.", "a\x00b"), "NUL"),
        (b"---\n\xff\xfe", "UTF-8"),
    ],
)
def test_a_bad_template_is_refused_in_a_sentence_that_says_where(content, says):
    with pytest.raises(InvalidInputError) as caught:
        parse_template(content)
    assert says in caught.value.detail


@pytest.mark.parametrize("written", ["no", "12:30", "010", "1e3", "2024-12-24", "2024-99-99", "~", "null"])
def test_a_value_stays_what_was_written(written):
    front = parse_template(GOOD.replace("Bisection", written).replace("[bug, halve]", f"[{written}, on]")).front
    assert (front.name, front.keywords) == (written, (written, "on"))


def test_a_large_file_is_refused_before_it_is_parsed():
    with pytest.raises(TooLargeError, match="65,536"):
        parse_template(GOOD + "x" * 65_536)


def test_an_alias_bomb_is_refused():
    levels = "\n".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]" for n in range(1, 9))
    with pytest.raises(InvalidInputError, match="anchors"):
        parse_template(f"---\nk0: &k0 lol\n{levels}\n---\nbody")


@given(st.text(max_size=500))
def test_no_text_raises_anything_else(text):
    for content in (text, f"---\n{text}\n---\nbody", GOOD.replace("Bisection", text)):
        with contextlib.suppress(TmdeError):
            parse_template(content)


LINE = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=40
).filter(str.strip)


@given(LINE, LINE, st.lists(LINE, min_size=1, max_size=5))
def test_what_is_written_reads_back(name, description, keywords):
    front = FrontMatter(name=name, description=description, domain="d", methodology="m", keywords=tuple(keywords))
    file = TemplateFile(front=front, body="Body\n")
    assert parse_template(render_template(file)) == file
