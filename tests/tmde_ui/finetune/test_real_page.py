"""A person trains on the page, with the trainer that ships, on a model of a few thousand parameters; the server is `tmde serve`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import httpx
import pytest
from playwright.sync_api import expect

from tmde_cpu.testing import make_tiny_model

pytestmark = pytest.mark.slow

A_WHILE = 180_000
"""Milliseconds. A trainer takes its time to import its libraries, on a machine that may be busy with other tests."""

SETTINGS = """
[finetune]
base_model = "{model}"
min_traces = 5
batch_size = 2
gradient_accumulation_steps = 1
max_seq_length = 512

[benchmark]
after_training = false

[supervisor]
niceness = 0
"""


def test_a_click_on_the_page_ends_in_an_adapter(browser, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "tmde.toml").write_text(SETTINGS.format(model=make_tiny_model(tmp_path / "tiny")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "tmde_core.cli", "--data-dir", str(data), "serve", "--port", "0"]
    log = (tmp_path / "server.log").open("w+")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        url = found[0]
        traces = (
            {"query": f"What is {n} times 7?", "finalAnswer": f"It is {n * 7}.", "qualityScore": 9} for n in range(24)
        )
        lines = "\n".join(map(json.dumps, traces))
        httpx.post(f"{url}/api/traces/import", content=lines, headers={"Content-Type": "application/x-ndjson"})
        page = browser.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{url}/finetune")
        expect(page.get_by_test_id("total-traces")).to_have_text("24")
        expect(page.get_by_test_id("eligible-traces")).to_have_text("24")
        page.get_by_test_id("run-now").click()
        page.get_by_label("Epochs").fill("2")
        mask = page.get_by_test_id("mask")
        expect(mask.locator("mark")).to_contain_text("It is", timeout=A_WHILE)
        expect(mask.locator("span").first).to_contain_text("times 7?")
        page.get_by_test_id("start-run").click()
        panel = page.get_by_test_id("training-progress")
        expect(panel).to_be_visible()
        expect(panel.get_by_test_id("run-figures")).to_contain_text(re.compile(r"\d+ of \d+"), timeout=A_WHILE)
        expect(page.get_by_test_id("run-result")).to_contain_text("The adapter is ready", timeout=A_WHILE)
        expect(panel.locator("figure")).to_have_attribute("aria-label", re.compile(r"from \d.* to \d"))
        expect(page.get_by_test_id("run-loss").first).to_contain_text("loss")
        page.get_by_test_id("run").first.locator("a").first.click()
        page.wait_for_url("**/finetune/*-*")
        expect(page.get_by_test_id("used-trace")).to_have_count(24)
        run_id = page.url.rsplit("/", 1)[1]
        assert httpx.get(f"{url}/api/lora/{run_id}").json()["isValid"]
        assert errors == []
        page.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
        log.seek(0)
        text = log.read()
        log.close()
    assert "Traceback" not in text
