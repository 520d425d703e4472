"""What the benchmark page offers when the gate cannot tell, and questions that come from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

A_WHILE = 40_000
"""Milliseconds, on a machine that may be busy with other tests."""

YAML = """
questions:
  - {id: mine, query: "What is five times five?", domain: mathematics, reference: "25", check: number}
  - {query: "Name a prime above ten.", domain: mathematics, criteria: [{name: prime, check: {kind: facts, facts: [["11", "13"]]}}]}
"""

SAMPLES = (
    {"input": "Which is larger?", "choices": ["623", "175"], "target": "A", "id": "larger"},
    {"doc": {}, "doc_id": 7, "arguments": [["Q: 3 + 4 =\nA:"]], "target": "7"},
)
"""One of inspect_ai, one that lm-evaluation-harness has logged."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, scripted_server) -> Iterator[Any]:
    started = scripted_server(tmp_path_factory.mktemp("data"), "tests.tmde_ui.benchmark.server", "0", "few")
    yield started
    code, log = started.stop()
    assert code == 0
    assert "Traceback" not in log, log


def lines(*entries: object) -> bytes:
    return "\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries).encode()


def choose(page: Page, name: str, content: bytes) -> Any:
    """Give a file to the dialog; its report."""
    page.get_by_test_id("import-file").set_input_files({"name": name, "mimeType": "", "buffer": content})
    return expect(page.get_by_test_id("import-report"))


def test_a_candidate_is_asked_all_questions_and_the_gate_decides_again(open_page, server):
    adapter = server.do("adapter", knows=0.6, deep=True)
    assert server.do("judge", adapter=adapter) == "candidate"
    page = open_page("/benchmark")
    page.get_by_test_id("tab-automatic").click()
    decisions = page.get_by_test_id("decision").filter(has_text=adapter[:8])
    expect(decisions).to_have_count(1)
    expect(decisions).to_contain_text("candidate")
    server.do("hold", after=3)
    decisions.get_by_test_id("gate-full").click()
    expect(decisions).to_contain_text("The full benchmark has started. The gate decides again after it.")
    expect(page.get_by_test_id("benchmark-progress")).to_contain_text("full, the Proposer alone")
    expect(page.get_by_test_id("benchmark-figures")).to_contain_text("3 of 60", timeout=A_WHILE)
    server.do("open")
    expect(decisions).to_have_count(2, timeout=A_WHILE)
    expect(decisions.first).to_contain_text("proven")
    expect(decisions.first).to_contain_text("30 questions")
    expect(page.get_by_test_id("gate-full")).to_have_count(0)


def test_questions_come_from_a_file_of_ours_and_of_other_tools(open_page):
    page = open_page("/benchmark")
    page.get_by_test_id("tab-questions").click()
    page.get_by_test_id("import-questions").click()
    choose(page, "own.yaml", YAML.encode()).to_contain_text("2 questions imported")
    page.get_by_test_id("import-domain").select_option("science")
    page.get_by_test_id("import-difficulty").select_option("hard")
    choose(page, "samples.jsonl", lines(*SAMPLES)).to_contain_text("2 questions imported")
    page.keyboard.press("Escape")
    own = page.get_by_test_id("own-question")
    expect(own).to_have_count(4)
    expect(own.filter(has_text="mine · Mathematics, medium")).to_have_count(1)
    expect(own.filter(has_text=re.compile("larger · Science, hard.*checked automatically"))).to_have_count(1)


def test_a_file_with_faults_is_refused_whole_and_every_fault_is_listed(open_page):
    page = open_page("/benchmark", refusals=(400, 422))
    before = page.get_by_test_id("own-question").count()
    page.get_by_test_id("tab-questions").click()
    page.get_by_test_id("import-questions").click()
    fine = {"query": "What is nine minus two?", "domain": "mathematics", "reference": "7"}
    choose(page, "faulty.jsonl", lines(fine, "{", {"query": "", "domain": "science"}, fine)).to_contain_text(
        "Nothing was imported"
    )
    reasons = page.get_by_test_id("import-reasons").locator("li")
    expect(reasons).to_have_count(3)
    expect(reasons.nth(0)).to_contain_text("Line 2: This is not valid JSON")
    expect(reasons.nth(1)).to_contain_text("Line 3: question: is empty")
    expect(reasons.nth(2)).to_contain_text("Line 4")
    choose(page, "empty.jsonl", b"\n").to_contain_text("holds no questions")
    choose(page, "odd.yaml", b"a: b").to_contain_text("must be a list of questions")
    page.reload()
    expect(page.get_by_test_id("own-question")).to_have_count(before)
