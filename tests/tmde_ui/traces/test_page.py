"""The trace pages in a real browser, on 130 traces."""

from __future__ import annotations

import json
import re
import sqlite3

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def traces(server):
    server.do("traces", number=130)


def test_traces_are_paged_in_both_directions(open_page):
    page = open_page("/traces")
    expect(page.get_by_test_id("trace")).to_have_count(25)
    expect(page.get_by_test_id("range")).to_have_text(re.compile(r"1–25 of \d+"))
    expect(page.get_by_test_id("newer")).to_be_disabled()
    for first in (26, 51):
        page.get_by_test_id("older").click()
        expect(page.get_by_test_id("range")).to_have_text(re.compile(rf"{first}–"))
    page.get_by_test_id("newer").click()
    expect(page.get_by_test_id("range")).to_have_text(re.compile("26–50"))


def test_searching_filters_while_typing_and_stays_in_the_address(open_page):
    page = open_page("/traces")
    page.get_by_test_id("search").click()
    page.keyboard.type("Question 121")
    expect(page.get_by_test_id("trace")).to_have_count(1)
    expect(page.get_by_test_id("trace")).to_contain_text("Question 121")
    expect(page.get_by_test_id("search")).to_have_value("Question 121")
    expect(page.get_by_test_id("search")).to_be_focused()
    page.wait_for_url("**/traces?q=Question+121")
    page.reload()
    expect(page.get_by_test_id("search")).to_have_value("Question 121")
    expect(page.get_by_test_id("trace")).to_have_count(1)
    page.get_by_test_id("search").fill("zebra")
    expect(page.get_by_test_id("nothing-found")).to_be_visible()


def test_filters_narrow_the_list(open_page):
    page = open_page("/traces")
    page.get_by_test_id("rated").check()
    expect(page.get_by_test_id("range")).to_have_text("1–13 of 13")
    page.get_by_test_id("source").select_option("ui")
    expect(page.get_by_test_id("range")).to_have_text(re.compile(r"of [4-9]$"))
    page.get_by_test_id("quality").select_option("10")
    expect(page.get_by_test_id("nothing-found")).to_be_visible()


def test_nonsense_in_the_address_is_taken_for_no_filter(open_page):
    page = open_page("/traces?quality=hundred&source=mars&q=%00%ff")
    expect(page.get_by_test_id("filters")).to_be_visible()


def test_a_trace_shows_everything_and_can_be_withdrawn_once(open_page):
    page = open_page("/traces?q=Question+129")
    page.get_by_test_id("trace").click()
    expect(page.get_by_test_id("question")).to_contain_text("Question 129")
    expect(page.get_by_test_id("round")).to_have_count(1)
    record = page.get_by_test_id("record")
    for words in (
        "scripted-1 on scripted",
        "420 read, 180 of them from the cache; 96 written",
        "1.9 s in total",
        "arithmetic",
    ):
        expect(record).to_contain_text(words)
    page.get_by_test_id("withdraw").click()
    page.get_by_test_id("reason").fill("It is wrong.")
    page.get_by_test_id("confirm-withdraw").click()
    expect(page.get_by_test_id("withdrawn")).to_contain_text("No adapter has been trained on it.")
    page.reload()
    expect(page.get_by_test_id("withdrawn")).to_contain_text("It is wrong.")
    expect(page.get_by_test_id("withdraw")).to_have_count(0)


def test_jsonl_is_imported_and_bad_lines_are_reported(open_page, tmp_path):
    file = tmp_path / "traces.jsonl"
    good = json.dumps({"query": "An imported aardvark?", "finalAnswer": "Yes."})
    file.write_text(f"{good}\nnot json\n" + json.dumps({"question": "no answer"}) + "\n")
    page = open_page("/traces")
    page.get_by_test_id("import").click()
    page.get_by_test_id("import-file").set_input_files(str(file))
    report = page.get_by_test_id("import-report")
    expect(report).to_contain_text("1 trace imported, 2 lines skipped.")
    expect(report).to_contain_text("Line 2:")
    expect(report).to_contain_text("Line 3: question: there is no such field. A trace has query.")
    page.keyboard.press("Escape")
    page.get_by_test_id("search").fill("aardvark")
    expect(page.get_by_test_id("trace")).to_have_count(1)


