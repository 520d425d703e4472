"""The page of models as a person sees it: roles, base models, tests, pulls and adding."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.core.models.pulling.hub_files import gguf

TOY = "SmolLM2-135M-Instruct"
MODULE = "tests.tmde_ui.models.server"
USUAL = {"runtime": "scripted", "model": ""}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(home: Path, scripted_server: Any) -> Iterator[Any]:
    started = scripted_server(home, MODULE)
    yield started
    code, log = started.stop()
    assert code == 0
    assert "Traceback" not in log, log


@pytest.fixture(autouse=True)
def as_shipped(server: Any) -> Iterator[None]:
    yield
    server.do("back")
    server.do("deactivate")
    server.do("more", names=[])
    server.do("roles", roles=dict.fromkeys(("proposer", "skeptic", "synthesizer", "judge"), USUAL))


def row(page: Page, name: str) -> Any:
    return page.get_by_test_id("base-model").filter(has=page.get_by_role("heading", name=name, exact=True))


def chosen(page: Page, role: str) -> str:
    text: str = page.get_by_test_id(f"model-{role}").evaluate("select => select.selectedOptions[0].textContent")
    return text


# ---------------------------------------------------------------------------------------------- roles


def test_a_role_gets_another_model_from_the_next_debate_on(open_page, server):
    page = open_page("/models")
    expect(page.get_by_test_id("base-model")).to_have_count(2)
    assert chosen(page, "skeptic") == f"{TOY} — scripted, Q4_1"
    page.get_by_test_id("model-skeptic").select_option(label=f"{TOY} — elsewhere, Q8_0")
    expect(page.get_by_test_id("said-skeptic")).to_have_text(f"From the next debate on: {TOY} (elsewhere, Q8_0).")
    assert server.do("setting", role="skeptic") == "smollm2-135m-instruct:q8_0"
    expect(row(page, TOY)).to_contain_text("answers for every role")
    again = open_page("/models")
    expect(again.get_by_test_id("base-model")).to_have_count(2)
    assert chosen(again, "skeptic") == f"{TOY} — elsewhere, Q8_0"


def test_a_choice_that_was_made_elsewhere_appears_by_itself(open_page, server):
    page = open_page("/models")
    expect(page.get_by_test_id("base-model")).to_have_count(2)
    server.do("roles", roles={"judge": {"runtime": "elsewhere", "model": "broken:7b"}})
    expect(row(page, "broken:7b")).to_contain_text("answers for Judge")
    assert chosen(page, "judge") == "broken:7b — elsewhere"


def test_a_runtime_that_does_not_respond_is_told_and_its_role_keeps_its_model(open_page, server):
    server.do("roles", roles={"skeptic": {"runtime": "gone", "model": "qwen3:4b"}})
    page = open_page("/models")
    expect(page.get_by_test_id("away-gone")).to_have_text("gone: Nothing answers at gone:1. Start it.")
    expect(page.get_by_test_id("model-skeptic")).to_contain_text("qwen3:4b — gone, which does not offer it now")


def test_the_page_is_there_while_a_server_is_silent(open_page, server):
    server.do("away")
    page = open_page("/models")
    expect(page.get_by_test_id("base-models")).to_have_text("Asking the runtimes …")
    assert chosen(page, "proposer") == "Default model — scripted"
    server.do("back")
    expect(page.get_by_test_id("base-model")).to_have_count(2)
    assert chosen(page, "proposer") == f"{TOY} — scripted, Q4_1"


def test_an_adapter_that_does_not_belong_to_the_new_model_of_the_proposer_is_told(open_page, server):
    server.do("activate", base=TOY)
    page = open_page("/models")
    expect(row(page, TOY)).to_contain_text("1 adapter")
    expect(page.get_by_test_id("adapter-idle")).to_be_hidden()
    page.get_by_test_id("model-proposer").select_option(label="broken:7b — elsewhere")
    idle = page.get_by_test_id("adapter-idle")
    expect(idle).to_contain_text(f"It was trained on {TOY}, and the Proposer's model is broken:7b")
    expect(idle).to_contain_text("so the base model answers")
    page.get_by_test_id("model-proposer").select_option(label=f"{TOY} — scripted, Q4_1")
    expect(idle).to_be_hidden()


# --------------------------------------------------------------------------------------------- testing


def test_a_test_shows_the_answer_and_the_speed_and_a_failure_says_what_to_do(open_page):
    page = open_page("/models")
    proposer = page.get_by_test_id("role-proposer")
    proposer.get_by_test_id("test-model").click()
    expect(proposer.get_by_test_id("trial-answer")).to_contain_text("<script>alert(1)</script>")
    expect(proposer.get_by_test_id("trial-speed")).to_have_text(
        re.compile(r"First token after .+, loading included, then [\d.e+]+ tokens a second\.")
    )
    broken = row(page, "broken:7b")
    broken.get_by_test_id("test-model").click()
    expect(broken.get_by_test_id("trial")).to_have_text(
        "The server has no memory left. Close other programs, then try again."
    )
    expect(broken.get_by_test_id("test-model")).to_be_enabled()


# ----------------------------------------------------------------------------------------- base models


def test_a_base_model_shows_its_forms_and_why_it_cannot_be_trained(open_page):
    page = open_page("/models")
    toy = row(page, TOY)
    expect(toy).to_contain_text("135 million weights")
    expect(toy).to_contain_text("Can be trained from its GGUF file (98 MB).")
    expect(toy.get_by_test_id("form")).to_have_count(2)
    expect(toy.get_by_test_id("form").last).to_contain_text("Q8_0 · loaded")
    why = row(page, "broken:7b").get_by_test_id("why-not-trainable")
    expect(why).to_contain_text("Cannot be trained. broken:7b is only served by 'elsewhere'")
    expect(why).to_contain_text("tmde models pull")
    toy.get_by_test_id("model-details").locator("summary").click()
    expect(toy.get_by_test_id("model-details")).to_contain_text("HuggingFaceTB/SmolLM2-135M-Instruct")


def test_a_model_is_used_for_several_roles_at_once(open_page, server):
    page = open_page("/models")
    row(page, "broken:7b").get_by_test_id("use").click()
    dialog = page.get_by_test_id("use-dialog")
    dialog.get_by_label("Judge").uncheck()
    dialog.get_by_label("Proposer").uncheck()
    dialog.get_by_test_id("confirm-use").click()
    expect(dialog).to_have_count(0)
    expect(row(page, "broken:7b")).to_contain_text("answers for Skeptic, Synthesizer")
    assert [server.do("setting", role=one) for one in ("proposer", "skeptic", "synthesizer", "judge")] == [
        "", "broken:7b", "broken:7b", ""
    ]  # fmt: skip


def test_a_model_that_is_here_is_added_trained_and_removed(open_page, home):
    file = home / "Other-1B.Q4_K_M.gguf"
    file.write_bytes(gguf(4_000))
    page = open_page("/models")
    page.get_by_test_id("add-model").locator("summary").click()
    page.get_by_test_id("add-target").fill(str(home / "nothing.gguf"))
    page.get_by_test_id("add-button").click()
    expect(page.get_by_test_id("add-said")).to_contain_text("is no file, no directory and no RUNTIME:MODEL here")
    page.get_by_test_id("add-target").fill(str(file))
    page.get_by_test_id("add-name").fill("Other-1B")
    page.get_by_test_id("add-button").click()
    expect(page.get_by_test_id("add-said")).to_contain_text("Added Other-1B.")
    other = row(page, "Other-1B")
    expect(other).to_contain_text("No runtime serves it, so it cannot answer.")
    other.get_by_test_id("remove").click()
    page.get_by_test_id("confirm-remove").click()
    expect(other).to_have_count(0)
    assert file.exists()


def test_ten_models_with_long_and_hostile_names_fit_every_width(open_page, server):
    hostile = "<img src=x onerror=alert(1)> {{ 7*7 }} &lt;b&gt;"
    long = [f"a-publisher-with-a-long-name/Model-{n}-{'x' * 60}-Instruct-2507:q4_k_m" for n in range(8)]
    server.do("more", names=[hostile, *long])
    page = open_page("/models", width=360)
    expect(page.get_by_test_id("base-model")).to_have_count(11)
    expect(row(page, hostile)).to_be_visible()
    assert any(hostile in text for text in page.locator("#model-judge option").all_text_contents())
    page.get_by_test_id("use").last.click()
    expect(page.get_by_test_id("use-dialog")).to_be_visible()
    for width in (360, 800, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        assert page.evaluate("document.querySelector('dialog[open]').scrollWidth <= innerWidth"), width


# ---------------------------------------------------------------------------------------------- pulling


def test_a_pull_tells_its_plan_first_then_its_progress_and_the_model_is_there(open_page):
    page = open_page("/models?get=tiny/Tiny-1B-GGUF")
    dialog = page.get_by_test_id("plan-dialog")
    plan = dialog.get_by_test_id("plan")
    for fact in ("Tiny-1B", "mit", "Free disk", "a GGUF file to answer with, Q4_K_M"):
        expect(plan).to_contain_text(fact)
    expect(dialog.get_by_test_id("start-pull")).to_have_text("Fetch 600 kB")
    dialog.get_by_test_id("plan-choice").select_option(label="Q2_K — 300 kB")
    expect(dialog.get_by_test_id("start-pull")).to_have_text("Fetch 300 kB")
    dialog.get_by_test_id("start-pull").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_test_id("pull").filter(has_text="Tiny-1B")).to_contain_text("done")
    expect(row(page, "Tiny-1B")).to_contain_text("mit")


def test_a_pull_is_cancelled_and_continued(open_page, server):
    server.do("faults", faults=["drip=30000"])
    page = open_page("/models")
    page.get_by_test_id("pull-reference").fill("tiny/Tiny-1B-GGUF:Q8_0")
    page.get_by_test_id("look").click()
    page.get_by_test_id("start-pull").click()
    pull = page.get_by_test_id("pull").first
    expect(pull.get_by_test_id("pull-words")).to_contain_text("of 800 kB")
    expect(pull.get_by_role("progressbar")).to_be_visible()
    pull.get_by_test_id("cancel-pull").click()
    expect(pull).to_contain_text("cancelled")
    server.do("faults", faults=[])
    pull.get_by_test_id("continue-pull").click()
    expect(page.get_by_test_id("pull").filter(has_text="800 kB")).to_contain_text("done")


def test_what_cannot_be_pulled_is_told_in_a_sentence(open_page):
    page = open_page("/models")
    page.get_by_test_id("pull-reference").fill("nobody/Nothing")
    page.get_by_test_id("look").click()
    expect(page.get_by_test_id("plan-said")).to_contain_text("nobody/Nothing")
    expect(page.get_by_test_id("start-pull")).to_be_disabled()


# ------------------------------------------------------------------------------------- the first page


def test_the_first_page_calls_the_embedded_model_a_toy_until_another_one_answers(open_page, server):
    page = open_page("/")
    expect(page.get_by_test_id("toy")).to_contain_text("The embedded model is a toy of 135 million weights.")
    server.do("roles", roles={"proposer": {"runtime": "elsewhere", "model": "broken:7b"}})
    expect(open_page("/").get_by_test_id("toy")).to_have_count(0)


def test_the_line_about_the_toy_stays_away_once_it_is_dismissed(open_page):
    page = open_page("/")
    page.get_by_test_id("toy").get_by_role("button").click()
    expect(page.get_by_test_id("toy")).to_be_hidden()
    page.reload()
    expect(page.get_by_test_id("query")).to_be_visible()
    expect(page.get_by_test_id("toy")).to_be_hidden()


# -------------------------------------------------------------------------------------------- training


def test_the_training_dialog_names_the_base_model_and_says_what_to_do_if_it_cannot_be_trained(open_page, server):
    page = open_page("/finetune?base=broken:7b")
    dialog = page.get_by_test_id("run-dialog")
    expect(dialog.get_by_test_id("base-said")).to_contain_text("broken:7b cannot be trained now.")
    expect(dialog.get_by_test_id("base-warning")).to_contain_text("tmde models pull")
    dialog.get_by_test_id("field-baseModel").select_option(label=f"The Proposer's model: {TOY}")
    expect(dialog.get_by_test_id("base-said")).to_have_text(f"Trains {TOY} from its GGUF file (98 MB).")
    server.do("roles", roles={"proposer": {"runtime": "elsewhere", "model": "broken:7b"}})
    page = open_page("/finetune?base=" + TOY)
    expect(page.get_by_test_id("base-warning")).to_contain_text(f"answers only while {TOY} is the Proposer's model")
    server.do("roles", roles={"proposer": USUAL})
    server.do("adapters", served=False)
    page = open_page("/finetune?base=" + TOY)
    expect(page.get_by_test_id("base-warning")).to_contain_text("cannot serve adapters")
    server.do("adapters", served=True)
