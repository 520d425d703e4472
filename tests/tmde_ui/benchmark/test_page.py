"""The benchmark pages in a real browser: the shipped questions and checks, and a model that follows a script."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.slow

A_WHILE = 40_000
"""Milliseconds. Some checks run code in a sandbox, on a machine that may be busy with other tests."""

SCRIPT = "tests.tmde_ui.benchmark.server"
WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
STICKING_OUT = """[...document.querySelectorAll('.card, dialog[open]')].flatMap(card => [...card.querySelectorAll('*')]
    .filter(e => !e.closest('pre, .visually-hidden, svg, .chart-x, .chart-marks, option') && e.getBoundingClientRect().right > card.getBoundingClientRect().right + 1)
    .map(e => e.outerHTML.slice(0, 200)))"""

CUT_OFF = "[...document.querySelectorAll('.badge > span:last-child')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.textContent)"


class Story:
    """What the server has been through before the tests: a baseline, a harmful adapter, and a good one that is active."""

    def __init__(self, server: Any) -> None:
        self.base = server.do("run", base=True)
        self.bad = server.do("adapter", knows=0.0)
        self.verdict = server.do("judge", adapter=self.bad)
        self.good = server.do("adapter", knows=0.95)
        server.do("hostile", on=True)
        server.do("judge", adapter=self.good)
        server.do("hostile", on=False)
        server.do("activate", adapter=self.good)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, scripted_server) -> Iterator[Any]:
    started = scripted_server(tmp_path_factory.mktemp("data"), SCRIPT)
    yield started
    code, log = started.stop()
    assert code == 0
    assert "Traceback" not in log, log


@pytest.fixture(scope="module")
def story(server) -> Story:
    return Story(server)


def panel(page: Page) -> Locator:
    return page.get_by_test_id("benchmark-progress")


def figures(page: Page) -> Locator:
    return page.get_by_test_id("benchmark-figures")


def tab(page: Page, key: str) -> None:
    """Show what is behind a tab."""
    page.get_by_test_id(f"tab-{key}").click()


def unfold(page: Page) -> None:
    """Show the questions of the comparison."""
    page.locator("[data-testid=questions]:not([open]) > summary").first.click()


def result(page: Page) -> Any:
    return expect(page.get_by_test_id("benchmark-result"))


# ------------------------------------------------------------------------------------- a run, from a click


def test_a_click_on_an_empty_page_ends_in_a_score_and_every_answer(open_page, server):
    """Reloaded in the middle, watched from a second tab, and down to one answer with its checks."""
    page = open_page("/benchmark")
    expect(page.get_by_test_id("empty")).to_contain_text("Start with a quick run of the base model")
    expect(page.get_by_test_id("tmde-score")).to_have_count(0)
    server.do("hold", after=4)
    page.get_by_test_id("begin").click()
    expect(page.get_by_test_id("who")).to_have_value("base")
    page.get_by_test_id("how").select_option("proposer")
    page.get_by_test_id("start-benchmark").click()
    expect(page.get_by_test_id("benchmark-dialog")).to_be_hidden()
    expect(figures(page)).to_contain_text("4 of 10", timeout=A_WHILE)
    expect(page.get_by_test_id("run-benchmark")).to_be_disabled()
    expect(page.get_by_test_id("empty")).to_be_hidden()
    expect(page.get_by_test_id("jobs")).to_contain_text("Benchmark 40 %")
    page.reload()
    expect(figures(page)).to_contain_text("4 of 10")
    other = open_page("/benchmark")
    expect(figures(other)).to_contain_text("4 of 10")
    server.do("open")
    for tab in (page, other):
        result(tab).to_contain_text("TMDE score", timeout=A_WHILE)
        expect(tab.get_by_test_id("tmde-score")).to_have_text(re.compile(r"^\d+\.\d$"))
        expect(tab.get_by_test_id("score-quality")).to_contain_text("95 % interval")
        expect(tab.get_by_test_id("empty")).to_be_hidden()
    expect(page.get_by_test_id("vs-baseline")).to_contain_text("This is the base model")
    page.get_by_test_id("to-answers").click()
    page.wait_for_url("**/benchmark/*-*")
    expect(page.get_by_test_id("record")).to_contain_text("by you")
    expect(page.get_by_test_id("question")).to_have_count(10)
    page.get_by_test_id("question").last.locator("summary").first.click()
    answer = page.get_by_test_id("answer")
    expect(answer).to_contain_text("10 of 10")
    expect(answer.locator(".criteria li").first).to_be_visible()


def test_nothing_moves_while_answers_come(open_page, server, story):
    where = "[...document.querySelectorAll('main h1, main h2, [data-testid=benchmark-figures] *')].map(e => [e.tagName, Math.round(e.getBoundingClientRect().top)].join(' '))"
    server.do("hold", after=1)
    server.do("start")
    page = open_page("/benchmark")
    expect(figures(page)).to_contain_text("1 of 10", timeout=A_WHILE)
    # What is compared is drawn after the rest: until nothing has moved for a second, it is the page that still comes.
    page.wait_for_function(
        f"""() => {{
            const now = {where}.join(), old = window.steady;
            if (old?.now !== now) window.steady = {{now, since: performance.now()}};
            return old?.now === now && performance.now() - old.since > 1000;
        }}""",
        timeout=A_WHILE,
    )
    before = page.evaluate(where)
    server.do("more", number=3)
    expect(figures(page)).to_contain_text("4 of 10", timeout=A_WHILE)
    assert page.evaluate(where) == before
    page.get_by_test_id("cancel-benchmark").click()
    page.get_by_test_id("confirm-cancel").click()
    result(page).to_contain_text("Cancelled after")
    server.do("open")


def test_cancelling_asks_once_and_resuming_asks_only_the_rest(open_page, server, story):
    server.do("hold", after=4)
    server.do("start")
    page = open_page("/benchmark")
    expect(figures(page)).to_contain_text("4 of 10", timeout=A_WHILE)
    page.get_by_test_id("cancel-benchmark").click()
    expect(page.get_by_test_id("cancel-dialog")).to_contain_text("4 of 10 answers are finished")
    page.get_by_role("button", name="Keep running").click()
    expect(page.get_by_test_id("cancel-dialog")).to_have_count(0)
    page.get_by_test_id("cancel-benchmark").click()
    page.get_by_test_id("confirm-cancel").click()
    result(page).to_contain_text("Cancelled after 4 of 10 answers. These answers are kept.")
    server.do("open")
    page.get_by_test_id("resume-benchmark").click()
    result(page).to_contain_text("TMDE score", timeout=A_WHILE)
    expect(figures(page)).to_contain_text("10 of 10")


def test_a_custom_run_without_questions_is_refused_in_place(open_page):
    page = open_page("/benchmark")
    page.get_by_test_id("run-benchmark").click()
    page.get_by_test_id("type-custom").check()
    page.get_by_test_id("start-benchmark").click()
    expect(page.get_by_test_id("benchmark-said")).to_contain_text("Choose at least one question")
    page.get_by_test_id("type-quick").check()
    page.get_by_test_id("further").locator("summary").click()
    page.get_by_label("Repeats per question").fill("11")
    page.get_by_test_id("start-benchmark").click()
    expect(page.get_by_test_id("benchmark-said")).to_contain_text("not a whole number from 1 to 10")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("benchmark-dialog")).to_be_hidden()
    expect(page.get_by_test_id("run-benchmark")).to_be_focused()
    expect(panel(page)).to_have_count(0)


# ---------------------------------------------------------------------------------------- what was found


def test_the_score_has_its_differences_with_their_intervals_and_what_they_mean(open_page, server, story):
    run = server.do("run", adapterId=story.bad)
    page = open_page("/benchmark")
    expect(page.get_by_test_id("score-line")).to_contain_text(
        re.compile(rf"Adapter .*{story.good[:8]}")
    )  # it answers now
    expect(page.get_by_test_id("not-answering")).to_have_count(0)
    page = open_page(f"/benchmark?adapter={story.bad}")
    expect(page.get_by_test_id("not-answering")).to_contain_text(re.compile(rf"Adapter .*{story.good[:8]}.* is active"))
    against = page.get_by_test_id("vs-baseline")
    expect(against.locator(".difference")).to_have_text(re.compile(r"^-\d+\.\d ± \d+\.\d$"))
    expect(against).to_contain_text("worse")
    expect(page.get_by_test_id("vs-previous")).to_contain_text("over 10 questions")
    expect(page.get_by_test_id("score-line").get_by_role("link").first).to_have_attribute("href", f"/benchmark/{run}")


def test_an_adapter_that_is_worse_is_told_until_somebody_dismisses_it(open_page, story):
    assert story.verdict == "held-back"
    page = open_page("/benchmark")
    alert = page.get_by_test_id("alert").filter(has_text="worse and held back")
    expect(alert).to_contain_text(story.bad[:8])
    tab(page, "automatic")
    expect(page.get_by_test_id("decisions")).to_contain_text("held back")
    alert.get_by_test_id("dismiss").click()
    expect(alert).to_have_count(0)
    page.reload()
    tab(page, "automatic")
    expect(page.get_by_test_id("gate-words")).to_contain_text("If the adapter is worse, it is held back with an alert")
    expect(page.get_by_test_id("alert").filter(has_text="worse and held back")).to_have_count(0)


def test_before_and_after_an_activation_stand_side_by_side_down_to_both_answers(open_page, story):
    page = open_page("/benchmark")
    tab(page, "activations")
    switch = page.get_by_test_id("switch").first
    expect(switch).to_contain_text(re.compile(rf"Adapter .*{story.good[:8]}.* replaced the base model"))
    expect(switch).to_contain_text("over 10 questions", timeout=A_WHILE)
    table = page.get_by_test_id("comparison-table")
    page.get_by_test_id("against").select_option("alone")
    expect(table).to_have_count(0)
    switch.get_by_test_id("switch-answers").click()
    expect(table).to_contain_text(re.compile(rf"adapter .*{story.good[:8]}"))
    expect(table).to_contain_text("Mathematics")
    expect(table.locator("tbody tr").nth(1).locator(".change")).to_have_text(re.compile(r"^[+-]?\d+\.\d ± \d+\.\d, p "))
    question = page.get_by_test_id("question").filter(has_text="+").first
    question.locator("summary").first.click()
    sides = question.get_by_test_id("answers").locator("> div")
    expect(sides).to_have_count(2)
    expect(sides.first).to_contain_text("the base model")
    expect(sides.last.get_by_test_id("answer").first).to_contain_text("of 10")


def test_answers_of_models_only_ever_become_harmless_html(open_page, server, story):
    page = open_page(f"/benchmark?adapter={story.good}")
    page.get_by_test_id("benchmark-run").last.get_by_role("link").first.click()
    page.wait_for_url("**/benchmark/*-*")
    page.get_by_test_id("question").first.locator("summary").first.click()
    answer = page.get_by_test_id("answer").last
    expect(answer).to_contain_text("a good one")
    assert page.locator("main img").count() == 0
    assert page.locator("main script").count() == 0
    assert page.locator("main a[href^='javascript:']").count() == 0


def test_the_tabs_of_the_page_are_moved_through_by_keyboard(open_page, story):
    page = open_page("/benchmark")
    page.get_by_test_id("tab-runs").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_test_id("tab-domains")).to_be_focused()
    expect(page.get_by_test_id("radar")).to_be_visible()
    expect(page.get_by_test_id("benchmark-run").first).to_be_hidden()
    page.keyboard.press("End")
    expect(page.get_by_test_id("gate-words")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_test_id("tab-runs")).to_have_attribute("aria-selected", "true")


def test_the_base_model_and_adapters_are_told_apart_in_the_chart(open_page, story):
    chart = open_page("/benchmark").get_by_test_id("score-chart")
    expect(chart.locator("path.line.reference")).to_have_count(1)
    expect(chart.locator("path.holes")).to_have_count(1)
    expect(chart.locator(".legend")).to_contain_text("quick, the Proposer alone: adapters")
    expect(chart.locator(".legend")).to_contain_text("quick, the Proposer alone: the base model")


def test_both_answers_are_one_click_away_from_the_score(open_page, story):
    page = open_page("/benchmark")
    page.get_by_test_id("vs-baseline-answers").click()
    expect(page.get_by_test_id("comparison-table")).to_contain_text("the base model")
    expect(page.get_by_test_id("question").first).to_be_visible()


def test_domains_are_a_radar_beside_bars(open_page, story):
    page = open_page("/benchmark")
    tab(page, "domains")
    radar, bars = page.get_by_test_id("radar"), page.get_by_test_id("bars")
    expect(radar.locator("figure")).to_have_attribute(
        "aria-label", re.compile("Mathematics .*Creative writing .*base model")
    )
    expect(bars.locator("li")).to_have_count(5)
    assert abs(radar.bounding_box()["y"] - bars.bounding_box()["y"]) < 1
    assert radar.bounding_box()["x"] < bars.bounding_box()["x"]


def test_everything_leaves_as_a_file(open_page, story):
    page = open_page("/benchmark")
    with page.expect_download() as started:
        page.get_by_test_id("export-json").click()
    exported = json.loads(Path(started.value.path()).read_text())
    assert exported["total"] == len(exported["items"]) > 3
    with page.expect_download() as started:
        page.get_by_test_id("export-csv").click()
    with Path(started.value.path()).open(newline="") as file:
        assert next(csv.reader(file))[0] == "run_id"
    with page.expect_download() as started:
        page.get_by_test_id("report").first.click()
    assert started.value.suggested_filename.endswith(".html")
    assert "<h1>Benchmark of" in Path(started.value.path()).read_text()


def test_a_run_can_be_deleted_and_asks_once(open_page, server, story):
    run = server.do("run", adapterId=story.bad)
    page = open_page(f"/benchmark/{run}")
    page.get_by_test_id("delete").click()
    page.get_by_test_id("confirm-delete").click()
    page.wait_for_url("**/benchmark")
    page = open_page(f"/benchmark/{run}", status=404)
    expect(page.get_by_test_id("problem")).to_contain_text("no benchmark run")


# --------------------------------------------------------------------------------------- filters, chart


def test_filters_are_in_the_address_and_survive_a_reload(open_page, story):
    page = open_page("/benchmark")
    page.get_by_test_id("filter").locator("summary").click()
    page.get_by_test_id("filter-adapter").select_option(story.good)
    page.get_by_test_id("filter-mode").select_option("proposer")
    expect(page).to_have_url(re.compile(f"adapter={story.good}.*mode=proposer"))
    rows = page.get_by_test_id("benchmark-run")
    expect(rows.filter(has_not_text=story.good[:8])).to_have_count(0)
    expect(rows.first).to_contain_text(story.good[:8])
    page.reload()
    expect(page.get_by_test_id("filter-adapter")).to_have_value(story.good)
    expect(rows.first).to_contain_text(story.good[:8])
    expect(rows.filter(has_not_text=story.good[:8])).to_have_count(0)
    page.get_by_test_id("filter-type").select_option("full")
    expect(page.get_by_test_id("no-runs-match")).to_be_visible()
    page.get_by_test_id("show-all").click()
    expect(page).to_have_url(re.compile("/benchmark$"))
    expect(rows.filter(has_text=story.bad[:8]).first).to_be_visible()


def test_days_the_wrong_way_round_are_told_at_the_filter(open_page, story):
    page = open_page("/benchmark")
    page.get_by_test_id("filter").locator("summary").click()
    page.get_by_test_id("filter-start").fill("2026-11-24")
    page.get_by_test_id("filter-end").fill("2026-11-01")
    expect(page.get_by_test_id("filter-problem")).to_contain_text("Swap them")
    page.get_by_test_id("filter-end").fill("2030-01-01")
    expect(page.get_by_test_id("filter-problem")).to_be_hidden()


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory, scripted_server) -> Iterator[Any]:
    """A server with a thousand runs over eight months."""
    started = scripted_server(tmp_path_factory.mktemp("thousand"), SCRIPT)
    started.do("past", number=1_000)
    yield started
    assert started.stop()[0] == 0


def test_a_thousand_runs_are_one_line_with_its_band_that_can_be_gone_into(browser, thousand):
    page = browser.new_page()
    page.goto(f"{thousand.url}/benchmark")
    words = page.get_by_test_id("chart-words")
    expect(words).to_contain_text("1,000 runs")
    chart = page.get_by_test_id("score-chart")
    assert len(re.findall("L", chart.locator("path.line").get_attribute("d"))) > 500
    expect(chart.locator("path.band")).to_have_count(1)
    plot = chart.locator(".plot")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 90)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 100, steps=4)
    page.mouse.up()
    expect(words).to_contain_text(re.compile(r"^(9\d|10\d) runs"))
    page.get_by_test_id("zoom-closer").click()
    expect(words).to_contain_text(re.compile(r"^(4|5)\d runs"))
    page.get_by_test_id("zoom-earlier").click()
    page.get_by_test_id("zoom-all").click()
    expect(words).to_contain_text("1,000 runs")
    zoom = chart.locator(".zoom")
    zoom.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    expect(chart.locator(".zoom-words")).to_contain_text("the base model, quick, the Proposer alone")
    page.keyboard.press("Enter")
    page.wait_for_url("**/benchmark/*-*")
    page.close()


def test_activations_are_marked_in_the_chart(open_page, story):
    chart = open_page("/benchmark").get_by_test_id("score-chart")
    expect(chart.locator("path.mark")).to_have_count(1)
    expect(chart.locator(".chart-marks")).to_contain_text(story.good[:8])
    expect(chart.get_by_test_id("chart-words")).to_contain_text("1 activation marked")


# ------------------------------------------------------------------------------------------- questions


def test_a_question_of_ones_own_is_tried_kept_changed_asked_and_removed(open_page, server):
    page = open_page("/benchmark")
    tab(page, "questions")
    own = page.get_by_test_id("own-questions")
    expect(own).to_contain_text("No questions yet")
    page.get_by_test_id("new-question").click()
    page.get_by_label("Question", exact=True).fill("What is six times seven?")
    page.get_by_label("Name", exact=True).fill("six-seven")
    page.get_by_label("Correct number").fill("forty-two")
    page.get_by_label("Answer to check").fill("It is 42.")
    page.get_by_test_id("try-checks").click()
    expect(page.get_by_test_id("criterion-wrong")).to_contain_text("'forty-two' is not a number")
    page.get_by_label("Correct number").fill("42")
    page.get_by_test_id("add-criterion").click()
    second = page.get_by_test_id("criterion").nth(1)
    second.get_by_label("Criterion").fill("short")
    second.get_by_test_id("kind").select_option("count")
    second.get_by_label("At most").fill("2")
    page.get_by_test_id("try-checks").click()
    expect(page.get_by_test_id("tried")).to_contain_text("5 of 10")
    expect(page.get_by_test_id("tried")).to_contain_text("short: It has 3 words; wanted 0 to 2.")
    second.get_by_label("At most").fill("3")
    page.get_by_test_id("try-checks").click()
    expect(page.get_by_test_id("tried")).to_contain_text("10 of 10")
    page.get_by_test_id("keep-question").click()
    expect(own).to_contain_text("six-seven · Reasoning, medium, 2 criteria: checked automatically")
    page.get_by_test_id("change-question").click()
    expect(page.get_by_label("Correct number").first).to_have_value("42")
    page.get_by_test_id("question-dialog").get_by_label("Difficulty").select_option("hard")
    page.get_by_test_id("keep-question").click()
    expect(own).to_contain_text("Reasoning, hard")
    page.get_by_test_id("run-benchmark").click()
    page.get_by_test_id("type-custom").check()
    page.get_by_test_id("start-benchmark").click()
    result(page).to_contain_text("TMDE score", timeout=A_WHILE)
    tab(page, "runs")
    expect(page.get_by_test_id("benchmark-run").first).to_contain_text("custom")
    tab(page, "questions")
    page.get_by_test_id("remove-question").click()
    page.get_by_test_id("confirm-remove").click()
    expect(own).to_contain_text("No questions yet")


def test_a_question_that_is_built_in_already_is_refused_in_place(open_page):
    page = open_page("/benchmark")
    tab(page, "questions")
    page.get_by_test_id("new-question").click()
    page.get_by_label("Question", exact=True).fill(
        "Count from 1 to 10. Write only the numbers, with a comma between them."
    )
    page.get_by_label("Correct number").fill("10")
    page.get_by_test_id("keep-question").click()
    expect(page.get_by_test_id("question-said")).to_contain_text("math-01")


# ------------------------------------------------------------------------------------------ look, frame


@pytest.mark.parametrize("width", [320, 380, 1280])
def test_nothing_sticks_out_at_any_width_while_it_runs_and_after(open_page, server, story, width):
    server.do("hold", after=2)
    run = server.do("start")
    page = open_page("/benchmark", width=width, dark=width == 380)
    expect(figures(page)).to_contain_text("2 of 10", timeout=A_WHILE)
    expect(page.get_by_test_id("questions")).to_be_visible(timeout=A_WHILE)
    unfold(page)
    page.get_by_test_id("question").first.locator("summary").first.click()
    expect(page.get_by_test_id("answer").first).to_be_visible()
    assert not page.evaluate(WIDE)
    assert page.evaluate(STICKING_OUT) == []
    assert page.evaluate(CUT_OFF) == []
    page.set_viewport_size({"width": 800, "height": 900})
    assert page.evaluate(CUT_OFF) == []
    page.set_viewport_size({"width": width, "height": 900})
    server.do("open")
    result(page).to_contain_text("TMDE score", timeout=A_WHILE)
    for key in ("domains", "activations", "questions", "automatic", "runs"):
        tab(page, key)
        expect(page.locator(f"#panel-{key}")).to_be_visible()
        assert not page.evaluate(WIDE)
    page.get_by_test_id("run-benchmark").click()
    page.get_by_test_id("type-custom").check()
    assert page.evaluate(STICKING_OUT) == []
    page.keyboard.press("Escape")
    tab(page, "questions")
    page.get_by_test_id("new-question").click()
    expect(page.get_by_test_id("criterion")).to_be_visible()
    assert page.evaluate(STICKING_OUT) == []
    page.goto(f"{server.url}/benchmark/{run}")
    expect(page.get_by_test_id("comparison-table")).to_be_visible(timeout=A_WHILE)
    assert not page.evaluate(WIDE)
    assert page.evaluate(STICKING_OUT) == []


def test_everything_that_can_be_operated_has_a_name_and_an_id_of_its_own(open_page, story):
    nameless = """[...document.querySelectorAll('button, a[href], input, select, textarea, dialog, progress')].filter(e =>
        !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim() || e.title)).map(e => e.outerHTML)"""
    twice = """[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, at, all) => all.indexOf(id) !== at)"""
    page = open_page("/benchmark")
    page.get_by_test_id("run-benchmark").click()
    expect(page.get_by_test_id("benchmark-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    tab(page, "questions")
    page.get_by_test_id("new-question").click()
    expect(page.get_by_test_id("criterion")).to_be_visible()
    assert page.evaluate(nameless) == []
    assert page.evaluate(twice) == []


def test_the_machine_is_read_out_live(open_page):
    page = open_page("/benchmark")
    expect(page.get_by_test_id("meter-cpu")).to_have_text(re.compile(r"^\d+ % of \d+ cores?$"))
    expect(page.get_by_test_id("meter-ram")).to_have_text(re.compile(r"^\d.* of \d+.* GB$"))
    expect(page.get_by_test_id("meter-vram")).not_to_have_text("–")


def test_benchmarks_can_be_scheduled_and_the_gate_says_what_that_means(open_page):
    page = open_page("/benchmark")
    tab(page, "automatic")
    expect(page.get_by_test_id("schedule-words")).to_contain_text("Start a benchmark yourself")
    expect(page.get_by_test_id("gate-words")).to_contain_text("No benchmark is scheduled")
    page.get_by_test_id("edit-schedule").locator("summary").click()
    page.get_by_label("Cron expression").fill("30 3 * * 1")
    page.get_by_test_id("save-schedule").click()
    expect(page.get_by_test_id("schedule-said")).to_contain_text("Saved")
    expect(page.get_by_test_id("gate-words")).to_contain_text("The active adapter is measured again")
    page.get_by_label("Cron expression").fill("off")
    page.get_by_test_id("save-schedule").click()
    expect(page.get_by_test_id("schedule-words")).to_contain_text("Switched off")


def test_an_unknown_run_is_not_found_in_the_frame(open_page):
    page = open_page("/benchmark/5f0e3c7e-0000-4000-8000-000000000000", status=404)
    expect(page.get_by_test_id("problem")).to_contain_text("no benchmark run")


# --------------------------------------------------------------------------------------------- restart


def test_a_killed_and_restarted_server_goes_on_with_the_run_before_the_open_page(browser, tmp_path, scripted_server):
    first = scripted_server(tmp_path, SCRIPT)
    first.do("hold", after=4)
    first.do("start")
    page = browser.new_page()
    page.goto(f"{first.url}/benchmark")
    expect(figures(page)).to_contain_text("4 of 10", timeout=A_WHILE)
    first.kill()
    second = scripted_server(tmp_path, SCRIPT, first.url.rsplit(":", 1)[1])
    try:
        expect(page.get_by_test_id("tmde-score")).to_be_visible(timeout=60_000)
        expect(page.get_by_test_id("benchmark-run")).to_have_count(1)
    finally:
        page.close()
        code, log = second.stop()
    assert code == 0
    assert "Traceback" not in log, log
