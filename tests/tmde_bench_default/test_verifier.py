"""The verifier compares by rule; what cannot be compared is no verdict."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_bench_default.checks.committed import find_number
from tmde_bench_default.checks.comparing import COMPARISONS, bare, inferred_check
from tmde_bench_default.checks.reading.folding import fold_signs
from tmde_bench_default.checks.reading.marks import final_part
from tmde_bench_default.checks.reading.numbers import parse_number, read_numbers
from tmde_bench_default.judges.verifier import VerifierJudge
from tmde_core.sdk.judges import JudgeItem
from tmde_core.testing.contracts import JudgeContract


class TestVerifierContract(JudgeContract):
    checks = True

    def judge(self):
        return VerifierJudge()


async def score(answer, reference, check=None):
    return (await VerifierJudge().score(JudgeItem(question="q", answer=answer, reference=reference, check=check))).score


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("It is 42.", 42),
        ("7 x 8 = 56.", 56),
        ("The answer is 42, because 6 times 7 is 42 and nothing else is 43", 42),
        ("Final answer: 6 x 7 = 42. (Not 48)", 42),
        ("**Answer:** 9\nSee page 12", 9),
        ("#### 12\n\nnote 5", 12),
        ("so \\boxed{13} for 2 reasons", 13),
        ("The answer is\n\n17", 17),
        ("1,234,567 apples", 1234567),
        ("12,5", "12.5"),
        ("-7", -7),
        ("x = −3", -3),
        ("from 3-5", None),
        ("- 5 apples", None),
        ("- 5 apples\n- 7 pears", None),
        ("$1,200.50", "1200.5"),
        ("3/4", "0.75"),
        ("5%", 5),
        ("1.5e3", 1500),
        (".5 of it", "0.5"),
        ("ten", 10),
        ("minus five", -5),
        ("Twenty-one", 21),
        ("42 is the one", 42),
        ("none of them", None),
        ("1/0", None),
        ("", None),
    ],
)
def test_the_final_number_of_an_answer(answer, number):
    found = find_number(answer)[0]
    assert (found and found.value) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("3.14159", "3.14", True),
        ("3.15", "3.14", False),
        ("42.0", "42", True),
        ("42.1", "42", False),
        ("-42", "42", False),
        ("0.333", "1/3", True),
        ("0.34", "1/3", False),
        ("50%", "50%", True),
        ("seven", "7", True),
        ("I do not know", "7", False),
    ],
)
async def test_numbers_agree_within_the_references_own_precision(answer, reference, right):
    assert await score(answer, reference, "number") == (10.0 if right else 0.0)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("B", "B", True),
        ("(b) because of A", "B", True),
        ("The answer is C.", "C", True),
        ("I think option D fits.", "D", True),
        ("A) no. The correct answer is: **B**", "b", True),
        ("B or C", "C", False),
        ("Yes, although some say no.", "yes", True),
        ("No. Yes would be wrong.", "yes", False),
        ("The sentiment is positive", "positive", True),
        ("Not sure", "yes", False),
    ],
)
async def test_choices(answer, reference, right):
    assert await score(answer, reference, "choice") == (10.0 if right else 0.0)


@pytest.mark.parametrize(
    ("answer", "reference", "check", "right"),
    [
        (" Paris. ", "paris", "exact", True),
        ("It is Paris", "paris", "exact", False),
        ("Thinking …\nFinal answer: Paris!", "paris", "exact", True),
        ("It is New  York, of course", "new york", "contains", True),
        ("newyork", "new york", "contains", False),
        ("Parisian", "Paris", "contains", False),
        ("order 66 now", r"\b66\b", "regex", True),
        ("order 666 now", r"\b66\b", "regex", False),
    ],
)
async def test_words(answer, reference, check, right):
    assert await score(answer, reference, check) == (10.0 if right else 0.0)


@pytest.mark.parametrize(
    ("reference", "check"),
    [("42", "number"), ("-3.5 %", "number"), ("B", "choice"), ("New York", "contains"), ("x " * 50, None)],
)
def test_the_check_is_inferred_from_the_reference(reference, check):
    assert inferred_check(reference.strip()) == check


@pytest.mark.parametrize(
    ("reference", "check"),
    [
        (None, "number"),
        ("  ", "exact"),
        ("many", "number"),
        ("a", "telepathy"),
        ("(", "regex"),
        ("x" * 501, "regex"),
        ("(a+)+(b+)+(c|a)*(a|aa|b)*$(?!a)x", "regex"),
        ("prose " * 30, None),
    ],
)
async def test_what_cannot_be_compared_is_no_verdict_and_never_zero(reference, check):
    verdict = await VerifierJudge().score(
        JudgeItem(question="q", answer="a" * 60 + "!", reference=reference, check=check)
    )
    assert verdict.score in {None, 0.0}
    if check != "regex" or len(reference) != 32:
        assert verdict.score is None
    assert verdict.reasons


async def test_a_pattern_that_runs_away_is_stopped():
    verdict = await VerifierJudge().score(
        JudgeItem(question="q", answer="a" * 5000 + "!", reference=r"^(?:(?:a|aa|.a)+)+$", check="regex")
    )
    assert verdict.score is None
    assert "simpler" in verdict.reasons[0]


@given(st.text(max_size=500), st.text(max_size=60))
def test_no_text_makes_a_check_raise(answer, reference):
    for compare in COMPARISONS.values():
        right, reason = compare(answer, reference)
        assert right in {None, False, True}
        assert reason
    bare(answer)
    final_part(fold_signs(answer))


@given(st.integers(-(10**12), 10**12))
def test_any_integer_written_any_way_is_found(number):
    for text in (
        f"It is {number}",
        f"{number:,}.",
        f"The answer is {number:,}, not more.",
        f"#### {number}",
        f"x = {number} in all",
    ):
        found = find_number(text)[0]
        assert found is not None
        assert found.value == number


@given(st.text(alphabet="0123456789.,-eE/ %$", max_size=40))
def test_number_like_text_never_raises(text):
    read_numbers(fold_signs(text))
    parse_number(fold_signs(text))
