"""What the training pages say while another process installs the packages of a backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, training_server) -> Iterator[Any]:
    started = training_server(tmp_path_factory.mktemp("data"))
    started.do("traces", number=130)
    yield started
    code, log = started.stop()
    assert code == 0
    assert "Traceback" not in log, log


def test_the_page_the_dialog_and_the_run_say_how_far_the_packages_are(open_page, server):
    server.do("install", done=3)
    page = open_page("/finetune")
    line = page.get_by_test_id("packages-line")
    expect(line).to_have_text(
        "The packages of training (waiting) are being installed: 3 of 9 (torch, 200 MB). You can work meanwhile."
    )
    page.get_by_test_id("run-now").click()
    words = "Its packages are being installed: 3 of 9 (torch, 200 MB). A run waits for them."
    expect(page.get_by_test_id("waits-waiting")).to_have_text(words)
    expect(page.get_by_test_id("install-waiting")).to_have_count(0)
    expect(page.get_by_test_id("waits-pretend")).to_be_hidden()
    page.get_by_test_id("backend-waiting").check()
    expect(page.get_by_test_id("preview")).to_contain_text("Waiting for the packages of training: 3 of 9")
    page.get_by_test_id("start-run").click()
    panel = page.get_by_test_id("training-progress")
    expect(panel).to_contain_text("Waiting for the packages of training: 3 of 9 (torch, 200 MB).")
    server.do("install", done=7)
    expect(panel).to_contain_text("Waiting for the packages of training: 7 of 9 (torch, 200 MB).")
    expect(line).to_contain_text("7 of 9")
    page.get_by_test_id("cancel-run").click()
    page.get_by_test_id("confirm-cancel").click()
    server.do("settled")
    server.do("end_install")
    expect(line).to_contain_text("are not installed yet. The next run installs them first")
