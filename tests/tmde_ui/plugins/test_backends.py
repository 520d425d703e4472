"""Training backends on the page of plugins: what each environment is, and installing, examining and removing it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.tmde_ui.accessibility import check


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, scripted_server: Any) -> Iterator[Any]:
    started = scripted_server(tmp_path_factory.mktemp("data"), "tests.tmde_ui.plugins.server")
    yield started
    code, log = started.stop()
    assert code == 0
    assert "Traceback" not in log, log


def card(page: Page, name: str) -> Any:
    return page.get_by_test_id(f"backend-{name}")


def test_each_backend_says_in_which_state_its_environment_is(open_page):
    page = open_page("/plugins")
    expect(page.get_by_test_id("auto-backend")).to_have_text(
        "Training uses card unless you choose another one. It works here."
    )
    expect(card(page, "card")).to_contain_text("taken by auto")
    for words in (
        "NVIDIA GeForce RTX 3090, 25.3 GB",
        "Compute capability8.6",
        "4 bitsyes",
        "torch 2.13.0+cu130",
        "cu130",
    ):
        expect(card(page, "card")).to_contain_text(words)
    expect(card(page, "lacking")).to_contain_text("does not work")
    expect(card(page, "lacking").get_by_test_id("lack").first).to_contain_text("lacks peft. Install it anew")
    expect(card(page, "unseen")).to_contain_text("Its environment was not examined yet.")
    expect(card(page, "halfway").get_by_role("button", name="Continue: halfway")).to_be_visible()
    expect(card(page, "foreign").get_by_test_id("install")).to_be_hidden()
    expect(card(page, "foreign").get_by_test_id("examine")).to_be_visible()
    expect(card(page, "mine").get_by_test_id("remove")).to_be_hidden()


def test_an_installation_in_a_terminal_shows_on_the_page_with_its_progress_and_its_end(open_page, server):
    page = open_page("/plugins")
    mine = card(page, "mine")
    expect(mine).to_contain_text("not installed")
    server.do("begin")
    expect(mine).to_contain_text("installing")
    expect(mine.get_by_test_id("installation")).to_contain_text("Packages · 3 of 9 · torch, 200 MB")
    expect(mine).to_contain_text("To end it, press Ctrl+C there.")
    expect(mine.get_by_test_id("cancel-install")).to_be_hidden()
    expect(mine.get_by_test_id("install")).to_be_hidden()
    server.do("tell", done=7)
    expect(mine.get_by_test_id("installation")).to_contain_text("7 of 9")
    server.do("fail")
    expect(mine.get_by_test_id("installation-end")).to_contain_text("failed: no network. The output is in /log.")
    expect(mine.get_by_test_id("install")).to_be_visible()


def test_an_environment_is_installed_examined_and_removed_on_the_page(open_page, server):
    page = open_page("/plugins")
    mine = card(page, "mine")
    mine.get_by_test_id("install").click()
    plan = page.get_by_test_id("install-plan")
    for words in ("1 package: cpu", "It needs no card.", "about 1 B", "Free on the disk"):
        expect(plan).to_contain_text(words)
    page.get_by_test_id("start-install").click()
    expect(page.get_by_test_id("install-dialog")).to_have_count(0)
    expect(mine.get_by_test_id("installation")).to_contain_text("Packages · 1 of 2 · tiny-package 1.0")
    mine.get_by_test_id("cancel-install").click()
    expect(mine.get_by_test_id("installation-end")).to_contain_text("The installation was cancelled.")
    server.do("go_on")
    mine.get_by_test_id("install").click()
    page.get_by_test_id("start-install").click()
    expect(mine).to_contain_text("tiny 1.0")
    mine.get_by_test_id("examine").click()
    expect(mine.get_by_test_id("backend-said")).to_have_text("It works.")
    mine.get_by_test_id("remove").click()
    page.get_by_test_id("confirm-remove-environment").click()
    expect(mine).to_contain_text("not installed")
    expect(mine.get_by_test_id("backend-said")).to_be_hidden()


def test_the_training_dialog_says_that_an_environment_is_not_installed_and_leads_there(open_page, server):
    server.do("default", backend="halfway")
    page = open_page("/finetune")
    page.get_by_test_id("run-now").click()
    expect(page.get_by_test_id("backend-uninstalled")).to_contain_text(
        "The environment of halfway, the default backend"
    )
    expect(page.get_by_test_id("install-lacking")).to_have_count(0)
    page.get_by_test_id("install-mine").click()
    expect(page).to_have_url(f"{server.url}/plugins#backends")
    expect(page.get_by_role("heading", name="Training backends")).to_be_in_viewport()


@pytest.mark.slow
def test_axe_finds_nothing_grave_in_the_cards_and_in_the_dialogs(open_page):
    page = open_page("/plugins")
    expect(card(page, "card")).to_be_visible()
    check(page)
    card(page, "mine").get_by_test_id("install").click()
    expect(page.get_by_test_id("start-install")).to_be_enabled()
    check(page, unfolded=False)
