"""The page of models, in both themes, as axe-core sees it: what it calls serious or critical fails a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.tmde_ui.accessibility import check, check_dialog

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, scripted_server: Any) -> Iterator[Any]:
    home: Path = tmp_path_factory.mktemp("data")
    started = scripted_server(home, "tests.tmde_ui.models.server")
    yield started
    started.stop()


def test_axe_finds_nothing_grave_on_the_page_and_in_its_dialogs(open_page):
    page = open_page("/models")
    expect(page.get_by_test_id("base-model")).to_have_count(2)
    page.get_by_test_id("role-proposer").get_by_test_id("test-model").click()
    expect(page.get_by_test_id("trial-speed")).to_be_visible()
    check(page)
    check_dialog(page, "use")
    plan = open_page("/models?get=tiny/Tiny-1B-GGUF")
    expect(plan.get_by_test_id("start-pull")).to_be_enabled()
    check(plan, unfolded=False)


def test_axe_finds_nothing_grave_in_the_hint_for_newcomers(open_page):
    page = open_page("/")
    expect(page.get_by_test_id("toy")).to_be_visible()
    check(page)
