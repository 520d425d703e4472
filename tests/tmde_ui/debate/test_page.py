"""The debate pages in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

QUESTION = "A train leaves at 14:35 and arrives at 16:20. How many minutes does it take?"


def ask(page: Page, question: str) -> None:
    page.get_by_test_id("query").fill(question)
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/debates/*")


def test_an_empty_page_offers_three_questions_that_fill_the_box(open_page):
    page = open_page("/")
    expect(page.get_by_test_id("example")).to_have_count(3)
    page.get_by_test_id("example").first.click()
    expect(page.get_by_test_id("query")).to_have_value(re.compile("minutes"))
    expect(page.get_by_test_id("query")).to_be_focused()


def test_a_question_is_debated_answered_scored_and_rated(open_page, server):
    page = open_page("/")
    ask(page, QUESTION)
    expect(page.get_by_test_id("final-answer")).to_contain_text("The train takes 105 minutes")
    expect(page.get_by_test_id("final-answer").locator("strong")).to_have_text("105 minutes")
    expect(page.get_by_test_id("round")).to_have_count(2)
    first = page.get_by_test_id("round").first
    expect(first.get_by_test_id("proposer")).to_contain_text("another 35 minutes")
    expect(first.get_by_test_id("issue")).to_have_count(3)
    expect(first.get_by_test_id("issue").first).to_contain_text("critical")
    expect(first.get_by_test_id("issue").first).to_contain_text("45 minutes, not 35")
    expect(first.get_by_test_id("skeptic-score")).to_have_text("4 of 10")
    expect(first.get_by_test_id("verdict")).to_have_text("Wants a revision")
    expect(page.get_by_test_id("round").last.get_by_test_id("verdict")).to_have_text("Accepts")
    expect(page.get_by_test_id("early-stop")).to_contain_text("The Skeptic accepted the answer in round 2 of at most 3")
    expect(page.get_by_test_id("score")).to_contain_text("8.5")
    expect(page.get_by_test_id("score")).to_contain_text("It is right and says why.")

    page.get_by_test_id("rate-9").check(force=True)
    expect(page.get_by_test_id("rating-said")).to_contain_text("Saved. You gave 9 of 10")
    page.get_by_test_id("open-trace").click()
    page.wait_for_url("**/traces/*")
    assert server.do("rating", id=page.url.rsplit("/", 1)[1]) == 9
    expect(page.get_by_test_id("rate-9")).to_be_checked()


def test_the_words_appear_while_they_are_written_and_the_other_side_waits(open_page, server):
    server.do("close")
    page = open_page("/")
    ask(page, f"{QUESTION} (slow)")
    expect(page.get_by_test_id("proposer")).to_contain_text("It takes **105 minutes**. From 14:35 to 15:35")
    expect(page.get_by_test_id("proposer")).to_contain_text("writing")
    expect(page.get_by_test_id("skeptic")).to_contain_text("waiting for the proposal")
    expect(page.get_by_test_id("phase")).to_have_text("Round 1: the Proposer is answering.")
    expect(page.get_by_test_id("jobs")).to_contain_text("1 debate running")
    spoken = page.get_by_role("status").and_(page.get_by_test_id("spoken"))
    expect(spoken).to_have_text("")
    server.do("open")
    expect(page.get_by_test_id("final-answer")).to_be_visible()
    expect(spoken).to_have_text("The answer is complete. The judge gave it 8.5 of 10.")
    expect(page.get_by_test_id("jobs")).not_to_contain_text("running")


def test_issues_appear_one_by_one_while_the_skeptic_writes(open_page, server):
    server.do("close")
    page = open_page("/")
    ask(page, "Something doubtful")
    expect(page.get_by_test_id("issue").first).to_contain_text("From 15:35 to 16:20 there are 45")
    expect(page.get_by_test_id("skeptic")).to_contain_text("checking")
    expect(page.get_by_test_id("skeptic")).not_to_contain_text("severity")
    server.do("open")
    expect(page.get_by_test_id("final-answer")).to_be_visible()


def test_a_running_debate_survives_a_reload_and_is_seen_by_a_second_tab(open_page, server):
    server.do("close")
    page = open_page("/")
    ask(page, f"{QUESTION} (slow)")
    expect(page.get_by_test_id("proposer")).to_contain_text("From 14:35 to 15:35")
    page.reload()
    expect(page.get_by_test_id("proposer")).to_contain_text("From 14:35 to 15:35")
    expect(page.get_by_test_id("question")).to_have_text(f"{QUESTION} (slow)")
    second = open_page(page.url.removeprefix(server.url))
    expect(second.get_by_test_id("proposer")).to_contain_text("From 14:35 to 15:35")
    server.do("open")
    for tab in (page, second):
        expect(tab.get_by_test_id("final-answer")).to_contain_text("105 minutes")
        expect(tab.get_by_test_id("round")).to_have_count(2)
        assert tab.get_by_test_id("round").first.get_by_test_id("proposer").inner_text().count("It takes") == 1


def test_going_back_shows_the_question_box_again(open_page, server):
    server.do("open")
    page = open_page("/")
    ask(page, "Something easy")
    expect(page.get_by_test_id("final-answer")).to_be_visible()
    page.go_back()
    expect(page.get_by_test_id("query")).to_be_visible()
    expect(page.get_by_test_id("recent")).to_contain_text("Something easy")


def test_a_debate_can_be_cancelled(open_page, server):
    server.do("close")
    page = open_page("/")
    ask(page, f"{QUESTION} (slow)")
    expect(page.get_by_test_id("proposer")).to_contain_text("From 14:35")
    page.get_by_test_id("cancel").click()
    expect(page.get_by_test_id("ending")).to_have_text("Cancelled. This debate was not saved.")
    expect(page.get_by_test_id("ask-another")).to_be_visible()
    _stopped(page)
    page.reload()
    expect(page.get_by_test_id("ending")).to_contain_text("Cancelled")
    _stopped(page)
    server.do("open")


def _stopped(page: Page) -> None:
    """What was written stays, and nobody is said to write or to wait."""
    expect(page.locator(".turn.live")).to_have_count(0)
    expect(page.get_by_test_id("proposer")).to_contain_text("stopped")
    expect(page.get_by_test_id("proposer")).to_contain_text("From 14:35")
    expect(page.get_by_test_id("skeptic").locator(".note")).to_have_text("")


def test_a_failure_is_told_in_one_sentence(open_page):
    page = open_page("/")
    ask(page, "A broken one")
    expect(page.get_by_test_id("ending")).to_have_text("The model server crashed. Ask again.")


def test_an_answer_without_verdict_says_so_and_shows_no_zero(open_page):
    page = open_page("/")
    ask(page, "Something easy and unjudged")
    expect(page.get_by_test_id("score")).to_contain_text("No verdict")
    expect(page.get_by_test_id("score")).to_contain_text("cannot tell scores apart")
    assert "of 10" not in page.get_by_test_id("score").inner_text()


def test_a_skeptic_that_breaks_its_form_is_shown_in_its_own_words(open_page):
    page = open_page("/")
    ask(page, "A malformed critique")
    expect(page.get_by_test_id("final-answer")).to_be_visible()
    expect(page.get_by_test_id("skeptic").first).to_contain_text("mostly fine")
    expect(page.get_by_test_id("skeptic").first).to_contain_text("did not have the required format")


def test_a_thought_is_shown_folded_and_apart_from_the_answer(open_page, server):
    server.do("close")
    page = open_page("/")
    ask(page, "An easy, slow question for a thinking model")
    proposer = page.get_by_test_id("proposer").first
    expect(proposer).to_contain_text("Let me count the minutes")
    server.do("open")
    expect(page.get_by_test_id("final-answer")).to_be_visible()
    expect(proposer.get_by_test_id("thought")).to_have_count(1)
    expect(proposer.locator("details .stream")).to_be_hidden()
    expect(proposer.locator(".prose")).not_to_contain_text("Let me count")
    proposer.get_by_text("Thought", exact=True).click()
    expect(proposer.locator("details .stream")).to_contain_text("Let me count the minutes from 14:35 to 15:35 first")
    page.get_by_test_id("open-trace").click()
    page.wait_for_url("**/traces/*")
    expect(page.get_by_test_id("proposer").first.get_by_text("Thought", exact=True)).to_be_visible()


def test_an_answer_that_was_cut_says_so_and_what_follows(open_page):
    page = open_page("/")
    ask(page, "Something easy that is cut")
    expect(page.get_by_test_id("answer-cut")).to_contain_text(
        "Cut off by the server's filter. It is not trained on unless"
    )
    page.get_by_test_id("rate-9").check(force=True)
    expect(page.get_by_test_id("answer-cut")).to_have_text("Cut off by the server's filter.")


def test_a_critique_that_contradicts_itself_is_summed_up_once(open_page):
    page = open_page("/")
    ask(page, "Something contradictory")
    skeptic = page.get_by_test_id("skeptic").first
    expect(skeptic.get_by_test_id("verdict")).to_have_text("Contradicts itself")
    expect(skeptic.get_by_test_id("skeptic-score")).to_have_count(0)
    expect(skeptic.get_by_test_id("contradiction")).to_contain_text("scores it 1 of 10")


def test_an_answer_can_be_corrected_and_the_correction_is_shown(open_page, server):
    server.do("open")
    page = open_page("/")
    ask(page, "Something easy to correct")
    page.get_by_test_id("correct").click()
    expect(page.get_by_test_id("correction")).to_have_value(re.compile("The train takes"))
    page.get_by_test_id("correction").fill("It takes **an hour and three quarters**.")
    page.get_by_test_id("save-correction").click()
    expect(page.get_by_test_id("corrected")).to_contain_text("an hour and three quarters")
    expect(page.get_by_test_id("rating-said")).to_contain_text(
        "Saved. Training uses your correction instead of the original answer."
    )
    expect(page.get_by_test_id("final-answer")).to_contain_text("105 minutes")


def test_options_go_with_the_question(open_page):
    page = open_page("/")
    page.get_by_test_id("options").locator("summary").click()
    page.get_by_label("Maximum rounds").select_option("1")
    page.get_by_label("Final answer").select_option("never")
    page.get_by_label("Domain").fill("trains")
    ask(page, QUESTION)
    expect(page.get_by_test_id("final-answer")).to_contain_text("another 35 minutes")
    expect(page.get_by_test_id("round")).to_have_count(1)
    page.get_by_test_id("open-trace").click()
    expect(page.get_by_test_id("record")).to_contain_text("trains")


def test_contradicting_options_are_refused_in_one_sentence(open_page):
    page = open_page("/")
    page.get_by_test_id("options").locator("summary").click()
    page.get_by_label("Minimum rounds").select_option("3")
    page.get_by_label("Maximum rounds").select_option("1")
    page.get_by_test_id("query").fill("Anything")
    page.get_by_test_id("ask-button").click()
    expect(page.get_by_test_id("ask-error")).to_contain_text("the least cannot be more than the most")
    expect(page.get_by_test_id("query")).to_have_value("Anything")


@pytest.mark.parametrize(
    ("text", "complaint"), [("x" * 40_000, "40,000 bytes"), ("y" * 2_000_000, "2,000,"), (" \n ", "empty")]
)
def test_a_question_that_cannot_be_asked_is_refused_and_stays_in_the_box(open_page, text, complaint):
    page = open_page("/")
    page.get_by_test_id("query").evaluate("(box, text) => { box.value = text }", text)
    page.get_by_test_id("ask-button").click()
    expect(page.get_by_test_id("ask-error")).to_contain_text(complaint)
    assert page.get_by_test_id("query").input_value() == text


def test_hostile_text_stays_text(open_page):
    page = open_page("/")
    ask(page, "hostile <img src=x onerror=alert(1)> ![x](http://elsewhere.invalid/z.png)")
    answer = page.get_by_test_id("final-answer")
    expect(answer).to_contain_text("<script>alert(1)</script>")
    assert page.locator("main img").count() == 0
    links = answer.locator("a").evaluate_all("links => links.map(link => [link.protocol, link.rel, link.target])")
    assert links == [
        ["http:", "noopener noreferrer nofollow", "_blank"],
        ["https:", "noopener noreferrer nofollow", "_blank"],
    ]


def test_a_template_that_was_used_can_be_read(open_page):
    page = open_page("/")
    ask(page, "An easy one: convert 3 hours to minutes with units")
    page.get_by_test_id("template").first.click()
    expect(page.get_by_test_id("template-text")).to_be_visible()
    expect(page.get_by_test_id("template-text").locator(".prose")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("template-text")).to_have_count(0)


def test_nothing_of_what_is_being_read_moves_while_tokens_come_in(open_page, server):
    server.do("close")
    page = open_page("/")
    ask(page, f"{QUESTION} (slow)")
    expect(page.get_by_test_id("proposer")).to_contain_text("From 14:35")
    where = "[...document.querySelectorAll('[data-testid=question], [data-testid=answer], [data-testid=proposer]')].map(e => Math.round(e.getBoundingClientRect().top))"
    before = page.evaluate(where)
    server.do("open")
    expect(page.get_by_test_id("final-answer")).to_be_visible()
    after = page.evaluate(where)
    assert after[: len(before)][:2] == before[:2]


@pytest.mark.parametrize("width", [320, 380, 900])
def test_nothing_sticks_out_of_its_card_while_a_debate_runs_and_after(open_page, server, width):
    sticking_out = """[...document.querySelectorAll('.card, .turn')].flatMap(card => [...card.querySelectorAll('*')]
        .filter(e => !e.closest('pre, .visually-hidden') && e.getBoundingClientRect().right > card.getBoundingClientRect().right)
        .map(e => e.outerHTML))"""
    server.do("close")
    page = open_page("/", width=width)
    ask(page, f"{QUESTION} (slow)")
    expect(page.get_by_test_id("proposer")).to_contain_text("From 14:35")
    assert page.evaluate(sticking_out) == []
    server.do("open")
    expect(page.get_by_test_id("rating")).to_be_visible()
    assert page.evaluate(sticking_out) == []


def test_an_unknown_or_malformed_debate_is_not_found_in_the_frame(open_page):
    for debate in ("5f0e3c7e-0000-4000-8000-000000000000", "nonsense"):
        page = open_page(f"/debates/{debate}", status=404)
        expect(page.get_by_test_id("problem")).to_contain_text("There is no debate")
        expect(page.get_by_role("link", name="Ask a question")).to_be_visible()


def test_a_question_is_asked_again_and_edited_from_its_answer(open_page, server):
    page = open_page("/")
    page.get_by_test_id("query").fill("An easy question, asked twice?")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/debates/*")
    first = page.url
    page.get_by_test_id("ask-again").click()
    page.wait_for_url(lambda url: "/debates/" in url and url != first)
    expect(page.get_by_test_id("question")).to_have_text("An easy question, asked twice?")
    expect(page.get_by_test_id("final-answer")).to_be_visible()
    page.get_by_test_id("edit-question").click()
    expect(page.get_by_test_id("query")).to_have_value("An easy question, asked twice?")
    expect(page.get_by_test_id("query")).to_be_focused()
    page.goto(f"{server.url}/?again=nonsense")
    expect(page.get_by_test_id("query")).to_have_value("")


def test_the_model_of_each_role_is_chosen_for_one_question(open_page, server):
    page = open_page("/")
    page.get_by_test_id("options").locator("summary").click()
    for role in ("proposer", "judge"):
        page.get_by_test_id(f"model-{role}").select_option(label="scripted-1 — scripted")
    page.get_by_test_id("query").fill("An easy question for certain models?")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/debates/*")
    expect(page.get_by_test_id("final-answer")).to_be_visible()
    debate = page.request.get(f"{server.url}/api/debates/{page.url.rpartition('/')[2]}").json()
    chosen = {"runtime": "scripted", "model": "scripted-1"}
    assert debate["config"]["models"] == {
        "proposer": chosen, "skeptic": None, "synthesizer": None, "judge": chosen
    }  # fmt: skip


def test_an_answer_is_followed_up_with_its_question_in_sight(open_page):
    page = open_page("/")
    page.get_by_test_id("query").fill("An easy question to begin with?")
    page.keyboard.press("Control+Enter")
    page.get_by_test_id("follow-up").click()
    expect(page.get_by_test_id("followed")).to_contain_text("An easy question to begin with?")
    page.get_by_test_id("query").fill("And an easy one after it?")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_test_id("follows")).to_contain_text("An easy question to begin with?")
    expect(page.get_by_test_id("final-answer")).to_be_visible()
    address = page.get_by_test_id("follow-up").get_attribute("href").replace("/?follows=", "/traces/")
    page = open_page(address)
    expect(page.get_by_test_id("follows")).to_contain_text("An easy question to begin with?")