def test_a_second_import_says_so_and_offers_copies(open_page, tmp_path):
    file = tmp_path / "traces.jsonl"
    file.write_text(json.dumps({"query": "A twin tapir?", "finalAnswer": "Yes."}), encoding="utf-8-sig")
    page = open_page("/traces")
    page.get_by_test_id("import").click()
    report = page.get_by_test_id("import-report")
    page.get_by_test_id("import-file").set_input_files(str(file))
    expect(report).to_contain_text("1 trace imported.")
    expect(page.get_by_test_id("import-again")).to_have_count(0)
    page.get_by_test_id("import-file").set_input_files(str(file))
    expect(report).to_contain_text("0 traces imported, 1 line skipped. 1 is already here.")
    page.get_by_test_id("import-again").click()
    expect(report).to_contain_text("1 trace imported.")
    page.keyboard.press("Escape")
    page.get_by_test_id("search").fill("tapir")
    expect(page.get_by_test_id("trace")).to_have_count(2)


def test_the_original_projects_database_is_imported(open_page, tmp_path):
    file = tmp_path / "old.db"
    with sqlite3.connect(file) as database:
        database.executescript(
            "CREATE TABLE traces (id, created_at, query, final_answer, total_rounds, early_stopped, quality_score, user_rating, "
            "auto_score, proposer_model, skeptic_model, synthesizer_model, embedding_model, total_duration_ms, rag_duration_ms, "
            "synthesis_duration_ms, templates_used, metadata);"
            "CREATE TABLE rounds (id, trace_id, round_number, proposer_response, skeptic_response, proposer_duration_ms, skeptic_duration_ms);"
            "INSERT INTO traces (id, created_at, query, final_answer, total_rounds) VALUES "
            "('7d9f2f60-1111-4222-8333-444455556666', '2025-01-02T03:04:05', 'An okapi from before?', 'Yes.', 0);"
        )
    database.close()
    page = open_page("/traces")
    page.get_by_test_id("import").click()
    page.get_by_test_id("import-file").set_input_files(str(file))
    expect(page.get_by_test_id("import-report")).to_contain_text("1 trace imported.")


def test_a_file_of_something_else_is_refused_in_one_sentence(open_page, tmp_path):
    file = tmp_path / "empty.jsonl"
    file.write_bytes(b"")
    page = open_page("/traces", refusals=(400,))
    page.get_by_test_id("import").click()
    page.get_by_test_id("import-file").set_input_files(str(file))
    expect(page.get_by_test_id("import-report")).to_contain_text("The file is empty")


def test_a_dropped_file_is_imported(open_page):
    page = open_page("/traces")
    page.get_by_test_id("import").click()
    line = json.dumps({"query": "A dropped dromedary?", "finalAnswer": "Yes."})
    transfer = page.evaluate_handle(
        "(line) => { const data = new DataTransfer(); data.items.add(new File([line], 'drop.jsonl')); return data; }",
        line,
    )
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": transfer})
    expect(page.get_by_test_id("import-report")).to_contain_text("1 trace imported.")


def test_everything_is_exported(open_page):
    page = open_page("/traces")
    with page.expect_download() as download:
        page.get_by_test_id("export").click()
    lines = download.value.path().read_bytes().splitlines()
    assert len(lines) >= 130
    assert "finalAnswer" in json.loads(lines[0])


def test_an_unknown_trace_is_not_found_in_the_frame(open_page):
    page = open_page("/traces/nonsense", status=404)
    expect(page.get_by_test_id("problem")).to_contain_text("There is no trace")


def test_selected_traces_are_deleted_after_one_question(open_page):
    page = open_page("/traces")
    total = int(page.get_by_test_id("range").inner_text().split()[-1])
    page.get_by_test_id("select-trace").nth(0).check()
    page.get_by_test_id("select-trace").nth(1).check()
    expect(page.get_by_test_id("selected")).to_have_text("2 traces selected")
    page.get_by_test_id("delete-selected").click()
    page.get_by_role("button", name="Keep them").click()
    expect(page.get_by_test_id("select-trace").nth(1)).to_be_checked()
    page.get_by_test_id("delete-selected").click()
    page.get_by_test_id("confirm-delete").click()
    expect(page.get_by_test_id("deleted")).to_have_text("2 traces deleted. No adapter has been trained on them.")
    expect(page.get_by_test_id("range")).to_have_text(re.compile(rf"of {total - 2}$"))
    expect(page.get_by_test_id("stats")).to_contain_text(f"{total - 2} traces")
    expect(page.get_by_test_id("delete-selected")).to_be_hidden()
    page.get_by_test_id("select-all").check()
    expect(page.get_by_test_id("selected")).to_have_text("25 traces selected")
    page.get_by_test_id("select-all").uncheck()
    expect(page.get_by_test_id("delete-selected")).to_be_hidden()


def test_a_trace_is_deleted_from_its_own_page(open_page):
    page = open_page("/traces")
    address = page.get_by_test_id("trace").last.get_attribute("href")
    page = open_page(address)
    page.get_by_test_id("delete-trace").click()
    page.get_by_test_id("confirm-delete").click()
    page.wait_for_url("**/traces")
    open_page(address, status=404)
