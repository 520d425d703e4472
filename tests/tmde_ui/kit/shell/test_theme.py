"""The colours can be read by people with weak eyes, in both schemes."""

from __future__ import annotations

import re

import pytest

from tmde_ui.kit.shell.theme import ASSETS, DARK, LIGHT, TEXT_ON

AA = 4.5
"""WCAG 2.2, success criterion 1.4.3, text of normal size."""


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    brighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_wcag_defines_it():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXT_ON)
def test_text_reaches_aa(palette, text, ground):
    assert contrast(palette[text], palette[ground]) >= AA


def test_both_schemes_name_the_same_colours():
    assert LIGHT.keys() == DARK.keys()


def test_the_stylesheet_uses_only_colours_that_exist_and_loads_nothing():
    css = (ASSETS / "tmde.css").read_text()
    own = set(re.findall(r"(--[a-z0-9-]+)\s*:", css))
    used = set(re.findall(r"var\((--[a-z0-9-]+)", css))
    assert used <= own | {f"--{name}" for name in LIGHT}
    assert not re.search(r"url\(|@import|#[0-9a-f]{3,8}\b", css, re.IGNORECASE)


def test_nothing_on_a_page_moves_for_ever():
    # An endless animation of three dots took 39 to 66 % of a core in a browser that draws in software.
    css = (ASSETS / "tmde.css").read_text()
    assert not re.search(r"@keyframes|infinite|animation(?!: none)", re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL))
