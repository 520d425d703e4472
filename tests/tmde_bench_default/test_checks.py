"""Each kind of check: what it accepts, what it sees through, and which checks cannot work."""

import asyncio
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_bench_default.checks.committed import find_number
from tmde_bench_default.checks.deciding import problems, run_check
from tmde_bench_default.checks.forms import sentences, words
from tmde_bench_default.checks.options import find_option
from tmde_bench_default.checks.reading.folding import fold_signs
from tmde_bench_default.checks.sums import false_sum
from tmde_bench_default.judges.verifier import VerifierJudge
from tmde_core.sdk.judges import (
    ChoiceCheck,
    CodeCheck,
    CountCheck,
    Criterion,
    FactsCheck,
    FormCheck,
    JudgeItem,
    NumberCheck,
    RegexCheck,
)

FORTY_TWO = NumberCheck(value=42)


async def score(check, answer):
    return (await run_check(check, answer)).score


@pytest.mark.parametrize(
    "answer",
    [
        "42",
        "It is 42.",
        "**42**",
        "$\\boxed{42}$",
        "6 x 7 = 42",
        "42, not 48",
        "It is 42 and not 48.",
        "42\n\nBecause there are 6 rows of 7.",
        "The answer is 41. Wait, I made a mistake. The answer is 42.",
        "The answer is 42, because 6 times 7 is 42 and nothing else is.",
        "6 + 6 = 12, and 12 + 30 = 42",
        "84 / 2 = 42.0",
        "There is no doubt that it is 42.",
    ],
)
async def test_a_number_that_an_answer_commits_to(answer):
    assert await score(FORTY_TWO, answer) == 1


@pytest.mark.parametrize(
    "answer",
    [
        "It is not 42.",
        "It isn't 42.",
        "The answer is not 42.",
        "42 or 43",
        "It could be 40, 41 or 42.",
        "either 41 or 42",
        "between 40 and 42",
        "42 apples or maybe 43 apples",
        "40, 41, 42",
        "The answer is 42. The answer is 43.",
        "The answer is 43. The answer is 42.",
        "6 + 7 = 42",
        "6 times 7 = 42, and 2 + 2 = 5",
        "-42",
        "4.2",
        "420",
        "forty",
        "",
    ],
)
async def test_what_is_no_commitment_to_the_number(answer):
    assert await score(FORTY_TWO, answer) == 0


@pytest.mark.parametrize(
    ("answer", "number"),
    [("1 1/2", "1.5"), ("\\frac{3}{4}", "0.75"), ("1/2 + 1/4 = 3/4", "0.75"), ("−3", -3), ("1,200", 1200)],
)
def test_numbers_in_other_forms(answer, number):
    assert find_number(answer)[0].value == Decimal(number)


async def test_the_tolerance_is_absolute_and_as_it_is_written():
    assert await score(NumberCheck(value=0.1, tolerance=0.2), "0.3") == 1
    assert await score(NumberCheck(value=0.1, tolerance=0.2), "0.31") == 0


@pytest.mark.parametrize(
    ("text", "false"),
    [
        ("2 + 2 = 4", False),
        ("2 + 3 × 4 = 14", False),
        ("100 / 7 = 14.3", False),
        ("1,000 - 1 = 999", False),
        ("-5 + 8 = 3", False),
        ("x + 2 = 7", False),
        ("3x + 1 = 7", False),
        ("20% of 80 = 16", False),
        ("2^3 = 8", False),
        ("1 / 0 = 0", False),
        ("2 + 2 = 5", True),
        ("7 x 8 = 54", True),
        ("100 / 7 = 15", True),
        ("0.1 + 0.2 = 0.4", True),
    ],
)
def test_false_sums_are_seen(text, false):
    assert bool(false_sum(fold_signs(text))) is false


PLANETS = ("Mercury", "Venus", "Earth")


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("Mercury", "Mercury"),
        ("The planet is mercury.", "Mercury"),
        ("It isn't Venus, it's Mercury", "Mercury"),
        ("Mercury, not Venus", "Mercury"),
        ("**Mercury**: because Venus is farther", "Mercury"),
        ("I think Venus. The answer is Mercury.", "Mercury"),
        ("Mercury or Venus", None),
        ("Mercury, Venus, Earth", None),
        ("Mercury is closer than Venus", None),
        ("Not Mercury", None),
        ("Mercurial", None),
        ("", None),
    ],
)
def test_the_option_that_an_answer_commits_to(answer, option):
    assert find_option(answer, PLANETS)[0] == option


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(b) because of A", "B"),
        ("I think option D fits.", "D"),
        ("A) no. The correct answer is: **B**", "B"),
        ("B or C", None),
        ("B, C", None),
        ("A) one B) two C) three", None),
        ("A cat", None),
        ("not B", None),
    ],
)
def test_letters_as_options(answer, letter):
    assert find_option(answer, ("A", "B", "C", "D"))[0] == letter


