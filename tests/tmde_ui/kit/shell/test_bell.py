"""The bell in the header, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=alert(1)> **bold**"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, scripted_server) -> Iterator[Any]:
    started = scripted_server(tmp_path_factory.mktemp("data"), "tests.tmde_ui.versions.server")
    yield started
    code, log = started.stop()
    assert code == 0
    assert "Traceback" not in log, log


@pytest.fixture(autouse=True)
def _none(server) -> None:
    server.do("dismiss-all")


def test_with_nothing_new_the_bell_is_quiet_and_its_panel_says_what_comes_here(open_page):
    page = open_page("/plugins")
    bell = page.get_by_test_id("notifications")
    expect(bell).to_have_accessible_name("Notifications, none new")
    expect(page.get_by_test_id("notification-count")).to_be_hidden()
    expect(page.get_by_test_id("notification-panel")).to_be_hidden()
    bell.click()
    expect(page.get_by_test_id("no-notifications")).to_contain_text("such as a training run")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("notification-panel")).to_be_hidden()


def test_a_notification_appears_by_itself_and_stays_until_it_is_dismissed(open_page, server):
    page, other = open_page("/plugins"), open_page("/traces")
    server.do("notify", level="success", title="Training is done", detail="62 traces.", href="/finetune")
    server.do("notify", level="error", title=HOSTILE, detail=HOSTILE, href="https://elsewhere.invalid/")
    for tab in (page, other):
        expect(tab.get_by_test_id("notification-count")).to_have_text("2")
    expect(page.get_by_test_id("notifications")).to_have_accessible_name("Notifications, 2 new")
    page.reload()
    expect(page.get_by_test_id("notification-count")).to_have_text("2")
    page.get_by_test_id("notifications").click()
    items = page.get_by_test_id("notification")
    expect(items.first).to_contain_text(HOSTILE)
    assert items.first.locator("a, img").count() == 0
    expect(items.last).to_contain_text("62 traces.")
    items.first.get_by_test_id("dismiss").click()
    for tab in (page, other):
        expect(tab.get_by_test_id("notification-count")).to_have_text("1")
    expect(items).to_have_count(1)
    items.get_by_role("link", name="Training is done").click()
    expect(page.locator("h1")).to_have_text("Fine-tuning")
    expect(page.get_by_test_id("notification-count")).to_have_text("1")


def test_the_keyboard_alone_reads_and_dismisses(open_page, server):
    for number in range(2):
        server.do("notify", level="info", title=f"Number {number}")
    page = open_page("/plugins")
    expect(page.get_by_test_id("notification-count")).to_have_text("2")
    page.get_by_test_id("notifications").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("notification-panel")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Dismiss: Number 1")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("notification")).to_have_text([re.compile("Number 0")])
    expect(page.get_by_test_id("notification-panel")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("no-notifications")).to_be_visible()


@pytest.mark.parametrize("width", [320, 1280])
def test_many_are_counted_listed_as_far_as_they_fit_and_dismissed_at_once(open_page, server, width):
    for number in range(23):
        server.do("notify", level="warning", title=f"Number {number} {'x' * 80}")
    page = open_page("/plugins", width=width)
    expect(page.get_by_test_id("notification-count")).to_have_text("23")
    page.get_by_test_id("notifications").click()
    expect(page.get_by_test_id("notification")).to_have_count(20)
    expect(page.get_by_test_id("notification").first).to_contain_text("Number 22")
    panel = page.get_by_test_id("notification-panel")
    expect(panel).to_contain_text("and 3 older ones")
    assert panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.get_by_test_id("dismiss-all").click()
    expect(page.get_by_test_id("notification-count")).to_be_hidden()
    expect(page.get_by_test_id("notification")).to_have_count(0)


def test_a_notification_is_acted_on_with_one_click(open_page, server):
    adapter = server.do("publish")
    page = open_page("/plugins")
    server.do("notify", kind="benchmark.better", level="success", title="It is better", subject=adapter)
    page.get_by_test_id("notifications").click()
    item = page.get_by_test_id("notification")
    item.get_by_role("button", name="Activate the adapter: It is better").click()
    expect(page.get_by_test_id("adapter")).to_contain_text(adapter[:8])
    expect(page.get_by_test_id("notification")).to_have_count(0)
    server.do("notify", kind="benchmark.better", level="success", title="Again", href="/benchmark", subject=adapter)
    expect(item.get_by_test_id("act")).to_have_text("Compare the answers")
    server.do("clear-active")


def test_an_act_that_fails_says_why_and_keeps_the_notification(open_page, server):
    page = open_page("/plugins")
    gone = "00000000-0000-4000-8000-000000000000"
    server.do("notify", kind="benchmark.inconclusive", level="info", title="Undecided", subject=gone)
    page.get_by_test_id("notifications").click()
    page.get_by_test_id("act").click()
    expect(page.get_by_test_id("notification")).to_contain_text(f"There is no adapter with the id {gone}")
    expect(page.get_by_test_id("act")).to_be_enabled()


def test_no_notification_shows_a_shell_command():
    files = [*Path("tmde_core/notifications").glob("*.py"), Path("tmde_core/benchmark/gate.py")]
    assert [
        file for file in files if re.search(r"`tmde ", re.sub(r'""".*?"""', "", file.read_text(), flags=re.DOTALL))
    ] == []
