"""A person asks on the page and the real embedded model answers; the server is `tmde serve` itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow

A_WHILE = 240_000
"""Milliseconds. The first answer includes loading the model, on a machine that may be busy with other tests."""


def test_a_question_on_the_page_is_answered_by_the_real_model(browser, tmp_path, embedded_model: Path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "models").symlink_to(embedded_model.parent, target_is_directory=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "tmde_core.cli", "--data-dir", str(data), "serve", "--port", "0"]
    log = (tmp_path / "server.log").open("w+")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        context = browser.new_context()
        page = context.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(found[0])
        page.get_by_test_id("options").locator("summary").click()
        page.get_by_label("Maximum rounds").select_option("1")
        page.get_by_test_id("query").fill("What is the capital of France?")
        page.get_by_test_id("ask-button").click()
        expect(page.get_by_test_id("final-answer")).to_have_text(re.compile(r"\w{3}"), timeout=A_WHILE)
        expect(page.get_by_test_id("score")).to_be_visible(timeout=A_WHILE)
        skeptic = page.get_by_test_id("skeptic")
        if (
            "did not have the required format" not in skeptic.inner_text()
        ):  # a critique that is cut off is shown as it came
            expect(skeptic).not_to_contain_text('"severity"')
        page.get_by_test_id("rate-10").check(force=True)
        expect(page.get_by_test_id("rating-said")).to_contain_text("You gave 10 of 10")
        page.goto(f"{found[0]}/plugins")
        expect(page.get_by_test_id("runtime-embedded")).to_contain_text("ready")
        expect(page.get_by_test_id("models")).to_contain_text("SmolLM2")
        assert errors == []
        context.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
        log.seek(0)
        text = log.read()
        log.close()
    assert "Traceback" not in text