@pytest.mark.parametrize(
    ("answer", "option"),
    [("Yes, although some say no.", "yes"), ("No. Yes would be wrong.", "no"), ("Yes and no", None), ("Perhaps", None)],
)
def test_yes_and_no(answer, option):
    assert find_option(answer, ("yes", "no"))[0] == option


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("Plants need Sunlight and WATER.", 1),
        ("Plants need sunlight.", 0.5),
        ("They do not need sunlight, but water.", 0.5),
        ("Sunlightless and waterproof", 0),
        ("They need the  sun's\nrays and water", 1),
        ("Not only water: sunlight too.", 1),
        ("Water and sunlight; plants eat soil.", 0),
        ("Water and sunlight; plants do not eat soil.", 1),
    ],
)
async def test_facts_are_whole_words_that_are_not_denied(answer, share):
    check = FactsCheck(facts=(("sunlight", "sun's rays"), ("water",)), forbidden=("eat soil",))
    assert await score(check, answer) == share


async def test_a_pattern_may_be_wanted_or_unwanted():
    assert await score(RegexCheck(pattern=r"\bb+\b"), "a BBB c") == 1
    assert await score(RegexCheck(pattern="b"), "a") == 0
    assert await score(RegexCheck(pattern="b", absent=True), "a") == 1
    assert await score(RegexCheck(pattern="b", absent=True), "b") == 0


async def test_a_pattern_that_runs_away_holds_up_nobody_and_is_no_verdict():
    hostile = asyncio.create_task(run_check(RegexCheck(pattern=r"^(?:(?:a|aa|.a)+)+$"), "a" * 5000 + "!"))
    assert await score(FORTY_TWO, "42") == 1
    outcome = await hostile
    assert outcome.score is None
    assert "simpler" in outcome.reason


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (CountCheck(of="words", minimum=2, maximum=3), "well-known isn't", "one"),
        (CountCheck(of="lines", minimum=2, maximum=2), "a\n\nb\n", "a b"),
        (CountCheck(of="sentences", minimum=2), "Dr. No came. He left!", "Mr. Smith came"),
        (CountCheck(of="characters", maximum=3), " abc ", "abcd"),
        (FormCheck(form="acrostic", value="cat"), "Come\n\n- all\n* Together", "Come\nall"),
        (FormCheck(form="must-use", value="red, big dog"), "A red, big dog.", "redbig dogs"),
        (FormCheck(form="starts-with", value="Dear Sam"), "**Dear Sam**, hi", "Dear Samuel"),
        (FormCheck(form="ends-with", value="the end"), "This is the end.", "The end is near"),
        (
            FormCheck(form="json", value='{"type": "array", "items": {"type": "integer"}}'),
            "```json\n[1, 2]\n```",
            "[1.5]",
        ),
        (FormCheck(form="json"), "{}", "Here: {}"),
        (FormCheck(form="list", value="2"), "Two:\n1. a\n2) b", "- a\n- b\n- c"),
        (FormCheck(form="no-letter", value="e"), "a wind", "thE wind"),
        (FormCheck(form="unique-words"), "no word twice", "The word the"),
        (FormCheck(form="no-letter", value="a"), "the wind", "the w\u0430nd"),  # a Cyrillic а is seen as an a
        (FormCheck(form="json"), "~~~json\n{}\n~~~", "~~~json\n{}\n```"),
        (CountCheck(of="words", minimum=1, maximum=1), "cafe\u0301", "cafe au"),
        (CountCheck(of="words", minimum=1, maximum=1), "हिन्दी", "हिन्दी भाषा"),
        (CountCheck(of="sentences", minimum=2, maximum=2), "我来。你去！", "我来。"),
    ],
)
async def test_lengths_and_forms(check, right, wrong):
    assert await score(check, right) == 1
    assert await score(check, wrong) < 1


@pytest.mark.parametrize(
    ("value", "schema", "right"),
    [
        ('{"a": 1}', {"required": ["a"], "properties": {"a": {"minimum": 1}}}, True),
        ('{"a": 0}', {"properties": {"a": {"minimum": 1}}}, False),
        ('{"b": 0}', {"additionalProperties": False}, False),
        ("true", {"const": 1}, False),
        ("1.0", {"type": "integer"}, True),
        ("[1, 1]", {"uniqueItems": True}, False),
        ("[]", {"type": ["array", "null"], "minItems": 1}, False),
        ('"ab"', {"enum": ["ab"], "maxLength": 2}, True),
        ("null", {"type": "string"}, False),
        ("[" * 5000 + "]" * 5000, {}, False),
    ],
)
async def test_json_of_a_shape(value, schema, right):
    check = FormCheck(form="json", value=json.dumps(schema))
    assert problems(Criterion(name="c", check=check)) == []
    assert await score(check, value) == right


