"""The training pages in a real browser, with a backend whose worker pretends, as slowly as a test wants."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tmde_core.finetune.supervision import supervisor

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=alert(1)> **loaded**"


def end_runs(directory: Path) -> None:
    """Whatever a failing test left alive."""
    for run_dir in (directory / "runs").glob("*"):
        supervisor.end(run_dir.name, run_dir, grace_seconds=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("data")
    yield directory
    end_runs(directory)


@pytest.fixture(scope="module")
def server(data: Path, training_server) -> Iterator[Any]:
    started = training_server(data)
    started.do("traces", number=130)
    yield started
    code, log = started.stop()
    assert code == 0
    assert "Traceback" not in log, log


@pytest.fixture(autouse=True)
def _idle(server) -> None:
    server.idle()


def panel(page: Page) -> Any:
    return page.get_by_test_id("training-progress")


def figures(page: Page) -> Any:
    return page.get_by_test_id("run-figures")


# ------------------------------------------------------------------------------------------- standing


def test_the_page_says_without_a_run_that_no_worker_is_there_to_train_it(open_page, server):
    page = open_page("/finetune")
    expect(page.get_by_test_id("status-line")).to_contain_text("Status: Idle")
    expect(page.get_by_test_id("worker-line")).to_be_hidden()
    server.do("place", place="worker")
    expect(page.get_by_test_id("worker-line")).to_have_text(
        "Runs are trained by a worker. No worker is running. Start tmde worker on this data directory."
    )
    server.do("place", place="server")
    expect(page.get_by_test_id("worker-line")).to_be_hidden()


def test_an_empty_page_says_how_to_fill_it(browser, tmp_path, training_server):
    fresh = training_server(tmp_path)
    page = browser.new_page()
    page.goto(f"{fresh.url}/finetune")
    expect(page.get_by_test_id("total-traces")).to_have_text("0")
    expect(page.get_by_test_id("eligible-traces-words")).to_contain_text("20 needed, 20 missing")
    expect(page.get_by_test_id("no-runs")).to_contain_text("Press Run Now")
    expect(page.get_by_test_id("status-line")).to_contain_text("Status: Idle · Last run: never · Next: ")
    page.get_by_test_id("run-now").click()
    expect(page.get_by_test_id("refusal")).to_contain_text("there are 0")
    page.get_by_test_id("start-run").click()
    expect(page.get_by_test_id("run-said")).to_contain_text("there are 0")
    page.close()
    assert fresh.stop()[0] == 0


def test_the_cards_and_the_line_say_how_things_stand(open_page):
    page = open_page("/finetune")
    expect(page.locator("h1")).to_have_text("Fine-tuning")
    expect(page.get_by_test_id("total-traces")).to_have_text("130")
    expect(page.get_by_test_id("eligible-traces")).to_have_text(re.compile(r"^\d+$"))
    expect(page.get_by_test_id("status-line")).to_contain_text(re.compile("Status: Idle · Last run: .+ · Next: .+"))
    expect(page.get_by_test_id("training-progress")).to_have_count(0)


@pytest.mark.parametrize("width", [320, 380, 1280])
def test_nothing_sticks_out_at_any_width_while_it_runs_and_after(open_page, server, width):
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    sticking_out = """[...document.querySelectorAll('.card, dialog[open]')].flatMap(card => [...card.querySelectorAll('*')]
        .filter(e => !e.closest('pre, .visually-hidden, svg, .chart-x') && e.getBoundingClientRect().right > card.getBoundingClientRect().right)
        .map(e => e.outerHTML.slice(0, 200)))"""
    run = server.run(steps=23, total=40, say="x" * 300)
    page = open_page("/finetune", width=width)
    expect(figures(page)).to_contain_text("23 of 40")
    assert not page.evaluate(wide)
    assert page.evaluate(sticking_out) == []
    server.order(then="fail", why="y" * 300)
    expect(page.get_by_test_id("failure")).to_be_visible()
    assert not page.evaluate(wide)
    page.get_by_test_id("run-now").click()
    expect(page.get_by_test_id("preview-figures")).to_be_visible()
    assert page.evaluate(sticking_out) == []
    page.goto(f"{server.url}/finetune/{run}")
    expect(page.get_by_test_id("used-traces")).to_be_visible()
    assert not page.evaluate(wide)
    assert page.evaluate(sticking_out) == []


def test_everything_that_can_be_operated_has_a_name(open_page, server):
    nameless = """[...document.querySelectorAll('button, a[href], input, select, textarea, dialog, progress')].filter(e =>
        !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim() || e.title)).map(e => e.outerHTML)"""
    server.run(steps=3)
    page = open_page("/finetune")
    expect(panel(page)).to_be_visible()
    assert page.evaluate(nameless) == []


# --------------------------------------------------------------------------------------------- dialog


def test_every_hyperparameter_has_its_range_and_a_word_on_what_it_does(open_page):
    page = open_page("/finetune")
    page.get_by_test_id("run-now").click()
    dialog = page.get_by_test_id("run-dialog")
    expect(dialog.get_by_label("LoRA rank")).to_have_value("16")
    expect(dialog).to_contain_text("4 – 128")
    expect(dialog).to_contain_text("0.00001 – 0.001")
    words = dialog.locator(".about").all_inner_texts()
    assert len(words) >= 15
    assert all(words)
    expect(page.get_by_test_id("backend-pretend")).to_be_checked()
    expect(page.get_by_test_id("backend-lacking")).to_be_disabled()
    expect(page.get_by_test_id("backends")).to_contain_text("Not available: No graphics card is installed.")


def test_the_preview_shows_what_would_be_learned(open_page):
    page = open_page("/finetune")
    page.get_by_test_id("run-now").click()
    expect(page.get_by_test_id("preview-examples")).to_contain_text("held out")
    expect(page.get_by_test_id("preview-time")).to_have_text("6 min 12 s")
    expect(page.get_by_test_id("preview-memory")).to_have_text("1.3 GB")
    expect(page.get_by_test_id("preview-fit-ram")).to_contain_text("it needs about 1.3 GB of")
    expect(page.get_by_test_id("preview-basis")).to_contain_text(re.compile("measure"))
    expect(page.locator(".columns")).to_be_visible()
    mask = page.get_by_test_id("mask")
    expect(mask.locator("mark")).to_have_text(re.compile(r"^It is \d+\.<\|im_end\|>$"))
    expect(mask.locator("span").first).to_contain_text("<|im_start|>user")


def test_a_run_that_does_not_fit_is_said_with_what_to_change(open_page, server):
    server.order(ram=9_000_000_000_000)
    try:
        page = open_page("/finetune", width=390)
        page.get_by_test_id("run-now").click()
        fit = page.get_by_test_id("preview-fit-ram")
        expect(fit).to_contain_text("Does not fit: it needs about 9000.0 GB of")
        expect(fit.locator("li").last).to_contain_text("choose a smaller base model")
        expect(page.get_by_test_id("start-run")).to_be_enabled()
    finally:
        server.order(ram=1_310_000_000)


def test_a_value_out_of_range_is_told_at_its_field_and_starts_nothing(open_page):
    page = open_page("/finetune")
    page.get_by_test_id("run-now").click()
    page.get_by_label("LoRA rank").fill("1000")
    page.get_by_label("Epochs").fill("many")
    expect(page.get_by_test_id("wrong-loraRank")).to_have_text("1000 is out of range; it must be from 4 to 128.")
    expect(page.get_by_test_id("wrong-epochs")).to_have_text("'many' is not a whole number from 1 to 10.")
    page.get_by_test_id("start-run").click()
    expect(page.get_by_test_id("run-said")).to_contain_text("Correct the marked fields")
    expect(page.get_by_label("LoRA rank")).to_have_value("1000")
    page.get_by_label("LoRA rank").fill("8")
    page.get_by_label("Epochs").fill("2")
    expect(page.get_by_test_id("wrong-loraRank")).to_be_hidden()
    expect(page.get_by_test_id("run-said")).to_be_hidden()
    expect(page.get_by_test_id("preview-figures")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("status-line")).to_contain_text("Status: Idle")


def test_enter_in_a_field_starts_nothing(open_page):
    page = open_page("/finetune")
    page.get_by_test_id("run-now").click()
    page.get_by_label("Epochs").fill("2")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("preview-figures")).to_be_visible()
    expect(page.get_by_test_id("run-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("run-dialog")).to_be_hidden()
    expect(page.get_by_test_id("run-now")).to_be_focused()
    expect(page.get_by_test_id("status-line")).to_contain_text("Idle")


def test_changes_are_previewed_by_themselves(open_page):
    page = open_page("/finetune")
    page.get_by_test_id("run-now").click()
    expect(page.get_by_test_id("preview-figures")).to_be_visible()
    expect(page.get_by_test_id("refusal")).to_have_count(0)
    page.get_by_label("Fewest examples").fill("1000")
    expect(page.get_by_test_id("refusal")).to_contain_text("1000")


def test_a_preset_fills_the_form(open_page):
    page = open_page("/finetune")
    page.get_by_test_id("run-now").click()
    before = page.get_by_label("Epochs").input_value()
    page.get_by_role("button", name="Quick look").click()
    expect(page.get_by_label("Epochs")).not_to_have_value(before)


def test_values_can_be_kept_as_defaults(open_page, server):
    page = open_page("/finetune")
    page.get_by_test_id("run-now").click()
    page.get_by_label("LoRA rank").fill("12")
    page.get_by_test_id("save-defaults").click()
    expect(page.get_by_test_id("run-said")).to_contain_text("Saved")
    assert server.do("config") == 12
    page.reload()
    page.get_by_test_id("run-now").click()
    expect(page.get_by_label("LoRA rank")).to_have_value("12")


def test_a_default_that_the_environment_sets_is_not_kept_and_the_variable_is_named(
    browser, tmp_path, training_server, monkeypatch
):
    monkeypatch.setenv("FINETUNE_BASE_MODEL", "small")
    started = training_server(tmp_path)
    page = browser.new_page()
    page.goto(f"{started.url}/finetune?base=large")
    expect(page.get_by_label("Base model")).to_have_value("large")
    expect(page.get_by_test_id("base")).to_contain_text("FINETUNE_BASE_MODEL sets the default.")
    page.get_by_test_id("save-defaults").click()
    expect(page.get_by_test_id("run-said")).to_contain_text("The environment variable FINETUNE_BASE_MODEL sets this")
    page.close()
    assert started.stop()[0] == 0


# ------------------------------------------------------------------------------------------ a live run


def test_a_run_is_started_watched_and_ends_in_an_adapter(open_page, server):
    server.order(steps=0, total=40)
    page = open_page("/finetune")
    page.get_by_test_id("run-now").click()
    page.get_by_test_id("start-run").click()
    expect(page.get_by_test_id("run-dialog")).to_be_hidden()
    expect(panel(page)).to_be_visible()
    expect(page.get_by_test_id("run-now")).to_be_disabled()
    server.order(steps=15, total=40, say=HOSTILE)
    expect(figures(page)).to_contain_text("15 of 40")
    expect(figures(page)).to_contain_text("812 tokens/s")
    expect(figures(page)).to_contain_text("50 s")
    expect(figures(page)).to_contain_text("1.2 GB")
    expect(page.get_by_test_id("status-line")).to_contain_text("Status: Training 37 %")
    expect(panel(page).locator("figure")).to_have_attribute("aria-label", re.compile("from 2.6 to"))
    expect(panel(page).locator("progress")).to_have_attribute("value", "37.5")
    panel(page).get_by_test_id("log").locator("summary").click()
    expect(panel(page).locator("pre")).to_contain_text(HOSTILE)
    assert page.locator("main img").count() == 0
    server.order(steps=40, total=40, then="end")
    expect(page.get_by_test_id("run-result")).to_contain_text("The adapter is ready")
    expect(page.get_by_test_id("to-versions")).to_have_attribute(
        "href", re.compile(r"/finetune/versions\?adapter=[0-9a-f-]{36}$")
    )
    expect(page.get_by_test_id("status-line")).to_contain_text("Status: Idle · Last run: just now")
    expect(page.get_by_test_id("run").first).to_contain_text("done")
    expect(page.get_by_test_id("run-loss").first).to_have_text("loss 0.874, held out 1.016")
    expect(page.get_by_test_id("run-adapter").first).to_contain_text("adapter")
    expect(page.get_by_test_id("run-now")).to_be_enabled()
    page.get_by_test_id("run-adapter").first.click()
    expect(page.get_by_test_id("adapter-details").get_by_test_id("to-run")).to_contain_text("training run")
    expect(page.get_by_test_id("notification-count")).not_to_be_empty()


def test_a_run_that_somebody_else_starts_appears_by_itself(open_page, server):
    page = open_page("/finetune")
    expect(page.get_by_test_id("status-line")).to_contain_text("Idle")
    server.run(by="scheduled", steps=2)
    expect(figures(page)).to_contain_text("2 of 40")
    expect(page.get_by_test_id("run").first).to_contain_text("by the schedule")


def test_reload_and_second_tab_show_the_same_run(open_page, server):
    server.run(steps=11)
    page = open_page("/finetune")
    second = open_page("/finetune")
    for tab in (page, second):
        expect(figures(tab)).to_contain_text("11 of 40")
    page.reload()
    expect(figures(page)).to_contain_text("11 of 40")
    server.order(steps=12)
    for tab in (page, second):
        expect(figures(tab)).to_contain_text("12 of 40")
    server.order(then="end")
    for tab in (page, second):
        expect(tab.get_by_test_id("run-result")).to_contain_text("ready")


def test_however_fast_it_reports_the_page_changes_about_twice_a_second(open_page, server):
    server.run(steps=1, total=20_000)
    page = open_page("/finetune")
    expect(figures(page)).to_contain_text("1 of 20,000")
    page.evaluate("""() => {
        window.changes = 0; window.begun = performance.now();
        new MutationObserver(() => window.changes += 1).observe(
            document.querySelector('[data-testid=run-figures] dd'), { characterData: true, childList: true, subtree: true });
    }""")
    server.order(steps=20_000, total=20_000)
    page.wait_for_function("window.changes >= 4")
    changes, seconds = page.evaluate("[window.changes, (performance.now() - window.begun) / 1000]")
    assert changes <= 2 * seconds + 2


def test_nothing_moves_while_the_figures_change(open_page, server):
    where = "[...document.querySelectorAll('[data-testid=training-progress] *, [data-testid=cards]')].filter(e => !e.closest('figure')).map(e => [e.tagName, Math.round(e.getBoundingClientRect().top)].join(' '))"
    server.run(steps=1, total=4_000)
    page = open_page("/finetune")
    expect(figures(page)).to_contain_text("1 of 4,000")
    before = page.evaluate(where)
    server.order(steps=1_234, total=4_000)
    expect(figures(page)).to_contain_text("1,234 of 4,000", timeout=60_000)
    assert page.evaluate(where) == before


def test_cancelling_asks_once_and_the_run_can_be_resumed(open_page, server):
    server.run(steps=12)
    page = open_page("/finetune")
    expect(figures(page)).to_contain_text("12 of 40")
    page.get_by_test_id("cancel-run").click()
    expect(page.get_by_test_id("cancel-dialog")).to_contain_text("You can resume the run from step 10 later.")
    page.get_by_role("button", name="Keep training").click()
    expect(page.get_by_test_id("cancel-dialog")).to_have_count(0)
    page.get_by_test_id("cancel-run").click()
    page.get_by_test_id("confirm-cancel").click()
    expect(page.get_by_test_id("run-result")).to_contain_text("Cancelled after 12 steps. No adapter was created.")
    expect(page.get_by_test_id("cancel-dialog")).to_have_count(0)
    server.order(steps=14)
    page.get_by_test_id("resume-run").click()
    expect(figures(page)).to_contain_text("14 of 40")
    expect(page.get_by_test_id("attempts")).to_contain_text("resumed from step 10")
    server.order(then="end")
    expect(page.get_by_test_id("run-result")).to_contain_text("ready")


def test_a_failure_gives_its_reason_here_and_in_the_list(open_page, server):
    server.run(steps=12, then="fail", why=f"The loss is not a number. {HOSTILE}")
    server.do("settled")
    page = open_page("/finetune")
    expect(page.get_by_test_id("run-reason").first).to_contain_text(HOSTILE)
    expect(page.get_by_test_id("status-line")).to_contain_text("just now (failed)")
    assert page.locator("main img").count() == 0
    server.order(steps=20)
    page.get_by_test_id("resume").first.click()
    expect(figures(page)).to_contain_text("20 of 40")


def test_a_run_without_a_checkpoint_offers_no_resume(open_page, server):
    run = server.run(steps=2, then="fail")
    server.do("settled")
    page = open_page("/finetune")
    expect(page.get_by_test_id("run").first).to_contain_text("failed")
    expect(page.get_by_test_id("run").first.get_by_test_id("resume")).to_have_count(0)
    page.goto(f"{server.url}/finetune/{run}")
    expect(page.get_by_test_id("failure")).to_be_visible()
    expect(page.get_by_test_id("resume-run")).to_have_count(0)


def test_one_run_has_a_page_with_its_traces(open_page, server):
    run = server.run(steps=40, then="end")
    server.do("settled")
    page = open_page(f"/finetune/{run}")
    expect(page.get_by_test_id("record")).to_contain_text(run)
    expect(page.get_by_test_id("record")).to_contain_text("through the API")
    expect(panel(page).locator("figure")).to_be_visible()
    expect(page.get_by_test_id("used-trace")).to_have_count(25)
    page.get_by_role("button", name="Later").click()
    expect(page.get_by_test_id("used-traces")).to_contain_text("26–")
    page.get_by_test_id("used-trace").first.click()
    page.wait_for_url("**/traces/*")


def test_unknown_runs_are_not_found_in_the_frame(open_page):
    page = open_page("/finetune/5f0e3c7e-0000-4000-8000-000000000000", status=404)
    expect(page.get_by_test_id("problem")).to_contain_text("no training run")
    page = open_page("/finetune/nonsense", status=404)
    expect(page.get_by_test_id("problem")).to_contain_text("Page not found")


# ------------------------------------------------------------------------------------------- schedule


def test_the_schedule_is_told_in_words_and_can_be_changed(open_page):
    page = open_page("/finetune")
    schedule = page.get_by_test_id("schedule")
    expect(page.get_by_test_id("schedule-words")).to_contain_text("Sunday")
    expect(page.get_by_test_id("schedule-next")).to_contain_text("02:00")
    schedule.get_by_test_id("edit-schedule").locator("summary").click()
    schedule.get_by_label("Cron expression").fill("30 3 * * 1")
    schedule.get_by_label("Time zone").fill("Europe/Berlin")
    page.get_by_test_id("save-schedule").click()
    expect(page.get_by_test_id("schedule-said")).to_contain_text("Saved")
    expect(page.get_by_test_id("schedule-next")).to_contain_text("03:30, Europe/Berlin")
    expect(page.get_by_test_id("status-line")).to_contain_text(re.compile(r"Next: \S+.* 03:30"))
    page.reload()
    expect(page.get_by_test_id("schedule-words")).to_contain_text("Monday")


@pytest.mark.parametrize(
    ("expression", "zone"), [("0 0 30 2 *", "UTC"), ("whenever", "UTC"), ("0 2 * * 0", "Mars/Olympus")]
)
def test_a_schedule_that_cannot_be_is_refused_in_place(open_page, expression, zone):
    page = open_page("/finetune")
    words = page.get_by_test_id("schedule-words").inner_text()
    page.get_by_test_id("edit-schedule").locator("summary").click()
    page.get_by_label("Cron expression").fill(expression)
    page.get_by_label("Time zone").fill(zone)
    page.get_by_test_id("save-schedule").click()
    expect(page.get_by_test_id("schedule-problem")).not_to_be_empty()
    expect(page.get_by_label("Cron expression")).to_have_value(expression)
    expect(page.get_by_test_id("schedule-words")).to_have_text(words)


def test_a_schedule_can_be_switched_off(open_page):
    page = open_page("/finetune")
    page.get_by_test_id("edit-schedule").locator("summary").click()
    page.get_by_label("Cron expression").fill("off")
    page.get_by_test_id("save-schedule").click()
    expect(page.get_by_test_id("schedule-words")).to_contain_text("Switched off")
    expect(page.get_by_test_id("status-line")).to_contain_text("Next: not scheduled")


# -------------------------------------------------------------------------------------------- restart


@pytest.fixture
def own_data(tmp_path: Path) -> Iterator[Path]:
    """A data directory for a test that ends its server the hard way."""
    yield tmp_path
    end_runs(tmp_path)


def test_a_killed_and_restarted_server_comes_back_with_the_runs_true_state(browser, own_data, training_server):
    """The worker goes on while nobody watches; the open page finds its way back by itself."""
    first = training_server(own_data)
    first.do("traces", number=130)
    first.run(steps=7)
    page = browser.new_page()
    page.goto(f"{first.url}/finetune")
    expect(figures(page)).to_contain_text("7 of 40")
    first.kill()
    first.order(steps=26)
    second = training_server(own_data, first.url.rsplit(":", 1)[1])
    try:
        expect(figures(page)).to_contain_text("26 of 40", timeout=60_000)
        expect(panel(page).locator("figure")).to_have_attribute("aria-label", re.compile("from 2.6 to"))
        second.order(then="end")
        expect(page.get_by_test_id("run-result")).to_contain_text("ready")
        second.do("settled")
    finally:
        page.close()
        code, log = second.stop()
    assert code == 0
    assert "Traceback" not in log, log
