"""The pages of debates, traces and plugins, in both themes, as axe-core sees them: what it calls serious or critical fails a test."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.tmde_ui.accessibility import check

pytestmark = pytest.mark.slow

TRACE = "/traces/00000000-0000-0000-0000-000000000001"


@pytest.fixture(scope="module", autouse=True)
def traces(server) -> None:
    server.do("traces", number=30)


@pytest.mark.parametrize("path", ["/", "/traces", "/traces?q=nothing-of-this-kind", TRACE, "/plugins"])
def test_axe_finds_nothing_grave(open_page, path):
    check(open_page(path))


def test_axe_finds_nothing_grave_where_no_page_is(open_page):
    check(open_page("/nowhere", status=404))


def test_axe_finds_nothing_grave_while_a_debate_runs_and_when_it_has_ended(open_page, server):
    page = open_page("/")
    page.get_by_role("textbox").first.fill("Is it slow and hostile?")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".turn.live")).to_be_visible()
    check(page)
    server.do("open")
    server.do("settled")
    expect(page.locator(".scale").first).to_be_visible()
    check(page)