EVERY = (
    FORTY_TWO,
    ChoiceCheck(answer="yes", options=("yes", "no")),
    FactsCheck(facts=(), forbidden=("x",)),
    RegexCheck(pattern="x", absent=True),
    CountCheck(of="words", maximum=10),
    CountCheck(of="sentences", maximum=10),
    FormCheck(form="acrostic", value="cat"),
    FormCheck(form="must-use", value="cat"),
    FormCheck(form="starts-with", value="cat"),
    FormCheck(form="ends-with", value="cat"),
    FormCheck(form="json", value='{"type": "object"}'),
    FormCheck(form="list", value="3"),
    FormCheck(form="no-letter", value="e"),
    FormCheck(form="unique-words"),
)


@pytest.mark.parametrize("check", EVERY, ids=str)
async def test_nothing_said_passes_no_check(check):
    assert problems(Criterion(name="c", check=check)) == []
    assert await score(check, "") == await score(check, " \n\t ") == 0


@given(st.text(max_size=300))
async def test_no_text_makes_a_check_raise(answer):
    for check in EVERY:
        assert 0 <= await score(check, answer) <= 1


@given(st.text(alphabet="0123456789.,-−+x*/= $%\\(){}\nor", max_size=80))
def test_text_that_looks_like_sums_never_raises(text):
    find_number(text)
    false_sum(fold_signs(text))


@given(st.text(max_size=200), st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=4))
def test_no_text_makes_a_choice_that_is_no_option(answer, options):
    assert find_option(answer, options)[0] in {None, *options}


@pytest.mark.timeout(120)  # with a pattern that takes the square of the length it was far longer
async def test_giant_answers_are_checked_too():
    for answer in ("a " * 60_000, "1, " * 60_000, "1+" * 60_000, "A) " * 60_000, "." * 120_000, "answer is " * 20_000):
        for check in EVERY:
            assert (await run_check(check, answer)).score is not None


@pytest.mark.parametrize(
    "check",
    [
        RegexCheck(pattern="("),
        RegexCheck(pattern=""),
        RegexCheck(pattern="x" * 501),
        CodeCheck(tests=()),
        CodeCheck(tests=("assert (",)),
        CodeCheck(tests=("f(1)",)),
        CodeCheck(tests=("assert f(1)",) * 51),
        CountCheck(of="words"),
        CountCheck(of="words", minimum=3, maximum=2),
        FormCheck(form="json", value="{"),
        FormCheck(form="json", value='{"type": "thing"}'),
        FormCheck(form="json", value='{"typo": 1}'),
        FormCheck(form="json", value='{"items": {"required": "a"}}'),
        FormCheck(form="acrostic", value="two words"),
        FormCheck(form="must-use", value=" , "),
        FormCheck(form="starts-with"),
        FormCheck(form="list", value="many"),
        FormCheck(form="list", value="0"),
        FormCheck(form="no-letter", value="ab"),
        FormCheck(form="unique-words", value="x"),
        ChoiceCheck(answer="a", options=("a",)),
        ChoiceCheck(answer="c", options=("a", "b")),
        ChoiceCheck(answer="a", options=("a", "A")),
        FactsCheck(facts=()),
        FactsCheck(facts=((),)),
        FactsCheck(facts=(("a",),), forbidden=("",)),
        NumberCheck(value=float("nan")),
    ],
    ids=str,
)
def test_a_check_that_cannot_work_is_named_in_a_sentence(check):
    found = problems(Criterion(name="c", check=check))
    assert found
    assert all(sentence[0].isupper() or sentence[0] in "'\"" for sentence in found)
    assert all(sentence.endswith(".") for sentence in found)


def test_a_criterion_for_the_judge_has_no_problems():
    assert problems(Criterion(name="style")) == []


async def test_the_verifier_decides_what_has_a_check_and_leaves_the_rest():
    criteria = (
        Criterion(name="number", weight=3, check=FORTY_TWO),
        Criterion(name="length", weight=1, check=CountCheck(of="words", minimum=5)),
        Criterion(name="style", weight=9, description="Reads well."),
        Criterion(name="broken", weight=9, check=RegexCheck(pattern="(")),
    )
    told = await VerifierJudge().score(JudgeItem(question="q", answer="42", criteria=criteria))
    assert told.criteria == {"number": 10, "length": 0}
    assert told.score == 7.5
    assert len(told.reasons) == 3
    assert told.reasons[2].startswith("broken: The pattern is not a valid")


async def test_the_verifier_has_no_verdict_where_nothing_can_be_checked():
    told = await VerifierJudge().score(JudgeItem(question="q", answer="42", criteria=(Criterion(name="style"),)))
    assert told.score is None
    assert told.criteria == {}
    assert told.reasons


def test_words_and_sentences():
    assert words("Don’t stop: it's well-known!") == ["don't", "stop", "it's", "well-known"]
    assert [sentences(text) for text in ("", "a", "A. B? C!", "3.14 is pi.", "Wait... what?")] == [0, 1, 3, 1, 2]
