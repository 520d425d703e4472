"""Prompts are short for small models and only ever grow, so that the prompt cache works."""

from tmde_core.debate.critique import parse_critique
from tmde_core.prompts import (
    proposer_opening,
    proposer_revision,
    role_of,
    skeptic_opening,
    synthesizer_opening,
)
from tmde_core.records.chat import ChatRequest
from tmde_core.records.debate import Critique, Issue, Round


def test_without_templates_the_proposer_sees_one_line_and_the_question_as_it_is():
    system, user = proposer_opening("What is 7 times 8?", "")
    assert "\n" not in system.content
    assert len(system.content) < 100
    assert user.content == "What is 7 times 8?"


def test_with_templates_the_question_comes_last():
    assert proposer_opening("Why?", "1. Think.")[1].content.endswith("Why?")


def test_the_critique_reaches_the_proposer_as_words():
    critique = Critique(issues=(Issue(severity="major", text="No reason."),), score=3, verdict="revise")
    assert "- No reason. (major)" in proposer_revision(critique).content


def test_a_critique_that_is_no_json_reaches_the_proposer_as_it_is():
    assert "I doubt it." in proposer_revision(parse_critique("I doubt it.")).content


def test_a_critique_that_names_nothing_asks_for_a_second_look():
    assert (
        proposer_revision(Critique(score=2.0, verdict="revise")).content == "Are you sure? Answer the question again."
    )


def test_the_synthesizer_sees_question_draft_and_open_issues():
    issues = (Issue(severity="major", text="Too long."),)
    rounds = [Round(number=1, proposal="one"), Round(number=2, proposal="two", critique=Critique(issues=issues))]
    content = synthesizer_opening("Q?", rounds)[1].content
    assert all(part in content for part in ("Q?", "one", "two", "Too long."))


def test_every_prompt_tells_its_role():
    openings = {
        "proposer": proposer_opening("q"),
        "skeptic": skeptic_opening("q", "a"),
        "synthesizer": synthesizer_opening("q", [Round(number=1, proposal="a")]),
    }
    assert {role: role_of(ChatRequest(model="", messages=messages)) for role, messages in openings.items()} == {
        role: role for role in openings
    }
