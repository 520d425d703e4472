"""The Skeptic's answers are read whatever a small model makes of the schema."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.debate.critique import (
    MAX_ISSUE_CHARS,
    MAX_ISSUES,
    find_contradiction,
    is_accepted,
    parse_critique,
    remove_echoes,
    summarise,
)
from tmde_core.records.debate import Critique, Issue

GOOD = '{"issues": [{"severity": "major", "text": "No reason is given."}], "score": 4, "verdict": "revise"}'
READ = Critique(issues=(Issue(severity="major", text="No reason is given."),), score=4.0, verdict="revise")


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Sure! Here it is:\n{GOOD}\nI hope {{this}} helps.",
        f'{{"note": 1}} {GOOD}',
        GOOD.replace(" ", "\n "),
    ],
    ids=["plain", "fenced", "in prose", "second object", "spread out"],
)
def test_a_whole_critique_is_read_wherever_it_stands(text):
    assert parse_critique(text) == READ


@pytest.mark.parametrize("length", range(len('{"issues"') + 2, len(GOOD)))
def test_a_critique_cut_off_anywhere_is_read_as_far_as_it_goes_and_marked(length):
    critique = parse_critique(GOOD[:length])
    assert critique.malformed
    if length > GOOD.index('"score"'):
        assert critique.issues == READ.issues


@pytest.mark.parametrize(
    ("score", "read", "malformed"),
    [
        ("8", 8.0, False),
        ('"8/10"', 8.0, False),
        ('"4 out of 5"', 8.0, False),
        ('"7"', 7.0, False),
        ("7.5", 7.5, False),
        ("11", 10.0, True),
        ("-1", 0.0, True),
        ("1e999", None, True),
        ("NaN", None, True),
        ("null", None, True),
        ("true", None, True),
        ('"good"', None, True),
        ('"3/0"', None, True),
        ("[8]", None, True),
    ],
)
def test_scores_of_other_types_and_scales(score, read, malformed):
    critique = parse_critique(f'{{"issues": [], "score": {score}, "verdict": "revise"}}')
    assert (critique.score, critique.malformed) == (read, malformed)


def test_an_unknown_severity_is_minor_and_marks_the_critique():
    critique = parse_critique('{"issues": [{"severity": "cosmic", "text": "x y"}], "score": 9, "verdict": "accept"}')
    assert critique.issues == (Issue(severity="minor", text="x y"),)
    assert critique.malformed


def test_plain_prose_becomes_one_minor_note():
    assert parse_critique("The answer  is\nwrong.") == Critique(
        issues=(Issue(severity="minor", text="The answer is wrong."),), malformed=True
    )


def test_nothing_becomes_an_empty_malformed_critique():
    assert parse_critique(" \n") == Critique(malformed=True)


def test_a_sentence_that_goes_round_in_circles_is_kept_once():
    text = "It is wrong. " * 9 + "It is wro"
    critique = parse_critique(
        f'{{"score": 1, "verdict": "revise", "issues": [{{"severity": "major", "text": "{text}"}}]}}'
    )
    assert critique.issues[0].text == "It is wrong. It is wro"


def test_issues_are_limited_in_number_and_length_and_never_repeated():
    long = "word " * 100
    issues = [{"severity": "minor", "text": text} for text in ("a", "A", long, "b", "c")]
    critique = parse_critique(json.dumps({"issues": issues, "score": 1, "verdict": "revise"}))
    assert len(critique.issues) == MAX_ISSUES
    assert [issue.text for issue in critique.issues][::2] == ["a", "b"]
    assert critique.issues[1].text.endswith("word…")
    assert len(critique.issues[1].text) <= MAX_ISSUE_CHARS


@given(st.text(max_size=3_000))
def test_no_text_makes_the_parser_raise(text):
    critique = parse_critique(text)
    assert critique.score is None or 0 <= critique.score <= 10


@given(st.text(alphabet='{}[]":,\\ abissuescorevdt0189.-\n', max_size=400))
def test_no_near_json_makes_the_parser_raise(text):
    critique = parse_critique('{"issues": [' + text)
    assert all(len(issue.text) <= MAX_ISSUE_CHARS for issue in critique.issues)


@pytest.mark.parametrize("text", ["{" * 20_000, "[" * 20_000, '{"issues":' * 5_000, '{"score":' + "9" * 10_000 + "}"])
def test_deep_and_endless_json_is_survived(text):
    parse_critique(text)


@pytest.mark.parametrize(
    ("critique", "ends"),
    [
        (Critique(score=5.0, verdict="accept"), True),
        (Critique(score=1.0, verdict="accept"), False),
        (Critique(score=8, verdict="revise"), True),
        (Critique(issues=(Issue(severity="minor", text="x"),), score=8.0, verdict="revise"), True),
        (Critique(issues=(Issue(severity="major", text="x"),), score=9.0, verdict="revise"), False),
        (Critique(issues=(Issue(severity="critical", text="x"),), score=9.0, verdict="accept"), False),
        (Critique(score=7.9, verdict="revise"), False),
        (Critique(score=10.0, verdict="accept", malformed=True), False),
        (Critique(verdict="revise"), False),
    ],
)
def test_acceptance_is_decided_on_data(critique, ends):
    assert is_accepted(critique, 8.0) is ends


ANSWER = "The sky is blue because air scatters short waves of light more than long ones."


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The sky is blue because air scatters short waves", False),
        ("short waves of light more than", False),
        ("blue", False),
        ("...", False),
        ("The word scatters is not explained to a beginner.", True),
        ("It says 'air scatters short waves' but gives no source and no figures.", True),
        ("red", True),
    ],
)
def test_issues_that_only_repeat_the_answer_are_left_out(text, kept):
    critique = Critique(issues=(Issue(severity="major", text=text),), score=4.0, verdict="revise")
    assert bool(remove_echoes(critique, ANSWER, "Why?").issues) is kept


@given(st.text(max_size=200), st.text(max_size=200))
def test_leaving_out_echoes_takes_issues_away_and_nothing_else(issue, source):
    critique = Critique(issues=(Issue(severity="minor", text=issue),), score=4.0, verdict="revise")
    left = remove_echoes(critique, source)
    assert left == critique or left == Critique(score=4.0, verdict="revise")


@pytest.mark.parametrize(
    ("critique", "words"),
    [
        (Critique(score=1, verdict="accept"), ("Contradicts itself", "", "No specific issue named.")),
        (Critique(score=9, verdict="accept"), ("Accepts", "9 of 10", "No errors found.")),
        (Critique(score=2, verdict="revise"), ("Wants a revision", "2 of 10", "No specific issue named.")),
        (Critique(issues=(Issue("critical", "wrong"),), score=9, verdict="accept"), ("Contradicts itself", "", "")),
        (Critique(malformed=True), ("", "", "The critique could not be read.")),
    ],
)
def test_a_critique_is_summed_up_in_words_that_fit_together(critique, words):
    told = summarise(critique)
    assert (told.decision, told.score, told.nothing_named) == words


@pytest.mark.parametrize(
    ("critique", "says"),
    [
        (Critique(score=1, verdict="accept"), "scores it 1 of 10"),
        (Critique(issues=(Issue("critical", "wrong"),), score=9, verdict="accept"), "names a critical issue"),
        (Critique(score=9, verdict="accept"), None),
        (Critique(verdict="accept"), None),
        (Critique(score=1, verdict="revise"), None),
    ],
)
def test_a_critique_that_contradicts_itself_says_how(critique, says):
    told = find_contradiction(critique)
    assert told is None if says is None else says in told
