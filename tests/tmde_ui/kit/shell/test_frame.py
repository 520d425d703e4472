"""What all pages have in common, in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tmde_ui.pages import PAGES

pytestmark = pytest.mark.slow

PATHS = ("/", "/traces", "/finetune", "/models", "/plugins", "/traces/00000000-0000-0000-0000-000000000001")
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module", autouse=True)
def traces(server):
    server.do("traces", number=30)


@pytest.mark.parametrize("width", [320, 380, 768, 1280])
def test_no_page_scrolls_sideways(open_page, server, width):
    page = open_page(PATHS[0], width=width)
    for path in PATHS:
        page.goto(server.url + path)
        expect(page.locator("main h1")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path


@pytest.mark.parametrize("listed", PAGES, ids=lambda listed: listed.path)
def test_every_page_of_the_table_is_served_and_marked_in_the_navigation(open_page, listed):
    page = open_page(listed.path)
    expect(page.locator("main h1")).to_be_visible()
    marked = page.get_by_role("navigation", name="Pages").locator("[aria-current=page]")
    expect(marked).to_have_attribute("href", listed.under or listed.path)


def test_the_system_chooses_light_or_dark_until_a_person_does(open_page):
    assert open_page("/", dark=False).evaluate(BACKGROUND) == "rgb(246, 245, 241)"
    page = open_page("/", dark=True)
    assert page.evaluate(BACKGROUND) == "rgb(20, 21, 23)"
    page.get_by_test_id("theme").click()
    assert page.evaluate(BACKGROUND) == "rgb(246, 245, 241)"
    page.goto(page.url + "traces")
    assert page.evaluate(BACKGROUND) == "rgb(246, 245, 241)"


def test_the_choice_stands_before_anything_is_drawn(open_page):
    page = open_page("/")
    page.get_by_test_id("theme").click()
    page.add_init_script(
        "addEventListener('DOMContentLoaded', () => { window.early = document.documentElement.dataset.theme })"
    )
    page.reload()
    assert page.evaluate("early") == "dark"


def test_the_menu_of_a_narrow_page_opens_closes_and_leads_on(open_page):
    page = open_page("/", width=380)
    expect(page.get_by_role("navigation", name="Pages")).to_have_count(0)
    page.get_by_test_id("menu").click()
    expect(page.get_by_test_id("drawer")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("drawer")).not_to_be_visible()
    page.get_by_test_id("menu").click()
    page.get_by_test_id("drawer").get_by_role("link", name="Plugins").click()
    expect(page.locator("h1")).to_have_text("Plugins")


@pytest.mark.parametrize("width", [380, 1280])
def test_the_adapter_is_named_on_every_page_and_width(open_page, server, width):
    page = open_page(PATHS[0], width=width)
    for path in PATHS:
        page.goto(server.url + path)
        expect(page.get_by_test_id("adapter")).to_have_text("Base model")


def test_the_keyboard_reaches_the_content_first(open_page):
    page = open_page("/traces")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


def test_a_page_has_one_main_part_and_one_header(open_page, server):
    page = open_page(PATHS[0])
    for path in PATHS:
        page.goto(server.url + path)
        expect(page.get_by_role("main")).to_have_count(1)
        expect(page.get_by_role("banner")).to_have_count(1)


def test_the_header_is_not_read_aloud_whenever_the_time_left_changes(open_page):
    page = open_page("/plugins")
    status = page.get_by_test_id("adapter")
    expect(status).to_be_visible()
    assert status.evaluate("element => element.closest('[aria-live], [role=status], [role=alert]')") is None


def test_everything_that_can_be_operated_has_a_name(open_page, server):
    nameless = """[...document.querySelectorAll('button, a[href], input, select, textarea, dialog')].filter(e => {
        const label = e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim() || e.title;
        return !label;
    }).map(e => e.outerHTML)"""
    page = open_page(PATHS[0])
    for path in PATHS:
        page.goto(server.url + path)
        expect(page.locator("main h1")).to_be_visible()
        assert page.evaluate(nameless) == []


def test_an_unknown_address_is_told_in_the_frame(open_page):
    page = open_page("/nowhere/at/all", status=404)
    expect(page.get_by_test_id("problem")).to_contain_text("Page not found")
    expect(page.get_by_role("navigation", name="Pages")).to_be_visible()


def test_the_plugins_page_shows_what_works_and_what_is_broken_and_why(open_page):
    page = open_page("/plugins")
    expect(page.get_by_test_id("plugin-working")).to_contain_text("works")
    expect(page.get_by_test_id("plugin-working")).to_contain_text("likes every answer")
    expect(page.get_by_test_id("plugin-misspelt")).to_contain_text("broken")
    expect(page.get_by_test_id("plugin-misspelt")).to_contain_text("No hook is called tmde_judge")
    expect(page.get_by_test_id("plugin-failing")).to_contain_text("the licence has run out")
    assert page.locator("article.plugin").first.get_attribute("data-testid") != "plugin-working"
    expect(page.get_by_test_id("runtime-scripted")).to_contain_text("answers from a script")
    expect(page.get_by_test_id("model")).to_contain_text("4,096 tokens of context")
